"""Photos that cannot be had at once."""

import pytest

from ebseg.errors import FetchError, Unreachable
from training.annotations import photos as photos_module
from training.annotations.photos import PatientFetcher


class Busy:
    """Gives each photo after so many failures, by its address."""

    def __init__(self, **failures: int) -> None:
        self.failures, self.asked = failures, []

    def fetch(self, url: str, *, task_id: int) -> bytes:
        self.asked.append(url)
        if self.failures[url] > 0:
            self.failures[url] -= 1
            raise Unreachable(f"{url}: answered 500")
        if self.failures[url] < 0:
            raise FetchError(f"{url}: not found")
        return url.encode()


@pytest.fixture
def slept(monkeypatch):
    seconds = []
    monkeypatch.setattr(photos_module.time, "sleep", seconds.append)
    return seconds


def test_a_photo_is_asked_for_again_with_growing_pauses(slept):
    busy, waits = Busy(a=3, b=0, c=99), []
    patient = PatientFetcher(busy, lambda: waits.append(1), 60.0)
    assert patient.fetch("a", task_id=1) == b"a"
    assert (slept, len(waits)) == ([0, 1, 3], 3)
    assert patient.fetch("b", task_id=2) == b"b"
    with pytest.raises(Unreachable):
        patient.fetch("c", task_id=3)
    assert busy.asked.count("c") == 5


def test_patience_is_for_all_photos_together(slept):
    busy = Busy(a=99, b=99, c=99)
    patient = PatientFetcher(busy, lambda: None, 14.0)
    for url, tries in (("a", 5), ("b", 3), ("c", 2)):
        with pytest.raises(Unreachable):
            patient.fetch(url, task_id=1)
        assert busy.asked.count(url) == tries
    assert sum(slept) == 14


def test_what_is_wrong_with_a_photo_is_told_at_once(slept):
    busy = Busy(a=-1)
    with pytest.raises(FetchError):
        PatientFetcher(busy, lambda: pytest.fail("nobody is away"), 60.0).fetch("a", task_id=1)
    assert busy.asked == ["a"] and not slept


def test_where_label_studio_is_away_that_is_what_is_told(slept):
    def wait():
        raise RuntimeError("away")

    with pytest.raises(RuntimeError, match="away"):
        PatientFetcher(Busy(a=1), wait, 60.0).fetch("a", task_id=1)
