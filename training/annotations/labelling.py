"""What a project's label config asks of the model, as the settings say where it says nothing."""

from ebseg.label_studio.tasks import Labelling, read_label_config
from training.settings import Settings


def read_labelling(label_config: str, settings: Settings) -> Labelling:
    """Read a label config. Raises LabelConfigError or VocabularyError for one that cannot be served."""
    return read_label_config(
        label_config,
        threshold=settings.score_threshold,
        min_area=settings.min_area,
        min_confidence=settings.min_region_confidence,
    )
