"""The service's own look at Label Studio: whether photos can be had there, and whose scores projects show."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from ebseg.errors import EBSegError, Refused
from training.annotations.label_studio import LabelStudioClient, LabelStudioUnavailable, NotInLabelStudio
from training.annotations.score_column import show_scores
from training.registry.registry import Registry
from training.settings import Settings

logger = logging.getLogger(__name__)

LEAST_SECONDS = 1.0
"""Between looks, however many requests ask for one."""

LOOK_SECONDS = 30.0
"""Between looks while all is well, and ..."""

TROUBLE_SECONDS = 5.0
"""... while something is wrong: who has mended it waits for that."""

FIRST_PAUSE = 1.0
"""Seconds until Label Studio has stored what it was answered, likely; each further pause is twice as long.

It calls amid what it stores: on SQLite, a change of the project then may fail that ("database is locked"),
and a client that repeats a failed call connects the model twice."""

MOST_TRIES = 8
"""For a version to be shown: four minutes. Then whoever calls next begins anew."""

SETTLED_SECONDS = 60.0
"""For which a project that shows the right scores is not looked at again."""

MOST_PROJECTS = 10_000
"""That are kept in mind: they come from strangers."""


@dataclass
class _Wish:
    """A version whose scores a project is to show. ``at``: when to see to it next, of time.monotonic()."""

    version: str
    tries: int = 0
    at: float = field(default_factory=lambda: time.monotonic() + FIRST_PAUSE)
    settled: bool = False


class LabelStudioWatch:
    """Looks at Label Studio in a thread of its own; no request waits for it. For many threads.

    ``connect`` makes the client, which should not be patient; ``ours`` lists the versions of the model that
    learns. ``trouble``: why nothing can be had from Label Studio, or None.
    """

    def __init__(self, connect: Callable[[], LabelStudioClient], ours: Callable[[], Collection[str]]) -> None:
        self.trouble: str | None = None
        self._connect, self._ours = connect, ours
        self._studio: LabelStudioClient | None = None
        self._wishes: dict[int, _Wish] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False

    @classmethod
    def of(cls, settings: Settings) -> "LabelStudioWatch":
        """Watch the Label Studio of the settings, whose token is set."""
        hasty = settings.model_copy(update={"patience": 0.0})
        return cls(partial(LabelStudioClient, hasty), Registry(settings).names)

    def start(self) -> None:
        """Begin to look; to be called once, in the process that serves."""
        threading.Thread(target=self._work, name="label-studio", daemon=True).start()

    def stop(self) -> None:
        """Look no more; see Service.stop."""
        self._stopped = True

    def look_now(self) -> None:
        """Look at once: somebody has just met trouble."""
        self._wake.set()

    def show(self, project: int, version: str, *, stored: bool = False) -> None:
        """Have a project show a version's scores; ``stored``: Label Studio is about to store predictions."""
        with self._lock:
            wish = self._wishes.get(project)
            if wish is None and len(self._wishes) >= MOST_PROJECTS:
                return
            if wish is None or wish.version != version or _is_stale(wish):
                self._wishes[project] = _Wish(version)
            elif stored and not wish.settled:
                wish.tries, wish.at = 0, time.monotonic() + FIRST_PAUSE
            else:
                return
        self._wake.set()

    def look(self) -> None:
        """Look once: whether the token is taken, then at the projects that are due."""
        self._look_at_the_server()
        if self.trouble is None:
            for project, wish in self._due():
                self._see_to(project, wish)

    def _work(self) -> None:
        while not self._stopped:
            self._wake.clear()
            self.look()
            time.sleep(LEAST_SECONDS)
            self._wake.wait(self._pause())

    def _pause(self) -> float:
        """Tell the seconds until the next look."""
        if self.trouble is not None:
            return TROUBLE_SECONDS
        with self._lock:
            due = [wish.at for wish in self._wishes.values() if not wish.settled]
        return max(0.0, min([LOOK_SECONDS, *(at - time.monotonic() for at in due)]))

    def _look_at_the_server(self) -> None:
        trouble: str | None = None
        try:
            self._client().user()
        except NotInLabelStudio as error:
            trouble = f"{error} If that is no Label Studio, correct LABEL_STUDIO_URL"
        except EBSegError as error:
            trouble = str(error)
        except Exception:  # whatever it is: the thread lives on, and requests say what is wrong with photos
            logger.exception("Label Studio cannot be looked at")
        if trouble != self.trouble:
            if trouble:
                logger.error("photos of Label Studio cannot be had: %s", trouble)
            else:
                logger.info("Label Studio answers again, and takes the token")
        self.trouble = trouble

    def _client(self) -> LabelStudioClient:
        if self._studio is None:
            self._studio = self._connect()
        return self._studio

    def _due(self) -> list[tuple[int, _Wish]]:
        now = time.monotonic()
        with self._lock:
            return [item for item in self._wishes.items() if not item[1].settled and item[1].at <= now]

    def _see_to(self, project: int, wish: _Wish) -> None:
        """Try to have a project show its version's scores."""
        try:
            studio = self._client()
            settled = show_scores(studio, studio.project(project), wish.version, self._ours)
        except NotInLabelStudio:
            settled = True
        except Refused as error:
            logger.warning("project %d does not show the scores of %s: %s", project, wish.version, error)
            settled = True
        except LabelStudioUnavailable:
            settled = False
        except Exception as error:  # the registry's, or what nobody foresaw: one project costs no other
            foreseen = isinstance(error, EBSegError)
            trace = None if foreseen else error
            logger.warning("project %d, scores of %s: %s", project, wish.version, error, exc_info=trace)
            settled = False
        self._note(project, wish, settled=settled)

    def _note(self, project: int, wish: _Wish, *, settled: bool) -> None:
        with self._lock:
            wish.settled = settled
            wish.at = time.monotonic() + FIRST_PAUSE * 2**wish.tries
            wish.tries += 1
            if not settled and wish.tries >= MOST_TRIES and self._wishes.get(project) is wish:
                del self._wishes[project]


def _is_stale(wish: _Wish) -> bool:
    """Tell whether a project was settled so long ago that it is looked at again."""
    return wish.settled and time.monotonic() > wish.at + SETTLED_SECONDS
