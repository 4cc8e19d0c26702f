"""Serve the champions of the model registry, whichever versions these are."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backend.metrics import Metrics, Swap
from backend.model_holder import ModelHolder, ModelUnavailable, load_warm
from backend.own_models import RETRY_SECONDS, ChampionRef, FailedSwap, OwnModels
from ebseg.errors import EBSegError, MlflowUnavailable
from ebseg.label_studio.pipeline import Model
from training.registry.registry import Registry
from training.settings import Settings

logger = logging.getLogger(__name__)

FIRST_ANSWER_SECONDS = 30.0
"""How long the start waits for the registry; importing MLflow alone may take ten."""


AskChampions = Callable[[], Mapping[int | None, ChampionRef]]
"""Tells the champions of projects that have their own, and, as None's, the base, once there is one.

Raises where the registry cannot be asked.
"""


class ChampionFollower:
    """Asks for the champions every ``seconds``, in a thread of its own, and has others served as they change.

    ``load`` makes a model of a checkpoint. A base that cannot be loaded or does not predict leaves the model
    that serves; it is tried again after RETRY_SECONDS, or when it becomes the base again. ``most``: models of
    projects in memory.

    ``own``: the models of projects that have their own champion. ``heard``: set once the registry has
    answered, or is not waited for any more. ``champion``: the base's name as last heard. ``outage``: why the
    registry cannot be asked, or has lost its base, or None. ``failed``: the last base that could not be
    served, or None.
    """

    def __init__(
        self, ask: AskChampions, load: Callable[[Path], Model], metrics: Metrics, seconds: float, most: int
    ) -> None:
        self.own = OwnModels(load, metrics, most)
        self.heard = threading.Event()
        self.champion: str | None = None
        self.outage: str | None = None
        self.failed: FailedSwap | None = None
        self._ask = ask
        self._load = load
        self._metrics = metrics
        self._seconds = seconds
        self._served: str | None = None
        self._retry_at = 0.0  # of time.monotonic()
        self._stopped = False

    def first_model(self, default: Callable[[], Model]) -> Model:
        """Load the champion, or else the default: with no champion, no registry, or a champion that fails."""
        champion = self._first_champion()
        self.heard.set()
        if champion is not None:
            try:
                return self._take(champion, load_warm)
            except ModelUnavailable:
                logger.warning("the service starts with the model of its settings instead")
        return default()

    def follow(self, holder: ModelHolder) -> threading.Thread:
        """Begin to follow, in the thread returned; to be called once, in the process that serves."""
        thread = threading.Thread(target=self._follow, args=(holder,), name="follower", daemon=True)
        thread.start()
        self.own.start(holder)
        return thread

    def stop(self) -> None:
        """Exchange no model any more; see Service.stop."""
        self._stopped = True

    def look(self, holder: ModelHolder) -> None:
        """Ask once, and have the champion served if it is another."""
        champion = self._hear()
        if champion is None or champion.name in (holder.version, self._served):
            return
        if time.monotonic() < self._retry_at:
            return
        try:
            self._take(champion, holder.replace)
        except ModelUnavailable:
            return  # told by _take
        self._metrics.swaps.labels(Swap.DONE).inc()

    def _follow(self, holder: ModelHolder) -> None:
        while not self._stopped:
            if holder.ready:  # else the first model is still being loaded
                self.look(holder)
            time.sleep(self._seconds)

    def _first_champion(self) -> ChampionRef | None:
        """Ask in a thread of its own: the service starts also if the registry does not answer."""
        found: Future[ChampionRef | None] = Future()
        threading.Thread(target=lambda: found.set_result(self._hear()), name="champion", daemon=True).start()
        try:
            return found.result(FIRST_ANSWER_SECONDS)
        except TimeoutError:
            logger.warning("the registry did not answer in %g s", FIRST_ANSWER_SECONDS)
            return None

    def _hear(self) -> ChampionRef | None:
        """Ask the registry; tell of an outage once, and of its end."""
        try:
            champions = self._ask()
            champion = champions.get(None)
            name = champion.name if champion is not None else None
            if name is None and self.champion is not None:  # none is taken back: it was deleted, or emptied
                raise MlflowUnavailable(
                    f"the registry has no champion any more, it was {self.champion}: restore MLflow's store, "
                    "or start the service anew"
                )
        except Exception as error:  # whatever it is: what serves goes on serving
            foreseen = isinstance(error, EBSegError)
            reason = str(error) if foreseen else f"{type(error).__name__}, see the service's log"
            if self.outage is None:
                trace = None if foreseen else error
                logger.warning("the registry cannot be asked for its champion: %s", reason, exc_info=trace)
            self.outage = reason
            return None
        if self.outage is not None:
            logger.info("the registry answers again")
            self.outage = None
        # Who went back to the base is served by that: it is not loaded once more.
        self.own.take_up(
            {
                project: each
                for project, each in champions.items()
                if project is not None and each.name != name
            }
        )
        if name != self.champion:
            self.champion, self._retry_at = name, 0.0
        return champion

    def _take(self, champion: ChampionRef, take: Callable[[Callable[[], Model], str], Model]) -> Model:
        """Have ``take`` load the champion. Raises ModelUnavailable, having noted it, if that fails."""
        try:
            model = take(lambda: self._load(champion.checkpoint()), champion.name)
        except ModelUnavailable as error:
            self.failed = FailedSwap.now(champion.name, error)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._metrics.swaps.labels(Swap.FAILED).inc()
            raise
        # Not the model's own version: should they differ, the same champion would be loaded again and again.
        self._served = champion.name
        return model


@dataclass(frozen=True)
class _RegistryVersion:
    name: str
    checkpoint: Callable[[], Path]


def registry_champions(settings: Settings) -> dict[int | None, ChampionRef]:
    """Tell the champions of MLflow's registry; looking creates nothing. Raises MlflowUnavailable.

    Those that come from another model than the settings' are none: who changes EBSEG_MODEL wants that.
    """
    registry = Registry(settings)
    return {
        project: _RegistryVersion(version.name, partial(registry.checkpoint, version))
        for project, version in registry.champions().items()
    }
