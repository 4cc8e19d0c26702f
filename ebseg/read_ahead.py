"""Read ahead of whoever works on what is read."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], *, threads: int, count: int, wait: bool = True
) -> Iterator[Iterator[tuple[Item, Future[Result]]]]:
    """Call ``read`` for each item in threads; give an iterator of the items, in order, with what they become.

    At most ``count`` items are begun and not passed on, with the one that is being worked on counted. What
    ``read`` raises is raised by its item's future. At the end what is not begun never is, and what is being
    read is waited for, unless ``wait`` is false.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    try:
        yield _begun(pool, read, items, count)
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)


def _begun(
    pool: ThreadPoolExecutor, read: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[tuple[Item, Future[Result]]]:
    begun: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        begun.append((item, pool.submit(read, item)))
        if len(begun) == count:
            yield begun.popleft()
    yield from begun
