"""Which data a model is not to forget."""

from collections.abc import Callable
from pathlib import Path

from ebseg.data.open import DRAWN_SCENES, open_data
from ebseg.loading import PACKAGED
from training.finetuning.finetune import General

OWN_ANSWERS = "own-answers"
"""Name of the general data that a model makes itself (``own_answers``)."""


def general_name(name: str | None, model: str) -> str:
    """Resolve what was asked for: nothing is drawn scenes for the packaged model, else own answers."""
    if name is not None:
        return name
    return DRAWN_SCENES if model == PACKAGED else OWN_ANSWERS


def general_data(
    name: str | None, model: str, root: Path, own: Callable[[], General | None], *, seed: int = 0
) -> General | None:
    """Open the data that fine-tuning ``model`` rehearses with and measures forgetting on.

    ``name``: as ``open_data`` takes it, OWN_ANSWERS, or None (see ``general_name``). ``root``: where
    benchmarks are. ``own``: gives the own answers, or None where there can be none. ``seed``: of the run;
    scenes to rehearse with are drawn from the next one. Raises what ``open_data`` raises.
    """
    found = general_name(name, model)
    if found == OWN_ANSWERS:
        return own()
    return General(
        open_data(found, "train", root=root, seed=seed + 1), open_data(found, "val", root=root, seed=seed)
    )
