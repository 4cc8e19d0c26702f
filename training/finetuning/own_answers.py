"""What a model says of a project's photos by the names that it was trained on, as general data.

Learning without forgetting (Li and Hoiem, ECCV 2016): where the data that a model comes from is not at hand,
its answers on the new photos stand in for it. They are kept in the storage, below ``answers/<version>/``, as
label maps that are named by their photo's pixels, so that each photo is asked about once.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ebseg.data.folder import read_values, to_indices
from ebseg.data.samples import LabelMap, Sample, Source
from ebseg.errors import DataError
from ebseg.files import locked
from ebseg.loading import load
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary
from training.finetuning.finetune import FinetuneConfig, General, Snapshot
from training.finetuning.folder import FinetuneFolder
from training.storage import Storage

FOLDER = "answers"
"""The folder of the answers in the storage."""

SURE = 0.6
"""Share of the scores from which a pixel's answer counts; others are not known (docs/finetuning.md)."""

ENOUGH = 0.8
"""Share of the pixels whose answers count from which agreement with them is a measure; docs/finetuning.md."""

REHEARSED = 200
"""Photos at most that a model is asked about to rehearse with; EBSeg-B takes 4 s for one on two cores."""


@dataclass(frozen=True)
class OwnAnswers:
    """Some photos of a project with a model's answers in place of people's: a Source itself.

    ``photos``: the project's. ``indices``: which of them. ``vocabulary``: the names that were asked for.
    ``folder``: of the answers, in the storage.
    """

    photos: Source
    indices: tuple[int, ...]
    vocabulary: Vocabulary
    storage: Storage
    folder: str

    @property
    def name(self) -> str:
        """What people know it by."""
        return f"{self.photos.name}, as the base names it"

    def __len__(self) -> int:
        """How many photos there are."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Read one. Raises what the photos raise, and DataError where there is no answer."""
        sample = self.photos[self.indices[index]]
        try:
            path = self.storage.local(self.key(sample))
        except FileNotFoundError as error:
            raise DataError(f"{sample.name}: the base was not asked about it") from error
        values = read_values(path, Path(sample.name), (sample.image.shape[0], sample.image.shape[1]))
        answer = to_indices(values, path, range(len(self.vocabulary)))
        return Sample(sample.name, sample.image, self._corrected(answer, sample.label_map))

    def measures(self) -> bool:
        """Tell whether the model was sure enough for agreement with it to say what another has forgotten.

        Of photos that are unlike all that it knows it says much that it does not mean. Raises what reading
        raises.
        """
        known = [(sample.label_map >= 0).mean() for sample in map(self.__getitem__, range(len(self)))]
        return bool(np.mean(known) >= ENOUGH)

    def _corrected(self, answer: LabelMap, people: LabelMap) -> LabelMap:
        """Believe people on the names that the project uses as well: both would be learnt by turns else."""
        same, said = self._same, people >= 0
        named = np.where(said, same[people], -1)
        contradicted = said & np.isin(answer, same[same >= 0])
        found: LabelMap = np.where(named >= 0, named, np.where(contradicted, -1, answer)).astype(np.int16)
        return found

    @cached_property
    def _same(self) -> npt.NDArray[np.int64]:
        """Which of the names is each of the project's labels, (L,); -1 for none."""
        seen = [self.vocabulary.seen_in(Vocabulary([label])) for label in self.photos.vocabulary.prompts]
        return np.array([each.index(True) if any(each) else -1 for each in seen])

    def fingerprint(self) -> str:
        """Name the content: the photos, which of them, and who was asked for what."""
        asked = f"{self.photos.fingerprint()} {self.indices} {self.folder} {self.vocabulary.to_json()}"
        return hashlib.sha256(asked.encode()).hexdigest()

    def key(self, sample: Sample) -> str:
        """Name the file of a photo's answer."""
        digest = hashlib.sha256(f"{sample.image.shape}\n".encode() + sample.image.tobytes()).hexdigest()
        return f"{self.folder}/{digest}.png"


def general_answers(
    teacher: str, snapshot: Snapshot, config: FinetuneConfig, storage: Storage, folder: FinetuneFolder
) -> General | None:
    """Ask a model, by its name, about a snapshot's photos: to rehearse with, and to measure on.

    Of several processes in the run's ``folder`` one asks, and the others read. None as in ``own_answers``.
    """
    with locked(folder.asking):
        model = load(teacher)
        train = own_answers(model, snapshot.train, REHEARSED, storage)
        held_out = own_answers(model, snapshot.held_out, config.general_photos, storage)
    if held_out is None:
        return None
    return General(train, held_out if held_out.measures() else None)


def own_answers(
    model: Predictor,
    photos: Source,
    most: int,
    storage: Storage,
    progress: Callable[[int], None] = lambda _done: None,
) -> OwnAnswers | None:
    """Ask a model about photos, ``most`` of them at most, by the names that it was trained on.

    What was asked before is not asked again. ``progress`` is called with the number of photos done. A photo
    that cannot be read is left out: whoever reads it next says so. None where nobody knows the names.
    """
    trained_on = model.net.training_vocabulary
    if trained_on is None:
        return None
    count = min(most, len(photos))
    indices = tuple(np.linspace(0, len(photos) - 1, count).round().astype(int).tolist())
    answers = OwnAnswers(photos, indices, trained_on.as_typed(), storage, f"{FOLDER}/{model.version}")
    for done, index in enumerate(indices, start=1):
        try:
            sample = photos[index]
        except DataError:
            continue
        if not storage.exists(answers.key(sample)):
            answer = model.predict(sample.image, answers.vocabulary, threshold=SURE).label_map
            storage.write(answers.key(sample), _png(answer))
        progress(done)
    return answers


def _png(label_map: LabelMap) -> bytes:
    """Write a label map (H, W) of up to 1,000 labels, the largest value where there is none."""
    values: npt.NDArray[np.uint16] = np.where(label_map < 0, np.iinfo(np.uint16).max, label_map).astype(
        np.uint16
    )
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    return content.getvalue()
