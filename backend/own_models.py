"""Models of projects that have a champion of their own: loaded when one is asked for, some kept in memory."""

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from backend.metrics import Metrics, Swap
from backend.model_holder import ModelHolder, ModelUnavailable, PinnedModel, load_explained, load_warm
from ebseg.label_studio.pipeline import Model

logger = logging.getLogger(__name__)

RETRY_SECONDS = 300.0
"""After which a champion that could not be served is tried again, if it still is the champion."""


class ChampionRef(Protocol):
    """A version of the registry's model."""

    @property
    def name(self) -> str:
        """The version that the model has when it is loaded."""

    def checkpoint(self) -> Path:
        """Give its file, fetched if need be."""


@dataclass(frozen=True)
class FailedSwap:
    """A champion that could not be served; ``at``: in UTC."""

    name: str
    reason: str
    at: datetime

    @classmethod
    def now(cls, name: str, error: ModelUnavailable) -> "FailedSwap":
        """Note a failure of this moment."""
        return cls(name, str(error), datetime.now(UTC))


@dataclass
class OwnChampion:
    """What a project is to be served.

    ``good``: what it was served last. ``failed``: the last one that could not be. ``retry_at``: when the
    champion may be tried again, of time.monotonic().
    """

    wanted: ChampionRef
    good: ChampionRef | None = None
    failed: FailedSwap | None = None
    retry_at: float = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the champion may be tried: it was not, or some time ago."""
        return time.monotonic() >= self.retry_at

    def choices(self) -> list[ChampionRef]:
        """List what may be loaded, the champion first; without any the base serves."""
        others = [self.good] if self.good is not None and self.good.name != self.wanted.name else []
        return [self.wanted, *others] if self.is_due else others


class OwnModels:
    """The models of projects that have a champion of their own, up to ``most`` in memory. For many threads.

    ``load`` makes a model of a checkpoint, in a thread of this object's, so that no other project's request
    waits for it. A champion that cannot be loaded or does not predict leaves its project what it was served
    last, else the base; it is tried again after RETRY_SECONDS, or when it becomes the champion again.
    """

    def __init__(self, load: Callable[[Path], Model], metrics: Metrics, most: int) -> None:
        self._load = load
        self._metrics = metrics
        self._most = most
        self._champions: dict[int, OwnChampion] = {}
        self._models: OrderedDict[int, PinnedModel] = OrderedDict()  # who was not asked longest comes first
        self._lock = threading.Lock()
        self._due: queue.SimpleQueue[tuple[int, PinnedModel]] = queue.SimpleQueue()

    def start(self, base: ModelHolder) -> None:
        """Begin to load what is asked for; to be called once, in the process that serves."""
        threading.Thread(target=self._work, args=(base,), name="own-models", daemon=True).start()

    def champions(self) -> dict[int, OwnChampion]:
        """List the projects that have a champion of their own."""
        with self._lock:
            return dict(sorted(self._champions.items()))

    def current(self, project: int | None, base: ModelHolder) -> PinnedModel:
        """Give the model that serves a project now, loaded or about to be; ``base`` serves all others."""
        with self._lock:
            champion = self._champions.get(project) if project is not None else None
            if project is None or champion is None:
                return base.current()
            if project not in self._models:
                if not (choices := champion.choices()):
                    return base.current()
                self._keep(project, base.pin(choices[0].name))
                self._due.put((project, self._models[project]))
            self._models.move_to_end(project)
            return self._models[project]

    def take_up(self, wanted: Mapping[int, ChampionRef]) -> None:
        """Hear which champions projects have; those that serve already are exchanged without a pause."""
        with self._lock:
            for project in self._champions.keys() - wanted.keys():  # they have none of their own any more
                del self._champions[project]
                self._models.pop(project, None)
            for project, ref in wanted.items():
                champion = self._champions.setdefault(project, OwnChampion(ref))
                if champion.wanted.name != ref.name:
                    champion.wanted, champion.retry_at = ref, 0.0
                model = self._models.get(project)
                if model and model.loaded.done() and model.name != ref.name and champion.is_due:
                    self._due.put((project, model))

    def _keep(self, project: int, model: PinnedModel) -> None:
        self._models[project] = model
        while len(self._models) > self._most:
            self._models.popitem(last=False)

    def _work(self, base: ModelHolder) -> None:
        wait([base.current().loaded])  # whose backbone the others share
        while True:
            self.load_next(base)

    def load_next(self, base: ModelHolder) -> None:
        """Wait for what is due, and see to it: a model that requests wait for, or another in one's place."""
        project, model = self._due.get()
        champion = self.champions().get(project)
        waiting = not model.loaded.done()
        if not waiting and self._models.get(project) is not model:
            return  # another took its place, or nobody asked for it any more
        for ref in champion.choices() if champion else ():
            if not waiting and ref.name == model.name:
                return  # it serves
            if champion and (found := self._try(ref, champion)) is not None:
                self._serve(project, model, base, ref.name, found)
                return
        if waiting:
            self._give_up(project, model, base.current())

    def _give_up(self, project: int, model: PinnedModel, base: PinnedModel) -> None:
        """Have those who wait for a model answered by the base, as those who ask from now on."""
        with self._lock:
            if self._models.get(project) is model:
                del self._models[project]
        model.name = base.name
        model.loaded.set_result(base.loaded.result())

    def _try(self, ref: ChampionRef, champion: OwnChampion) -> Model | None:
        """Load a model, and have it predict a first photo unless it has served before; None if that fails."""
        known = champion.good is not None and champion.good.name == ref.name
        try:
            found = (load_explained if known else load_warm)(lambda: self._load(ref.checkpoint()), ref.name)
        except ModelUnavailable as error:
            champion.failed, champion.retry_at = (
                FailedSwap.now(ref.name, error),
                time.monotonic() + RETRY_SECONDS,
            )
            champion.good = None if known else champion.good
            self._metrics.swaps.labels(Swap.FAILED).inc()
            return None
        champion.good = ref
        return found

    def _serve(self, project: int, model: PinnedModel, base: ModelHolder, name: str, found: Model) -> None:
        """Let a model serve, in the place of ``model`` unless that waits for it."""
        if not model.loaded.done():
            model.name = name
            model.loaded.set_result(found)
            return
        other = base.pin(name)
        other.loaded.set_result(found)
        with self._lock:
            if self._models.get(project) is model:
                self._models[project] = other
        self._metrics.swaps.labels(Swap.DONE).inc()
