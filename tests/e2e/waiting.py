"""Waiting for what other processes do."""

import time
from collections.abc import Callable

SHORTEST = 0.2
"""Seconds between two looks."""


def wait_until(condition: Callable[[], object], check: Callable[[], None]) -> None:
    """Look until the condition holds; after each look in vain ``check`` may give up.

    A look that starts a command keeps a core busy: most of the time is left to those who are waited for.
    """
    while True:
        started = time.monotonic()
        if condition():
            return
        check()
        time.sleep(max(SHORTEST, 4 * (time.monotonic() - started)))
