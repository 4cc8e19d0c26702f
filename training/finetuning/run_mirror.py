"""A copy of a run's newest checkpoint in the shared storage, so that any machine can go on with it."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebseg.config import TrainConfig
from ebseg.data.samples import Source
from ebseg.files import write_whole, write_whole_bytes
from ebseg.model import EBSeg
from ebseg.runs.folder import step_of
from ebseg.runs.watch import StepReport, Watcher
from training.finetuning.folder import TrainingFolder
from training.storage import Storage

_log = logging.getLogger(__name__)

NEWEST = "newest.json"
"""Which of the two places holds the newest complete set, and the small files of it."""

PLACES = ("a", "b")
CHECKPOINT = "checkpoint.pt"


class RunMirror(Watcher):
    """Keeps what a run in ``run`` needs to go on under ``key``, a folder of the storage.

    There are two places, each for a checkpoint and the best weights. The older one is overwritten, and then
    one small file says that it is the newest: a kill at any moment leaves a set that belongs together.

    As a watcher it comes before who measures the checkpoints: what it copies is a run that was stopped after
    a checkpoint and before its measuring, which a resumed run catches up on. A copy that fails is a warning;
    the run goes on, and the next checkpoint is copied again.
    """

    def __init__(self, storage: Storage, key: str, run: TrainingFolder) -> None:
        self._storage, self._key, self._run = storage, key, run

    def restore(self) -> None:
        """Bring the copy into the run's folder, where it is further than what is there.

        The checkpoint comes last: where a kill leaves it out, the next start does all of it again. Raises
        what the storage raises.
        """
        newest = self._newest()
        if newest is None or newest["step"] <= max(map(step_of, self._run.stored()), default=0):
            return
        if newest["best"]:
            self._fetch(newest["place"], self._run.best.name, self._run.best)
        for name, text in newest["texts"].items():
            write_whole(self._run.path / name, text)
        self._fetch(newest["place"], CHECKPOINT, self._run.checkpoints / newest["checkpoint"])
        _log.warning("Went on from the copy of step %d in %s", newest["step"], self._storage)

    def stored(self, net: EBSeg, step: int) -> None:
        """Copy the newest checkpoint."""
        try:
            self._copy()
        except Exception as error:  # botocore's, aiohttp's: of whatever the storage stands on
            reason = f"{type(error).__name__}: {error}"
            _log.warning("The checkpoint of step %d was not copied to %s: %s", step, self._storage, reason)

    def started(self, net: EBSeg, config: TrainConfig, sources: Sequence[Source], step: int) -> None:
        """Do nothing."""

    def stepped(self, progress: StepReport) -> None:
        """Do nothing."""

    def finished(self, path: Path) -> None:
        """Leave the copy: the weights are still to be chosen."""

    def failed(self, error: BaseException) -> None:
        """Leave the copy: the run may go on elsewhere."""

    def _copy(self) -> None:
        checkpoint, best = self._run.stored()[-1], self._run.best
        newest = self._newest()
        place = PLACES[1] if newest is not None and newest["place"] == PLACES[0] else PLACES[0]
        small = (self._run.measured, self._run.mlflow, self._run.log)
        texts = {path.name: path.read_text() for path in small if path.exists()}
        self._storage.upload(f"{self._key}/{place}/{CHECKPOINT}", checkpoint)
        if best.exists():
            self._storage.upload(f"{self._key}/{place}/{best.name}", best)
        content = {
            "step": step_of(checkpoint),
            "place": place,
            "checkpoint": checkpoint.name,
            "best": best.exists(),
            "texts": texts,
        }
        self._storage.write(f"{self._key}/{NEWEST}", json.dumps(content).encode())

    def _newest(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self._storage.read(f"{self._key}/{NEWEST}"))
        except FileNotFoundError:
            return None
        return found

    def _fetch(self, place: str, name: str, path: Path) -> None:
        # Not the storage's ``local``, which keeps copies of files that never change.
        write_whole_bytes(path, self._storage.read(f"{self._key}/{place}/{name}"))
