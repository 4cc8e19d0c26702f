"""The job that brings a project's memory of corrections up to date, seconds after a Submit."""

import logging
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ebseg.checkpoint import read_header
from ebseg.errors import DataError
from ebseg.label_studio.version import with_memory
from ebseg.predictor import Predictor
from training.annotations import snapshot
from training.annotations.entry import Entry
from training.annotations.label_studio import NotInLabelStudio
from training.annotations.manifest import Manifest, Part
from training.annotations.snapshot import SnapshotSource
from training.jobs.job import job
from training.kept_model import load
from training.loop import Loop, Result
from training.memory import files
from training.memory.choosing import MOST_BYTES, bytes_of_one, chosen, digest, samples_key
from training.memory.files import Header, StoredMemory, Worth
from training.memory.fitting import Fitted, fit, score
from training.memory.samples import Samples
from training.memory.sampling import sample
from training.queue.outcomes import Topic, tell
from training.queue.plans import submit_plan
from training.queue.projects import forget_project, require_the_services_model
from training.queue.remembering import begin, is_requested
from training.registry.version import Version
from training.selection import files as selection_files

TURN_SECONDS = 15.0
"""After which a memory is made of the photos that were encoded by then; the next turn takes the others."""

HELD_OUT_SHARE = 0.25
"""Of the bytes of samples, for photos that judge the memory."""

_log = logging.getLogger(__name__)

PARTS: tuple[Part, ...] = ("train", "held_out")

Keys = dict[str, Entry]
"""Photos that a memory is made of, or judged by, by the names of their samples."""


def remember(loop: Loop, project: int) -> Result:
    """Make the memory of the project's corrections for the model that serves it, as far as it is not made.

    It goes on while requests come and photos are left to be encoded.
    """
    require_the_services_model(loop.connection, loop.settings)
    remembering: _Remembering | None = None
    while True:
        begin(loop.connection, project)
        loop.progress.stage("reading annotations")
        try:
            found = snapshot.take(loop.studio(), loop.photos(), loop.storage, project, loop.settings)
        except NotInLabelStudio:
            forget_project(loop.connection, project)
            files.forget(loop.storage, project)
            selection_files.forget(loop.storage, project)
            return {"outcome": f"project {project} is not in Label Studio (any more)"}
        champion = loop.registry.ensure_base(project)
        if remembering is None or remembering.champion.name != champion.name:
            remembering = _Remembering(loop, champion)
        outcome, is_whole = remembering.turn(found)
        _tell(loop, project, outcome)
        if is_whole and not is_requested(loop.connection, project):
            if files.is_outgrown(loop.storage, project, champion.name):
                submit_plan(loop.connection, project, champion.name)
            return {"outcome": outcome}


def _tell(loop: Loop, project: int, outcome: str) -> None:
    """Tell people what the project's memory is worth, and under which name predictions carry it."""
    stored = files.find(loop.storage, project)
    if stored is not None:
        header = stored.header
        outcome = f"{with_memory(header.model, header.name)}: {header.in_words()}"
    tell(loop.connection, project, Topic.MEMORY, outcome)


class _Remembering:
    """Makes memories for one version of the model; ``champion``: it."""

    def __init__(self, loop: Loop, champion: Version) -> None:
        self.champion = champion
        self._loop, self._storage = loop, loop.storage
        self._checkpoint = loop.registry.checkpoint(champion)
        self._width = read_header(self._checkpoint)[0].decoder.width
        self._model: Predictor | None = None
        self._bad = set[str]()

    def turn(self, found: Manifest) -> tuple[str, bool]:
        """Make the memory of what was annotated; say what came of it, and whether all photos are in it."""
        project, names = found.project, found.vocabulary.names
        train, judges = self._chosen(found, "train"), self._chosen(found, "held_out")
        if len({entry.task for entry in judges.values()}) < self._loop.settings.min_held_out:
            judges = {}
        kept, wanted = files.stored_samples(self._storage, project), train | judges
        made_of = digest([self.champion.name, *train, *judges])
        before = files.find(self._storage, project)
        missing = {key: entry for key, entry in wanted.items() if key not in kept | self._bad}
        if before is not None and before.header.made_of == made_of and not missing:
            return f"nothing is new: {before.header.in_words()}", True
        whole = self._encode(found, missing)
        files.drop_samples(self._storage, project, kept - wanted.keys())
        samples = self._read(project, train)
        fitted = fit(samples, names, self.champion.name)
        if fitted is None:
            files.forget_memory(self._storage, project)
            return "fewer than two labels are corrected: nothing can be told apart", whole
        pixels = np.bincount(np.concatenate([each.labels for each in samples]), minlength=len(names))
        held_out = _worth(fitted, self._read(project, judges), names)
        stored = _stored(fitted, pixels[pixels > 0], held_out, made_of if whole else "")
        files.store(self._storage, project, stored)
        return stored.header.in_words(), whole

    def _chosen(self, found: Manifest, part: Part) -> Keys:
        """Choose photos of a part, by the names of their samples, the most wanted first."""
        share = HELD_OUT_SHARE if part == "held_out" else 1 - HELD_OUT_SHARE
        bytes_each = bytes_of_one(self._width, len(found.labels))
        entries = chosen(found.labelled(part), bytes_each, int(share * MOST_BYTES))
        return {samples_key(found, entry, self.champion.name): entry for entry in entries}

    def _encode(self, found: Manifest, missing: Keys) -> bool:
        """Take the samples of photos, as many as there is time for; tell whether those are all."""
        done = self._loop.progress.stage("remembering photos", len(missing))
        begun = time.monotonic()
        sources = {part: SnapshotSource(self._storage, found, part) for part in PARTS}
        for number, (key, entry) in enumerate(missing.items()):
            if time.monotonic() - begun > TURN_SECONDS:
                return False
            part: Part = "held_out" if entry.held_out else "train"
            try:
                photo = sources[part][found.part(part).index(entry)]
            except DataError as error:
                _log.warning("it is not remembered: %s", error)
                self._bad.add(key)
                continue
            taken = sample(
                self._predictor, self._predictor.encode(photo.image), photo.label_map, found.vocabulary
            )
            files.keep_samples(self._storage, found.project, key, taken)
            done(number + 1)
        return True

    @property
    def _predictor(self) -> Predictor:
        """The model, which is loaded when a photo is new to it."""
        if self._model is None:
            settings = self._loop.settings
            self._model = load(self._checkpoint, settings.device, settings.precision)
        return self._model

    def _read(self, project: int, keys: Keys) -> list[Samples]:
        """Read the samples that are there, in one order for ever; damaged ones are taken anew next time."""
        found = []
        for key in sorted(keys):
            try:
                found.append(files.read_samples(self._storage, project, key))
            except FileNotFoundError:
                continue
            except DataError as error:
                _log.warning("%s", error)
                files.drop_samples(self._storage, project, [key])
        return found


def _worth(fitted: Fitted, judges: list[Samples], names: Sequence[str]) -> Worth | None:
    if not judges:
        return None
    return Worth(len(judges), *score(fitted.memory, judges, names))


def _stored(
    fitted: Fitted, pixels: npt.NDArray[np.intp], held_out: Worth | None, made_of: str
) -> StoredMemory:
    """Say what a memory is; it is used where it counts for a label and the held-out photos do not object."""
    memory = fitted.memory
    header = Header(
        name=memory.name,
        model=memory.model,
        labels=memory.labels,
        share=tuple(memory.share.tolist()),
        pixels=tuple(pixels.tolist()),
        made_of=made_of,
        left_out=Worth(fitted.photos, fitted.text, fitted.remembered),
        held_out=held_out,
        used=bool(memory.share.any()) and (held_out is None or held_out.remembered >= held_out.text),
    )
    return StoredMemory(header, memory)


remember_project = job(remember)
