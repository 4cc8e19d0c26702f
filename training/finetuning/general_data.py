"""Which data a model is not to forget."""

from pathlib import Path

from ebseg.data.open import DRAWN_SCENES, open_data
from ebseg.loading import PACKAGED
from training.finetuning.finetune import General


def general_name(name: str | None, model: str) -> str | None:
    """Resolve what was asked for: nothing means drawn scenes for the packaged model, no data for others."""
    return DRAWN_SCENES if name is None and model == PACKAGED else name


def general_data(name: str | None, model: str, root: Path, seed: int = 0) -> General | None:
    """Open the data that fine-tuning ``model`` rehearses with and measures forgetting on.

    ``name``: as ``open_data`` takes it, or None (see ``general_name``). ``root``: where benchmarks are.
    ``seed``: of the run; scenes to rehearse with are drawn from the next one. None where there is no data.
    Raises what ``open_data`` raises.
    """
    found = general_name(name, model)
    if found is None:
        return None
    return General(
        open_data(found, "train", root=root, seed=seed + 1), open_data(found, "val", root=root, seed=seed)
    )
