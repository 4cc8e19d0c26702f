"""Where the benchmarks' photos and label maps lie: as they were downloaded, and as they are read."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from ebseg.data.folder import FolderSource
from ebseg.data.samples import Sample
from ebseg.errors import ConfigError, DataError
from ebseg.vocabulary import Vocabulary

Split = Literal["train", "val"]
State = Literal["missing", "raw", "prepared"]

_VOC2010 = ("pcontext", "VOCdevkit/VOC2010", "VOC2010")
_VOC2012 = ("VOC2012", "VOCdevkit/VOC2012")
_COCO = ("coco/{}", "coco-stuff/images/{}")
_ADE150 = "ADEChallengeData2016/images/{}"


@dataclass(frozen=True)
class RawPart:
    """A part of a download: a folder or a file.

    ``name``: what it is to people. ``places``: where it may lie below the root that holds all data sets.
    ``origin``: where to get it. "{}" stands for the split in both.
    """

    name: str
    places: tuple[str, ...]
    origin: str

    def looked_for(self, root: Path, part: str) -> list[Path]:
        """List its places; ``part`` is the split's name in them."""
        return [root / place.format(part) for place in self.places]

    def find(self, root: Path, part: str) -> Path | None:
        """Give the first of its places that is there."""
        return next((path for path in self.looked_for(root, part) if path.exists()), None)


@dataclass(frozen=True)
class Benchmark:
    """One data set on disk.

    ``layouts``: pairs of folders, photos and label maps, below the root that holds all data sets; "{}" stands
    for the split. ``raw``: what preparing it reads; the last one tells which photos there are. ``terms``: a
    hint at the terms of use. ``train`` and ``val``: the splits' names in paths. ``copies_photos``: whether
    preparing it writes the photos too; else they stay where they were unpacked. ``train_images``: how many
    the official split has, where known.
    """

    name: str
    layouts: tuple[tuple[str, str], ...]
    raw: tuple[RawPart, ...]
    terms: str
    train: str = "train"
    val: str = "val"
    copies_photos: bool = False
    train_images: int | None = None

    def origin(self, split: Split) -> str:
        """Say what to download for a split, and where."""
        part = self.part(split)
        return "; ".join(dict.fromkeys(raw.origin.format(part) for raw in self.raw))

    def part(self, split: Split) -> str:
        """Give the split's name in paths. Raises ConfigError for a split that there is not."""
        if split not in ("train", "val"):
            raise ConfigError(f"no split named {split!r}; choose train or val")
        return self.train if split == "train" else self.val

    def images(self, split: Split) -> int | None:
        """Count the photos of the official split; None where that is not known."""
        return class_facts(self.name).validation_images if split == "val" else self.train_images

    def places(self, root: Path, split: Split) -> list[tuple[Path, Path]]:
        """List the pairs of folders, photos and label maps, that it may lie in."""
        part = self.part(split)
        return [(root / photos.format(part), root / maps.format(part)) for photos, maps in self.layouts]

    def missing(self, root: Path, split: Split) -> list[str]:
        """Say which raw parts are not there, where they were looked for and where they come from."""
        part = self.part(split)
        return [
            f"no {raw.name}: looked for {' or '.join(map(str, raw.looked_for(root, part)))}; "
            f"get {raw.origin.format(part)}"
            for raw in self.raw
            if raw.find(root, part) is None
        ]

    def state(self, root: Path, split: Split) -> State:
        """Say how far it is: its label maps are there, its raw files are, or neither."""
        if any(photos.is_dir() and holds_files(maps) for photos, maps in self.places(root, split)):
            return "prepared"
        return "missing" if self.missing(root, split) else "raw"


_VOC2010_PHOTOS = RawPart(
    "photos",
    tuple(f"{base}/JPEGImages" for base in _VOC2010),
    "VOCtrainval_03-May-2010.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2010",
)
_DETAIL = RawPart(
    "PASCAL in Detail annotations",
    tuple(f"{base}/trainval_merged.json" for base in _VOC2010),
    "trainval_merged.json of https://codalabuser.blob.core.windows.net/public (or web.archive.org's copy)",
)
_PASCAL_TERMS = "photos: Flickr's terms of use"
_ADE_TERMS = "research and education, not commercial"

# SAN's and EBSeg's names of folders, and those that the downloads unpack to; the label maps are those that
# the scripts of either write, or Mask2Former's.
BENCHMARKS = (
    Benchmark(
        "coco-stuff-171",
        (
            (_COCO[0], "coco/stuffthingmaps_detectron2/{}"),
            (_COCO[1], "coco-stuff/stuffthingmaps_detectron2/{}"),
        ),
        raw=(
            RawPart("photos", _COCO, "{}.zip of http://images.cocodataset.org/zips"),
            RawPart(
                "pixel maps",
                ("coco/stuffthingmaps/{}", "coco-stuff/stuffthingmaps/{}", "coco-stuff/annotations/{}"),
                "stuffthingmaps_trainval2017.zip of "
                "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset",
            ),
        ),
        terms="annotations: CC BY 4.0; photos: Flickr's terms of use",
        train="train2017",
        val="val2017",
        train_images=118_287,
    ),
    Benchmark(
        "voc-20",
        tuple((f"{base}/JPEGImages", f"{base}/annotations_detectron2/{{}}") for base in _VOC2012),
        raw=(
            RawPart(
                "photos",
                tuple(f"{base}/JPEGImages" for base in _VOC2012),
                "VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
            ),
            RawPart(
                "label maps",
                tuple(f"{base}/SegmentationClassAug" for base in _VOC2012),
                "SegmentationClassAug.zip of https://github.com/DrSleep/tensorflow-deeplab-resnet",
            ),
            RawPart(
                "list of photos",
                tuple(
                    f"{base}/{where}{{}}.txt"
                    for base in _VOC2012
                    for where in ("", "ImageSets/Segmentation/")
                ),
                "VOCtrainval_11-May-2012.tar (ImageSets/Segmentation/{}.txt in it)",
            ),
        ),
        terms=_PASCAL_TERMS,
    ),
    Benchmark(
        "pascal-context-59",
        (
            ("pcontext/{}/image", "pcontext/{}/label"),
            ("pcontext59-d2/{}/image", "pcontext59-d2/{}/label"),
        ),
        raw=(_VOC2010_PHOTOS, _DETAIL),
        terms=_PASCAL_TERMS,
        copies_photos=True,
    ),
    Benchmark(
        "pascal-context-459",
        (
            ("pcontext_full/{}/image", "pcontext_full/{}/label"),
            ("pcontext459-d2/{}/image", "pcontext459-d2/{}/label"),
        ),
        raw=(
            _VOC2010_PHOTOS,
            RawPart(
                "label maps (.mat)",
                tuple(f"{base}/trainval" for base in ("pcontext_full", *_VOC2010)),
                "trainval.tar.gz of https://cs.stanford.edu/~roozbeh/pascal-context",
            ),
            _DETAIL,
        ),
        terms=_PASCAL_TERMS,
        copies_photos=True,
    ),
    Benchmark(
        "ade20k-150",
        ((_ADE150, "ADEChallengeData2016/annotations_detectron2/{}"),),
        raw=tuple(
            RawPart(
                name,
                (place,),
                "ADEChallengeData2016.zip of http://data.csail.mit.edu/places/ADEchallenge",
            )
            for name, place in (
                ("photos", _ADE150),
                ("label maps", "ADEChallengeData2016/annotations/{}"),
            )
        ),
        terms=_ADE_TERMS,
        train="training",
        val="validation",
        train_images=20_210,
    ),
    Benchmark(
        "ade20k-847",
        (("ADE20K_2021_17_01/images_detectron2/{}", "ADE20K_2021_17_01/annotations_detectron2/{}"),),
        raw=(
            RawPart(
                "photos and label maps",
                ("ADE20K_2021_17_01/images/ADE/{}",),
                "ADE20K_2021_17_01 by the form at https://groups.csail.mit.edu/vision/datasets/ADE20K",
            ),
        ),
        terms=_ADE_TERMS,
        train="training",
        val="validation",
        copies_photos=True,
    ),
)
"""One row for each of ``ebseg.vocabulary.DATASETS``."""


@dataclass(frozen=True)
class ClassFacts:
    """What a benchmark's class list says beside the labels.

    ``ignore``: the value of unlabelled pixels in label maps. ``validation_images``: how many the official
    split has. ``raw_ids``: for each label its number in the raw annotations.
    """

    ignore: int
    validation_images: int
    raw_ids: tuple[int, ...]


@cache
def class_facts(name: str) -> ClassFacts:
    """Read a benchmark's class list, one of ``ebseg.vocabulary.DATASETS``."""
    content = json.loads(files("ebseg").joinpath("classes", f"{name}.json").read_text(encoding="utf-8"))
    consecutive = range(1, len(content["classes"]) + 1)
    raw_ids = tuple(content.get("raw_ids", consecutive))
    return ClassFacts(content["ignore"], content["validation_images"], raw_ids)


@dataclass(frozen=True)
class MissingDataset:
    """A benchmark that is not on disk, for the plan of a run: it has labels, and no photos that can be read.

    ``name`` says what is missing and where it comes from.
    """

    name: str
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Sample:
        """Raise DataError."""
        raise DataError(self.name)

    def fingerprint(self) -> str:
        """Raise DataError."""
        raise DataError(self.name)


def find_benchmark(name: str) -> Benchmark:
    """Look a benchmark up. Raises ConfigError for an unknown name."""
    benchmark = next((row for row in BENCHMARKS if row.name == name), None)
    if benchmark is None:
        known = ", ".join(row.name for row in BENCHMARKS)
        raise ConfigError(f"no data set named {name!r}; known: {known}")
    return benchmark


def open_dataset(name: str, root: Path, split: Split) -> FolderSource:
    """Open a benchmark's photos and prepared label maps.

    ``root`` holds all data sets' folders, such as ``coco`` or ``ADEChallengeData2016``; SAN's and EBSeg's
    names are looked for, in this order. Raises ConfigError for an unknown name or split, and DataError where
    the folders are missing or hold no pairs.
    """
    benchmark = find_benchmark(name)
    places = benchmark.places(root, split)
    for photos, label_maps in places:
        if photos.is_dir() and holds_files(label_maps):
            return FolderSource(photos, label_maps, Vocabulary.from_dataset(name), name=f"{name} {split}")
    looked = "; or ".join(f"photos in {photos}, label maps in {maps}" for photos, maps in places)
    raise DataError(
        f"{name} ({split}) is not in {root}. Looked for {looked}. Download {benchmark.origin(split)}; then "
        f"run `ebseg data prepare {name} --root {root} --split {split}`"
    )


def holds_files(folder: Path) -> bool:
    """Tell whether a folder is there and not empty; hidden files do not count."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
