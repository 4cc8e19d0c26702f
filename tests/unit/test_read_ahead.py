import threading

import pytest

from ebseg.read_ahead import read_ahead

SECONDS = 30


class Reading:
    """Reads numbers; those in ``held`` wait until they are let go. ``begun``: which, in order."""

    def __init__(self, held=()):
        self.begun, self.held = [], {number: threading.Event() for number in held}
        self.reached = {number: threading.Event() for number in held}

    def __call__(self, number):
        self.begun.append(number)
        if number in self.held:
            self.reached[number].set()
            assert self.held[number].wait(SECONDS)
        return number * number


@pytest.mark.parametrize(("threads", "count"), [(1, 1), (1, 4), (3, 2), (3, 7), (8, 100)])
def test_items_come_in_order_with_what_they_become(threads, count):
    with read_ahead(Reading(), range(20), threads=threads, count=count) as items:
        assert [(item, future.result()) for item, future in items] == [(n, n * n) for n in range(20)]


def test_a_slow_item_is_waited_for_in_its_place():
    reading = Reading(held=[0])
    with read_ahead(reading, range(4), threads=2, count=4) as items:
        first, future = next(items)
        assert first == 0 and not future.done()
        reading.held[0].set()
        assert [future.result(), *(later.result() for _, later in items)] == [0, 1, 4, 9]


def test_only_so_many_are_begun_and_not_passed_on():
    reading, taken = Reading(), []

    def numbers():
        for number in range(30):
            taken.append(number)
            yield number

    with read_ahead(reading, numbers(), threads=8, count=3) as items:
        for passed_on, (_, future) in enumerate(items):
            future.result()
            assert len(reading.begun) <= len(taken) == min(passed_on + 3, 30)
    assert sorted(reading.begun) == list(range(30))


def test_an_error_is_its_items_alone():
    def read(number):
        return 1 // number

    with read_ahead(read, [1, 0, 1], threads=2, count=3) as items:
        (_, good), (_, bad), (_, last) = items
    assert (good.result(), last.result()) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        bad.result()


def test_at_the_end_what_is_being_read_is_waited_for_and_nothing_else_is_begun():
    reading, threads = Reading(held=[1]), set(threading.enumerate())
    with (
        pytest.raises(KeyboardInterrupt),
        read_ahead(reading, range(10), threads=1, count=5) as items,
    ):
        next(items)
        assert reading.reached[1].wait(SECONDS)
        threading.Timer(0.05, reading.held[1].set).start()
        raise KeyboardInterrupt
    assert reading.begun == [0, 1]
    assert reading.held[1].is_set()
    assert not {t for t in set(threading.enumerate()) - threads if not isinstance(t, threading.Timer)}


def test_the_end_need_not_wait():
    reading = Reading(held=[0])
    with read_ahead(reading, range(10), threads=1, count=5, wait=False) as items:
        _, future = next(items)
        assert reading.reached[0].wait(SECONDS)
    assert not future.done()  # and yet we are here
    reading.held[0].set()
    assert future.result(SECONDS) == 0
    assert reading.begun == [0]
