"""An evaluation for people: one HTML file that needs nothing else, and a run in MLflow.

Both are made of what ``ebseg.evaluation.result.Evaluation.to_json`` gives; any key may be missing or None.
"""

import functools
import math
import os
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, overload

import numpy as np
import numpy.typing as npt
from jinja2 import ChainableUndefined, Environment, PackageLoader, Template
from PIL import Image, ImageDraw

from ebseg.errors import ConfigError
from ebseg.files import write_whole
from ebseg.render import overlay
from ebseg.runs.mlflow_store import connect, default_tracking_uri, disconnect, experiment_id, unusable
from ebseg.segmentation import Segmentation

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Evaluation = Mapping[str, Any]

Picture = tuple[str, bytes]
"""A title and a PNG or JPEG file's content."""

METRICS = {
    "miou": ("mIoU", "mean IoU of the classes that the truth shows"),
    "fwiou": ("fwIoU", "IoU weighted by the classes' true pixels"),
    "macc": ("mACC", "mean share of a class's true pixels that is right"),
    "pacc": ("pACC", "share of all pixels that is right"),
    "seen": ("seen mIoU", "of the classes that the model was trained on"),
    "unseen": ("unseen mIoU", "of the others"),
    "harmonic": ("harmonic mean", "of seen and unseen mIoU"),
    "boundary_iou": ("boundary IoU", "mean IoU of the bands along the classes' outlines"),
}
"""What the metrics are called, and what they mean."""

EXPERIMENT = "ebseg evaluation"
"""What MLflow lists evaluations under."""

PANEL = 400
"""Pixels of the longer side of each of a comparison's three pictures."""


def comparison(
    image: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    labels: Sequence[str],
) -> bytes:
    """Draw a photo, its predicted labels and its true ones side by side, with one legend, as a JPEG.

    ``image``: (H, W, 3) uint8 RGB. ``predicted``, ``truth``: (H, W) label indices, -1 where there is none.
    The legend's areas are shares of both label maps together.
    """
    height, width = truth.shape
    scale = min(1, PANEL / max(height, width))
    rows, columns = (
        ((np.arange(max(1, round(side * scale))) + 0.5) * side / max(1, round(side * scale))).astype(int)
        for side in (height, width)
    )
    size = (len(columns), len(rows))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    label_map = np.hstack([label_map[rows[:, None], columns] for label_map in (predicted, truth)])
    both = Segmentation(label_map.astype(np.int16), np.ones(label_map.shape, np.float32), tuple(labels))
    painted = overlay(np.hstack([small, small]), both)
    canvas = Image.new("RGB", (size[0] + painted.width, painted.height), "white")
    canvas.paste(Image.fromarray(small), (0, 0))
    canvas.paste(painted, (size[0], 0))
    draw = ImageDraw.Draw(canvas)
    for left in (size[0], 2 * size[0]):
        draw.line((left, 0, left, size[1]), fill="white", width=4)
    encoded = BytesIO()
    canvas.save(encoded, format="JPEG", quality=85)
    return encoded.getvalue()


@overload
def write_html(evaluation: Evaluation, pictures: Sequence[Picture], path: Path) -> None: ...
@overload
def write_html(
    evaluation: Sequence[Evaluation], pictures: Sequence[Sequence[Picture]], path: Path
) -> None: ...
def write_html(evaluation: Any, pictures: Any, path: Path) -> None:
    """Write an evaluation, or several with an overview, as one HTML file that works offline.

    ``pictures``: the photos to show, such as ``comparison`` draws them; for several evaluations a list each.
    """
    if isinstance(evaluation, Mapping):
        evaluation, pictures = [evaluation], [pictures]
    pages = [
        {
            "evaluation": one,
            "classes": sorted(one.get("classes") or (), key=_by_iou),
            "pictures": [(title, _data_uri(content)) for title, content in shown],
        }
        for one, shown in zip(evaluation, pictures, strict=True)
    ]
    html = _template().render(pages=pages, metrics=METRICS)
    write_whole(path, html)


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("ebseg"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,
    )
    environment.filters |= {"number": _number, "count": _count, "share": _share}
    environment.filters |= {"duration": _duration, "flat": _flat}
    environment.tests["known"] = _known
    return environment.get_template("report.html")


def log_to_mlflow(
    evaluation: Evaluation,
    html: Path | None,
    json: Path | None,
    *,
    tracking_uri: str | None = None,
) -> None:
    """Record an evaluation as a run of MLflow: metrics, settings and the two files.

    The store is ``tracking_uri``, else the one that ``MLFLOW_TRACKING_URI`` names, else that of training runs
    below the folder ``runs``. Raises ConfigError where it cannot be used.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(Path("runs"))
    try:
        client = connect(uri)
        try:
            _log(client, evaluation, [file for file in (html, json) if file is not None])
        finally:
            disconnect(client)
    except Exception as error:  # requests', SQLAlchemy's, boto3's: of whatever the store stands on
        raise ConfigError(
            f"MLflow's store {unusable(uri, error)}: set MLFLOW_TRACKING_URI to a running server's address "
            "or to sqlite:///FILE"
        ) from error


def _log(client: "MlflowClient", evaluation: Evaluation, files: Sequence[Path]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    name = f"{evaluation.get('model')} on {evaluation.get('dataset')}"
    run_id = client.create_run(experiment_id(client, EXPERIMENT), run_name=name).info.run_id
    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in _measured(evaluation)]
    params, tags = (
        _flat({key: evaluation.get(key) for key in keys})
        for keys in (("model", "dataset", "photos", "protocol"), ("versions", "hardware"))
    )
    client.log_batch(
        run_id, metrics, [Param(*pair) for pair in params], [RunTag(*pair) for pair in tags], synchronous=True
    )
    for file in files:
        client.log_artifact(run_id, str(file))
    client.set_terminated(run_id)


def _measured(evaluation: Evaluation) -> Iterator[tuple[str, float]]:
    """List all numbers that are known, by MLflow's names."""
    metrics = evaluation.get("metrics") or {}
    throughput = evaluation.get("throughput") or {}
    found = {key: metrics.get(key) for key in METRICS}
    found |= {key: evaluation.get(key) for key in ("published", "difference")}
    found |= {key: throughput.get(key) for key in ("photos_per_second", "seconds")}
    return ((key, float(value)) for key, value in found.items() if _known(value))


def _known(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _by_iou(one: Mapping[str, Any]) -> tuple[float, str]:
    """Sort the best class first, those that the truth does not show last."""
    iou = one.get("iou")
    return (-iou if _known(iou) else 1.0, str(one.get("name")))


def _data_uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _number(value: Any, digits: int = 1, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}" if _known(value) else "–"


def _count(value: Any) -> str:
    return f"{value:,}" if _known(value) else "–"


def _share(value: Any) -> str:
    return f"{value:.1%}" if _known(value) else "–"


def _duration(seconds: Any) -> str:
    return f"{timedelta(seconds=round(seconds))} h" if _known(seconds) else "–"


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """List a nested dict's values with their dotted names; None and missing ones are left out."""
    if not isinstance(content, Mapping):
        return [(prefix, str(content))] if content is not None else []
    return [
        pair
        for key, value in content.items()
        for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))
    ]
