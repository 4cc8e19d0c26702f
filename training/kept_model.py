"""The model that a worker's process loaded last: the next job that asks for it need not load it again."""

from pathlib import Path

from ebseg.config import InferencePrecision
from ebseg.loading import load as load_anew
from ebseg.predictor import Predictor

_kept: dict[tuple[Path, int, int, str | None, InferencePrecision], Predictor] = {}  # one at most


def load(path: Path, device: str | None, precision: InferencePrecision) -> Predictor:
    """Load a model's file, unless it was the last one. Raises what ``ebseg.load`` raises.

    Another model on the same backbone takes a head's time and memory: projects' champions share the base's.
    """
    stat = path.stat()
    key = path, stat.st_mtime_ns, stat.st_size, device, precision
    if key not in _kept:
        beside = next(iter(_kept.values()), None)
        model = load_anew(path, device=device, beside=beside, precision=precision)
        _kept.clear()
        _kept[key] = model
    return _kept[key]
