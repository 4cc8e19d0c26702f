"""Small downloads in the benchmarks' true raw formats, and what must come of them, worked out apart."""

import json
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.io
from PIL import Image
from pycocotools import mask as coco_mask

from ebseg.data.catalogue import class_facts

Truth = dict[str, npt.NDArray[np.int64]]
"""For each photo's name without ending its label map, -1 unlabelled."""

NOT_IN_COCO_STUFF = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}

# As published, in their order.
CONTEXT_IDS = """0 2 259 260 415 324 9 258 144 18 19 22 23 397 25 284 158 159 416 33 162 420 454 295 296
427 44 45 46 308 59 440 445 31 232 65 354 424 68 326 72 458 34 207 80 355 85 347 220 349 360 98 187 104 105
366 189 368 113 115"""


def save_photo(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(path, quality=95)


def save_png(path: Path, values: npt.NDArray[np.uint8], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        assert image.mode == "P"
    image.save(path, compress_level=0)  # most is random, which gets no smaller


def coco_stuff(root: Path, photos: str = "coco/val2017", maps: str = "coco/stuffthingmaps/val2017") -> Truth:
    """Three photos; the third has no label of the 171 anywhere."""
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    some = np.random.default_rng(1).integers(0, 182, (9, 7), np.uint8)
    none = np.resize(np.array([255, 11, 65, 90, 200], np.uint8), (5, 6))
    table = {}
    for value in range(182):
        if value not in NOT_IN_COCO_STUFF:
            table[value] = len(table)
    truth = {}
    for stem, values in (("000000000139", every), ("000000000285", some), ("000000000632", none)):
        save_photo(root / photos / f"{stem}.jpg", *values.shape)
        save_png(root / maps / f"{stem}.png", values)
        if stem != "000000000632":
            truth[stem] = np.array([[table.get(int(value), -1) for value in row] for row in values])
    return truth


def voc(root: Path, base: str = "VOC2012", names: str = "val.txt") -> Truth:
    """Two listed photos among more photos and label maps; one label map has a palette."""
    values = {
        "2007_000033": np.array([[0, 1, 2, 255], [19, 20, 0, 7]], np.uint8),
        "2007_000042": np.random.default_rng(2).integers(0, 21, (6, 5), np.uint8),
        "2007_000032": np.ones((3, 3), np.uint8),
    }
    for number, (stem, raw) in enumerate(values.items()):
        save_photo(root / base / f"JPEGImages/{stem}.jpg", *raw.shape)
        save_png(root / base / f"SegmentationClassAug/{stem}.png", raw, palette=number == 0)
    save_photo(root / base / "JPEGImages/2012_004331.jpg", 4, 4)
    (root / base / names).parent.mkdir(parents=True, exist_ok=True)
    (root / base / names).write_text("2007_000033\n2007_000042\n")
    listed = ("2007_000033", "2007_000042")
    return {stem: np.where(values[stem] % 255 == 0, -1, values[stem].astype(int) - 1) for stem in listed}


def detail(root: Path, base: str = "pcontext") -> Truth:
    """Two validation photos, with overlapping masks and without any, and one of the training split."""
    ids = sorted(map(int, CONTEXT_IDS.split()))
    boxes = {  # category, top, bottom, left, right
        2008000002: [(category, row, row + 1, 0, 9) for row, category in enumerate(ids[1:])]
        + [(284, 3, 20, 2, 6), (2, 10, 12, 0, 9)],
        2008000003: [],
        2008000007: [(18, 0, 4, 0, 4)],
    }
    sizes = {2008000002: (62, 9), 2008000003: (5, 4), 2008000007: (6, 6)}
    images, masks, truth = [], [], {}
    for number, (height, width) in sizes.items():
        stem = f"2008_{number % 1000000:06d}"
        phase = "train" if number == 2008000007 else "val"
        images.append({"image_id": number, "file_name": f"{stem}.jpg", "phase": phase,
                       "height": height, "width": width})  # fmt: skip
        save_photo(root / base / f"JPEGImages/{stem}.jpg", height, width)
        label_map = np.full((height, width), -1)
        for category, top, bottom, left, right in boxes[number]:
            mask = np.zeros((height, width), np.uint8, order="F")
            mask[top:bottom, left:right] = 1
            code = coco_mask.encode(mask)
            masks.append({"id": len(masks) + 1, "image_id": number, "category_id": category, "iscrowd": 0,
                          "segmentation": {"size": [height, width], "counts": code["counts"].decode()},
                          "parts": []})  # fmt: skip
            label_map[top:bottom, left:right] = ids.index(category) - 1
        if phase == "val":
            truth[stem] = label_map
    content = {"images": images, "annos_segmentation": masks, "categories": [], "parts": []}
    (root / base / "trainval_merged.json").write_text(json.dumps(content))
    return truth


def context_full(root: Path, base: str = "pcontext") -> Truth:
    """The photos of ``detail`` with .mat files; the first has all 459 classes, 0 among them."""
    shapes = {stem: label_map.shape for stem, label_map in detail(root, base).items()}
    (root / base / "trainval").mkdir()
    truth = {}
    for stem, shape in shapes.items():
        values = np.resize(np.arange(460, dtype=np.uint16), shape)
        scipy.io.savemat(root / base / f"trainval/{stem}.mat", {"LabelMap": values})
        truth[stem] = values.astype(int) - 1
    return truth


def ade(root: Path) -> Truth:
    """Two photos, one with all of 0 to 150."""
    base = root / "ADEChallengeData2016"
    values = {
        "ADE_val_00000001": np.arange(151, dtype=np.uint8)[None].repeat(2, axis=0),
        "ADE_val_00000002": np.random.default_rng(3).integers(0, 151, (7, 5), np.uint8),
    }
    for stem, raw in values.items():
        save_photo(base / f"images/validation/{stem}.jpg", *raw.shape)
        save_png(base / f"annotations/validation/{stem}.png", raw)
    return {stem: raw.astype(int) - 1 for stem, raw in values.items()}


class Bomb:
    """Leaves a trace where its pickle is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def full_ade(root: Path) -> Truth:
    """Photos to be shrunk, wide and high, one just not, in folders of scenes; the index is a trap."""
    base = root / "ADE20K_2021_17_01"
    ids = class_facts("ade20k-847").raw_ids
    scenes = {
        "urban/street/ADE_val_00000001": (600, 801, 512, 684),  # 801 / 600 * 512 = 683.52
        "home_or_hotel/bedroom/ADE_val_00000002": (1025, 514, 1021, 512),  # 1025 / 514 * 512 = 1021.01
        "cultural/apse__indoor/ADE_val_00000003": (512, 530, 512, 530),
    }
    truth = {}
    for scene, (height, width, new_height, new_width) in scenes.items():
        place = base / "images/ADE/validation" / scene
        save_photo(place.with_suffix(".jpg"), height, width)
        index = np.random.default_rng(height).integers(-1, 847, (height, width))
        known = np.array([*ids, 3])[index]  # 3 is no class of the 847
        values = np.zeros((height, width, 3), np.uint8)
        values[..., 0] = known // 256 * 10 + 4  # the red is a multiple of ten and something
        values[..., 1] = known % 256
        values[..., 2] = np.arange(width) % 256  # whose instance a pixel is: it does not matter
        save_png(Path(f"{place}_seg.png"), values)
        save_png(Path(f"{place}_parts_1.png"), values[:8, :8])
        save_png(place / f"instance_000_{place.name}.png", values[:8, :8, 0])
        rows = np.floor(np.arange(new_height) * (height / new_height)).astype(int)
        columns = np.floor(np.arange(new_width) * (width / new_width)).astype(int)
        truth[place.name] = index[rows][:, columns]
    (base / "index_ade20k.pkl").write_bytes(pickle.dumps(Bomb(root / "exploded")))
    return truth


TREES = {
    "coco-stuff-171": coco_stuff,
    "voc-20": voc,
    "pascal-context-59": detail,
    "pascal-context-459": context_full,
    "ade20k-150": ade,
    "ade20k-847": full_ade,
}
