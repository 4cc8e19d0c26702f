"""Open-vocabulary semantic segmentation with EBSeg."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebseg.predictor import Predictor

__all__ = ["load"]


def load(name: str | Path, *, device: str | None = None, precision: str = "float32") -> "Predictor":
    """Load a model by name, ready to predict; see ``ebseg.loading.load``."""
    from ebseg.loading import load  # PyTorch is imported only when a model is wanted

    return load(name, device=device, precision=precision)
