"""Where the benchmarks' photos and prepared label maps lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ebseg.data.folder import FolderSource
from ebseg.data.samples import Sample
from ebseg.errors import ConfigError, DataError
from ebseg.vocabulary import Vocabulary

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Benchmark:
    """One data set on disk.

    ``layouts``: pairs of folders, photos and label maps, below the root that holds all data sets; "{}" stands
    for the split. ``train`` and ``val``: the splits' names in these paths. ``origin``: where it comes from.
    """

    name: str
    layouts: tuple[tuple[str, str], ...]
    origin: str
    train: str = "train"
    val: str = "val"


# SAN's and EBSeg's names of folders; the label maps are those that the scripts of either write.
BENCHMARKS = (
    Benchmark(
        "coco-stuff-171",
        (
            ("coco/{}", "coco/stuffthingmaps_detectron2/{}"),
            ("coco-stuff/images/{}", "coco-stuff/stuffthingmaps_detectron2/{}"),
        ),
        origin="train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip of cocodataset.org",
        train="train2017",
        val="val2017",
    ),
    Benchmark(
        "voc-20",
        (("VOC2012/JPEGImages", "VOC2012/annotations_detectron2/{}"),),
        origin="PASCAL VOC 2012 of host.robots.ox.ac.uk and SegmentationClassAug",
    ),
    Benchmark(
        "pascal-context-59",
        (
            ("pcontext/{}/image", "pcontext/{}/label"),
            ("pcontext59-d2/{}/image", "pcontext59-d2/{}/label"),
        ),
        origin="PASCAL VOC 2010 of host.robots.ox.ac.uk and trainval_merged.json of PASCAL-Context",
    ),
    Benchmark(
        "pascal-context-459",
        (
            ("pcontext_full/{}/image", "pcontext_full/{}/label"),
            ("pcontext459-d2/{}/image", "pcontext459-d2/{}/label"),
        ),
        origin="PASCAL VOC 2010 of host.robots.ox.ac.uk and the 459-class trainval.tar.gz of PASCAL-Context",
    ),
    Benchmark(
        "ade20k-150",
        (("ADEChallengeData2016/images/{}", "ADEChallengeData2016/annotations_detectron2/{}"),),
        origin="ADEChallengeData2016.zip of MIT (for research)",
        train="training",
        val="validation",
    ),
    Benchmark(
        "ade20k-847",
        (("ADE20K_2021_17_01/images_detectron2/{}", "ADE20K_2021_17_01/annotations_detectron2/{}"),),
        origin="ADE20K_2021_17_01 of MIT, by their request form (for research)",
        train="training",
        val="validation",
    ),
)
"""One row for each of ``ebseg.vocabulary.DATASETS``."""


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


def open_dataset(name: str, root: Path, split: Split) -> FolderSource:
    """Open a benchmark's photos and prepared label maps.

    ``root`` holds all data sets' folders, such as ``coco`` or ``ADEChallengeData2016``; SAN's and EBSeg's
    names are looked for, in this order. Raises ConfigError for an unknown name or split, and DataError where
    the folders are missing or hold no pairs.
    """
    benchmark = next((row for row in BENCHMARKS if row.name == name), None)
    if benchmark is None:
        known = ", ".join(row.name for row in BENCHMARKS)
        raise ConfigError(f"no data set named {name!r}; known: {known}")
    if split not in ("train", "val"):
        raise ConfigError(f"no split named {split!r}; choose train or val")
    part = benchmark.train if split == "train" else benchmark.val
    places = [(root / photos.format(part), root / maps.format(part)) for photos, maps in benchmark.layouts]
    for photos, label_maps in places:
        if photos.is_dir() and label_maps.is_dir():
            return FolderSource(photos, label_maps, Vocabulary.from_dataset(name), name=f"{name} {split}")
    looked = "; or ".join(f"photos in {photos}, label maps in {maps}" for photos, maps in places)
    raise DataError(
        f"{name} ({split}) is not in {root}. Looked for {looked}. It comes from {benchmark.origin}; the "
        "label maps are those that SAN's or EBSeg's scripts in datasets/ write"
    )
