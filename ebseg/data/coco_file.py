"""What COCO's JSON files hold (https://cocodataset.org/#format-data), as far as label maps are made of it."""

import codecs
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Discriminator, Field, PositiveInt, Tag, TypeAdapter, ValidationError

from ebseg.errors import DataError
from ebseg.images import DEFAULT_MAX_PIXELS

_T = TypeVar("_T")

_FARTHEST = 1_000_000
"""Pixels of a polygon's corner from the photo's; more would not fit pycocotools' numbers."""

_RLE, _POLYGONS = "run-length code", "polygons"


class Photo(BaseModel):
    """A photo; ``width`` and ``height`` are None where a program could not open it."""

    id: int | str
    file_name: str
    width: PositiveInt | None = None
    height: PositiveInt | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width."""
        return None if self.height is None or self.width is None else (self.height, self.width)


class Category(BaseModel):
    """A label."""

    id: int
    name: str


class Rle(BaseModel):
    """A run-length coded mask; ``size`` is height and width."""

    size: tuple[PositiveInt, PositiveInt]
    counts: str | list[Annotated[int, Field(ge=0, le=DEFAULT_MAX_PIXELS)]]


Polygon = list[Annotated[float, Field(ge=-_FARTHEST, le=_FARTHEST, allow_inf_nan=False)]]
"""x, y, x, y, ... in pixels."""


def _kind(segmentation: Any) -> str:
    return _POLYGONS if isinstance(segmentation, list) else _RLE


class Mask(BaseModel):
    """Where a label is in a photo; polygons are none where only a box or points were drawn."""

    category_id: int
    segmentation: Annotated[
        Annotated[Rle, Tag(_RLE)] | Annotated[list[Polygon], Tag(_POLYGONS)], Discriminator(_kind)
    ] = []
    image_id: int | str | None = None
    file_name: str | None = None  # detectron2 writes it in place of image_id


class Segment(BaseModel):
    """What one of a PNG's ids means."""

    id: int
    category_id: int


class Segments(BaseModel):
    """The segments of a photo; ``file_name`` is the PNG's."""

    image_id: int | str
    file_name: str
    segments_info: list[Segment]


class File(BaseModel):
    """What all files have."""

    categories: list[Category]


class StuffFile(File):
    """Masks of photos: COCO stuff and COCO instances."""

    images: list[Photo]
    annotations: list[Mask]


class PanopticFile(File):
    """Segments of photos."""

    images: list[Photo]
    annotations: list[Segments]


def read_file(path: Path, kind: type[_T]) -> _T:
    """Read a file of a kind. Raises DataError, which names file and entry, for another or a damaged one."""
    return _parse(path, _read_bytes(path), kind)


def read_masks(path: Path) -> StuffFile | list[Mask]:
    """Read a file with masks, or a bare list of results. Raises DataError as ``read_file`` does."""
    content = _read_bytes(path)
    if content.lstrip().startswith(b"["):
        return _parse(path, content, list[Mask])
    return _parse(path, content, StuffFile)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _parse(path: Path, content: bytes, kind: type[_T]) -> _T:
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if mistaken := _other_kind(kind, first["input"]):
            raise DataError(f"{path}: {mistaken}") from error
        place = ".".join(str(part) for part in first["loc"] if part not in (_RLE, _POLYGONS))
        raise DataError(
            f"{path}: {place + ': ' if place else ''}{first['msg']}; export it again as COCO JSON"
        ) from error


def _other_kind(kind: type, entry: object) -> str | None:
    """Tell, by the entry that does not fit, how to read a file of COCO's other kind."""
    if not isinstance(entry, dict):
        return None
    if kind is StuffFile and "segments_info" in entry:
        return "this is a panoptic file: give --panoptic DIR, the folder of its PNGs, to ebseg import-coco"
    if kind is PanopticFile and "segmentation" in entry and "segments_info" not in entry:
        return "this is no panoptic file, it holds masks: leave --panoptic out"
    return None
