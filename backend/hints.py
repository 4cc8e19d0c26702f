"""What people could do better with their projects, told in the log and on the status page."""

import logging
import threading

logger = logging.getLogger(__name__)

MOST_HINTS = 20
"""Projects whose hints are kept: the last ones that called. They are other people's numbers."""


class Hints:
    """The last hint for each project; may be used by many threads."""

    def __init__(self) -> None:
        self._hints: dict[int, str] = {}
        self._lock = threading.Lock()

    def note(self, project: int | None, hint: str | None) -> None:
        """Take what was found out about a project, None where all is well; log what is new."""
        if project is None:
            return
        with self._lock:
            known = self._hints.pop(project, None)
            if hint:
                self._hints[project] = hint
            if len(self._hints) > MOST_HINTS:
                del self._hints[next(iter(self._hints))]
        if hint and hint != known:
            logger.warning("project %d: %s", project, hint)

    def all(self) -> dict[int, str]:
        """Give the hints by project."""
        with self._lock:
            return dict(self._hints)
