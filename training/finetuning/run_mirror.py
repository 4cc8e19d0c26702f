"""A copy of a run's newest checkpoint in the shared storage, so that any machine can go on with it."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebseg.files import write_whole
from ebseg.runs.state import FOLDER
from ebseg.runs.tracking import RUN_FILE
from ebseg.runs.watch import Progress, Watcher
from ebseg.train import LOG_FILE
from training.finetuning.finetune import BEST_FILE, MEASURED_FILE
from training.storage import Storage

if TYPE_CHECKING:
    from ebseg.config import TrainConfig
    from ebseg.data.samples import Source
    from ebseg.model import EBSeg

_log = logging.getLogger(__name__)

NEWEST = "newest.json"
"""Which of the two places holds the newest complete set, and the small files of it."""

PLACES = ("a", "b")
CHECKPOINT, BEST = "checkpoint.pt", BEST_FILE
TEXTS = (MEASURED_FILE, RUN_FILE, LOG_FILE)


class RunMirror(Watcher):
    """Keeps what a run in ``run`` needs to go on under ``key``, a folder of the storage.

    There are two places, each for a checkpoint and the best weights. The older one is overwritten, and then
    one small file says that it is the newest: a kill at any moment leaves a set that belongs together.

    As a watcher it comes before who measures the checkpoints: what it copies is a run that was stopped after
    a checkpoint and before its measuring, which a resumed run catches up on. A copy that fails is a warning;
    the run goes on, and the next checkpoint is copied again.
    """

    def __init__(self, storage: Storage, key: str, run: Path) -> None:
        self._storage, self._key, self._run = storage, key, run

    def restore(self) -> None:
        """Bring the copy into the run's folder, where it is further than what is there.

        The checkpoint comes last: where a kill leaves it out, the next start does all of it again. Raises
        what the storage raises.
        """
        newest = self._newest()
        if newest is None or newest["step"] <= max(map(_step, self._checkpoints()), default=0):
            return
        (self._run / FOLDER).mkdir(parents=True, exist_ok=True)
        if newest["best"]:
            self._fetch(newest["place"], BEST, self._run / BEST_FILE)
        for name, text in newest["texts"].items():
            write_whole(self._run / name, text)
        self._fetch(newest["place"], CHECKPOINT, self._run / FOLDER / newest["checkpoint"])
        _log.warning("Went on from the copy of step %d in %s", newest["step"], self._storage)

    def stored(self, net: "EBSeg", step: int) -> None:
        """Copy the newest checkpoint."""
        try:
            self._copy()
        except Exception as error:  # botocore's, aiohttp's: of whatever the storage stands on
            reason = f"{type(error).__name__}: {error}"
            _log.warning("The checkpoint of step %d was not copied to %s: %s", step, self._storage, reason)

    def started(self, net: "EBSeg", config: "TrainConfig", sources: Sequence["Source"], step: int) -> None:
        """Do nothing."""

    def stepped(self, progress: Progress) -> None:
        """Do nothing."""

    def finished(self, path: Path) -> None:
        """Leave the copy: the weights are still to be chosen."""

    def failed(self, error: BaseException) -> None:
        """Leave the copy: the run may go on elsewhere."""

    def _copy(self) -> None:
        checkpoint, best = self._checkpoints()[-1], self._run / BEST_FILE
        newest = self._newest()
        place = PLACES[1] if newest is not None and newest["place"] == PLACES[0] else PLACES[0]
        texts = {name: (self._run / name).read_text() for name in TEXTS if (self._run / name).exists()}
        self._storage.upload(f"{self._key}/{place}/{CHECKPOINT}", checkpoint)
        if best.exists():
            self._storage.upload(f"{self._key}/{place}/{BEST}", best)
        content = {
            "step": _step(checkpoint),
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
        unfinished = path.with_name(f"{path.name}.unfinished")
        # Not the storage's ``local``, which keeps copies of files that never change.
        unfinished.write_bytes(self._storage.read(f"{self._key}/{place}/{name}"))
        os.replace(unfinished, path)

    def _checkpoints(self) -> list[Path]:
        return sorted((self._run / FOLDER).glob("step-*.pt"))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))
