"""Projects' memories of corrections, as workers make them: read from the storage when they change."""

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from ebseg.ask import Memory
from training.memory import files
from training.settings import Settings
from training.storage import Storage

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between looks at the memories of projects that asked lately."""

LATELY_SECONDS = 600.0
"""Within which a project has asked lately."""

FIRST_SECONDS = 1.0
"""That a project's first question waits for its memory; Label Studio gives /setup three."""

MOST_PROJECTS = 500
"""That are followed, those that asked last: their numbers come from strangers."""


class Shelf(Protocol):
    """Where memories lie."""

    def stamp(self, project: int) -> str:
        """Give what changes with a project's memory."""

    def used(self, project: int) -> Memory | None:
        """Read it; None where there is none to be used."""


@dataclass(frozen=True)
class StoredMemories:
    """The memories in a storage."""

    storage: Storage

    def stamp(self, project: int) -> str:
        """Give what changes with a project's memory."""
        return files.stamp(self.storage, project)

    def used(self, project: int) -> Memory | None:
        """Read it; None where there is none to be used."""
        return files.used(self.storage, project)


@dataclass(eq=False)
class _Followed:
    """A project's memory as last read.

    ``asked``: when it was last asked for, of time.monotonic(). ``trouble``: why it cannot be read now.
    """

    asked: float
    memory: Memory | None = None
    stamp: str | None = None
    trouble: str = ""
    looked: threading.Event = field(default_factory=threading.Event)


class Memories:
    """Follows the memories of projects that ask, in a thread of its own. For many threads."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._followed: OrderedDict[int, _Followed] = OrderedDict()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False

    @classmethod
    def of(cls, settings: Settings) -> "Memories":
        """Follow those in the storage of the settings."""
        return cls(StoredMemories(Storage(settings.storage_url, settings.home / "cache")))

    def start(self) -> None:
        """Begin to look; to be called once, in the process that serves."""
        threading.Thread(target=self._work, name="memories", daemon=True).start()

    def stop(self) -> None:
        """Look no more; see Service.stop."""
        self._stopped = True

    def find(self, project: int | None) -> Memory | None:
        """Give a project's memory, and follow it from now on.

        It is waited for, a little, where nobody has asked for it lately.
        """
        if project is None:
            return None
        with self._lock:
            followed = self._ask(project, time.monotonic())
        if not followed.looked.is_set():
            self._wake.set()
            followed.looked.wait(FIRST_SECONDS)
        return followed.memory

    def known(self) -> dict[int, Memory]:
        """Give the memories of projects that asked lately, for who looks at the page."""
        with self._lock:
            return {
                project: followed.memory
                for project, followed in self._followed.items()
                if followed.memory is not None
            }

    def look(self) -> None:
        """Look once at the memories of all projects that asked lately."""
        since = time.monotonic() - LATELY_SECONDS
        with self._lock:
            due = [item for item in self._followed.items() if item[1].asked >= since]
        for project, followed in due:
            self._look_at(project, followed)

    def _ask(self, project: int, now: float) -> _Followed:
        followed = self._followed.setdefault(project, _Followed(now))
        self._followed.move_to_end(project)
        if followed.asked < now - LATELY_SECONDS:
            followed.looked.clear()
        followed.asked = now
        if len(self._followed) > MOST_PROJECTS:
            self._followed.popitem(last=False)
        return followed

    def _look_at(self, project: int, followed: _Followed) -> None:
        try:
            stamp = self._shelf.stamp(project)
            if stamp != followed.stamp:
                followed.memory = self._shelf.used(project)
                followed.stamp = stamp
                if followed.memory is not None:
                    logger.info("project %d has the memory %s", project, followed.memory.name)
            followed.trouble = ""
        except Exception as error:  # whatever it is: what is known goes on being used
            if str(error) != followed.trouble:  # told once, not at each look
                logger.warning("the memory of project %d cannot be read: %s", project, error)
            followed.trouble = str(error)
        followed.looked.set()

    def _work(self) -> None:
        while not self._stopped:
            self._wake.clear()
            self.look()
            self._wake.wait(LOOK_SECONDS)
