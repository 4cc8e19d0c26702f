"""Workers that end when the process they work for was killed: they would wait for its next order for ever."""

import os
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """Have this process of multiprocessing end as soon as its parent has, also if it has by now."""
    threading.Thread(target=_wait_and_end, name="end with parent", daemon=True).start()


def _wait_and_end() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)
