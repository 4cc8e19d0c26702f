"""What a project's label config asks of the model, as the settings say where it says nothing."""

from functools import lru_cache

from ebseg.label_studio.tasks import Labelling, read_label_config
from training.settings import Settings

_KEPT_LENGTH = 1 << 16
"""Characters of a label config that is kept once it is read: some thousand labels."""

_read = lru_cache(maxsize=32)(read_label_config)
"""Each request brings its project's label config."""


def read_labelling(label_config: str, settings: Settings) -> Labelling:
    """Read a label config. Raises LabelConfigError or VocabularyError for one that cannot be served."""
    read = _read if len(label_config) <= _KEPT_LENGTH else read_label_config
    return read(
        label_config,
        threshold=settings.score_threshold,
        min_area=settings.min_area,
        min_confidence=settings.min_region_confidence,
    )
