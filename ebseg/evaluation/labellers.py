"""What can be measured: a model, or label maps that any system has saved.

K labels; H x W: a photo's size.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ebseg.config import ModelConfig
from ebseg.data.coco import LabelMapReaders, load_stuff
from ebseg.data.folder import LABEL_SUFFIXES, FolderSource, list_files, read_values
from ebseg.data.samples import LabelMap, Sample, Source
from ebseg.errors import DataError
from ebseg.evaluation.tta import score_strips as augmented_score_strips
from ebseg.evaluation.tta import view_sizes
from ebseg.file_names import one_form
from ebseg.predictor import Predictor, best_labels, resize_shortest_edge
from ebseg.scores import Contest, contests
from ebseg.vocabulary import Vocabulary

T = TypeVar("T")


class Labeller(Protocol[T]):
    """Labels every pixel of photos, in parts: reading need not wait for the model, and each can be timed."""

    @property
    def name(self) -> str:
        """What people know it by; equal for equal label maps."""

    @property
    def seen(self) -> tuple[bool, ...]:
        """Of each label: whether the system was trained on it."""

    @property
    def protocol(self) -> dict[str, Any]:
        """How photos are labelled, as JSON may hold it."""

    @property
    def config(self) -> ModelConfig | None:
        """The model's configuration; None where the system is not known."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def start(self) -> None:
        """Do what is done once, before the first photo."""

    def prepare(self, sample: Sample) -> T:
        """Do what needs no model; called by several threads.

        Raises DataError, which names the file, for what cannot be read.
        """

    def infer(self, prepared: T) -> Callable[[], LabelMap]:
        """Run the network on what was prepared; called by one thread.

        What it returns, called once and by the same thread, gives the label map (H, W), -1 for "none".
        """


@dataclass(frozen=True, eq=False)
class Views:
    """A photo at the sizes that the model looks at, (h, w, 3) uint8 RGB; ``size``: its own (H, W)."""

    images: tuple[npt.NDArray[np.uint8], ...]
    size: tuple[int, int]


class ModelLabeller:
    """A model as the benchmarks run it: each pixel gets its best label, with no threshold.

    ``augment``: test-time augmentation, see ``ebseg.evaluation.tta``.
    """

    def __init__(self, predictor: Predictor, vocabulary: Vocabulary, *, augment: bool = False) -> None:
        self.config: ModelConfig = predictor.config
        self.device = predictor.device
        self.name = predictor.version
        self.seen = predictor.net.seen(vocabulary)
        self._net, self._texts = predictor.net, predictor.texts
        self._vocabulary = vocabulary
        self._augment = augment
        own_size = (self.config.test_size, self.config.test_max_size)
        self._sizes = view_sizes(self.config) if augment else (own_size,)

    @property
    def protocol(self) -> dict[str, Any]:
        """The sizes of the views in pixels, and whether each is also mirrored."""
        return {
            "short_edges": [size for size, _ in self._sizes],
            "longest_edge": self._sizes[0][1],
            "mirrored": self._augment,
            "tta": self._augment,
        }

    def start(self) -> None:
        """Encode the labels' names, or take them from the cache on disk."""
        self._texts(self._vocabulary)

    def prepare(self, sample: Sample) -> Views:
        """Resize a photo."""
        images = tuple(resize_shortest_edge(sample.image, *size) for size in self._sizes)
        return Views(images, (sample.image.shape[0], sample.image.shape[1]))

    @torch.inference_mode()
    def infer(self, prepared: Views) -> Callable[[], LabelMap]:
        """Find masks and their classes; what it returns scores the pixels by them."""
        images = [
            torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() for image in prepared.images
        ]
        text = self._texts(self._vocabulary)
        if self._augment:
            scored = augmented_score_strips(self._net, images, self._vocabulary, prepared.size, text=text)
            strips: Iterator[Contest] = (Contest.of_all(scores) for scores in scored)
        else:
            encoded = self._net.encode(images)
            classes = self._net.classify(encoded, self._vocabulary, text=text)[0]
            strips = contests(encoded.resizable(), classes, prepared.size)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else the scores would be charged with the network's time
        return partial(_best, strips)


@torch.inference_mode()
def _best(strips: Iterator[Contest]) -> LabelMap:
    """Choose each pixel's best label, strip by strip."""
    chosen = [best_labels(strip, threshold=0.0)[0] for strip in strips]
    label_map: LabelMap = torch.cat(chosen).cpu().numpy()
    return label_map


class SavedLabeller:
    """Label maps that any system has saved for the photos of ``source``.

    ``path``: a folder of indexed PNGs or TIFFs, 255 (65535 in 16 bits) unlabelled, or JSON of COCO's masks.
    A photo ``a/b.jpg`` has ``a/b.png``, or ``b.png`` where no other photo of the source is called b.
    ``seen`` is by COCO-Stuff, which the systems of the field are trained on.

    Raises DataError for a JSON file that cannot be read, or a folder that is missing.
    """

    config = None
    device = torch.device("cpu")

    def __init__(self, path: Path, source: Source) -> None:
        self.name = f"predictions in {path}"
        self.seen = source.vocabulary.seen_in(Vocabulary.from_dataset("coco-stuff-171"))
        self.protocol: dict[str, Any] = {"predictions": str(path), "tta": None}
        self._path = path
        self._labels = len(source.vocabulary)
        self._photos: Path | None = None
        self._repeated: set[str] = set()
        if isinstance(source, FolderSource):
            self._photos = source.photos
            stems = Counter(one_form(PurePath(name).stem) for name in source.names)
            self._repeated = {stem for stem, count in stems.items() if count > 1}
        self._readers: LabelMapReaders = {}
        self._files: dict[str, str] = {}
        if path.suffix.lower() == ".json":
            self._readers = load_stuff(path, self._labels)
        elif path.is_dir():
            self._files = _label_maps(path)
        else:
            raise DataError(f"{path} is neither a folder of label maps nor a COCO JSON file; check the path")

    def start(self) -> None:
        """Do nothing: the label maps are there."""

    def prepare(self, sample: Sample) -> LabelMap:
        """Read a photo's label map. Raises DataError where it is missing, damaged or of another size."""
        for key in self._keys(sample.name):
            if key in self._files:
                return self._from_folder(key, sample)
            if key in self._readers:
                return self._from_coco(key, sample)
        raise DataError(f"{self._path} has no prediction for {sample.name}")

    def infer(self, prepared: LabelMap) -> Callable[[], LabelMap]:
        """Hand over what was read."""
        return lambda: prepared

    def _keys(self, photo: str) -> Iterator[str]:
        """Give what a photo's label map may be called, without ending."""
        path = PurePath(photo)
        if self._photos is not None:
            path = path.relative_to(self._photos)
        path = PurePath(one_form(str(path)))
        yield path.with_suffix("").as_posix()
        if path.stem not in self._repeated:
            yield path.stem

    def _from_coco(self, key: str, sample: Sample) -> LabelMap:
        label_map = self._readers[key]()
        if label_map.shape != sample.label_map.shape:
            (height, width), (rows, columns) = label_map.shape, sample.label_map.shape
            raise DataError(
                f"{self._path}: {width} x {height} pixels for {key}, but its photo {sample.name} has "
                f"{columns} x {rows}"
            )
        return label_map

    def _from_folder(self, key: str, sample: Sample) -> LabelMap:
        file = self._path / self._files[key]
        height, width = sample.label_map.shape
        values = read_values(file, Path(sample.name), (height, width))
        label_map = np.where(values == np.iinfo(values.dtype).max, -1, values.astype(np.int32))
        if label_map.max() >= self._labels:
            raise DataError(
                f"{file}: value {label_map.max()} is none of the {self._labels} labels (0 to "
                f"{self._labels - 1}); values start at 0; give the data set that it was predicted for"
            )
        return label_map.astype(np.int16)


def _label_maps(folder: Path) -> dict[str, str]:
    """Find saved label maps, by their paths without suffix in one Unicode form; a PNG comes before a TIFF."""
    found: dict[str, str] = {}
    for file in sorted(list_files(folder, LABEL_SUFFIXES), key=lambda file: PurePath(file).suffix.lower()):
        found.setdefault(one_form(PurePath(file).with_suffix("").as_posix()), file)
    return found
