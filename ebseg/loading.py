"""From a model's name to a model that predicts."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ebseg.checkpoint import load_beside, load_checkpoint, read_header
from ebseg.config import InferencePrecision, ModelConfig
from ebseg.errors import ConfigError
from ebseg.model_names import PACKAGED, checkpoint_path
from ebseg.predictor import Predictor
from ebseg.text_cache import TextCache, default_folder

__all__ = ["PACKAGED", "checkpoint_path", "load", "version_name"]


def load(
    name: str | Path,
    *,
    device: str | None = None,
    beside: Predictor | None = None,
    precision: InferencePrecision | str = InferencePrecision.FLOAT32,
) -> Predictor:
    """Load a model by name, ready to predict.

    ``name``: "ebseg-tiny" (packaged), "ebseg-base" or "ebseg-large" (released weights, downloaded once), a
    checkpoint's path (a head's backbone is loaded by the name that it gives), or a name with a scheme that a
    plugin resolves. ``device`` as PyTorch names it; a GPU is taken where there is one unless told otherwise.
    ``beside``: a loaded model, on the same device; where both have one backbone they share its tensors.
    ``precision``: "float32" as in the paper, or "auto", "bf16" or "int8", see ``config.InferencePrecision``.

    Raises ConfigError for an unknown name, device or precision, CheckpointError for weights that cannot be
    had or read.
    """
    chosen = _precision(precision)
    path = checkpoint_path(str(name))
    net, metadata = load_checkpoint(path) if beside is None else load_beside(path, other=beside.net)
    version = _version(path, net.config, metadata)
    cache = TextCache(default_folder())
    return Predictor(net, version=version, device=device, text_cache=cache, precision=chosen)


def _precision(name: InferencePrecision | str) -> InferencePrecision:
    try:
        return InferencePrecision(name)
    except ValueError as error:
        raise ConfigError(
            f"no precision named {str(name)!r}; known: {', '.join(InferencePrecision)}"
        ) from error


def version_name(path: Path) -> str:
    """Tell the version that a checkpoint's predictions carry, without loading the model.

    Raises CheckpointError for a file that is missing, damaged or no checkpoint.
    """
    return _version(path, *read_header(path))


def _version(path: Path, config: ModelConfig, metadata: Mapping[str, str]) -> str:
    return metadata.get("version") or f"ebseg-{config.name}-{_digest(path)}"


def _digest(path: Path) -> str:
    """Tell checkpoints of one kind apart by their content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
