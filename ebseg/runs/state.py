"""A run's checkpoints: written whole or not at all, rotated, refused by a run that they do not belong to."""

import hashlib
import json
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ebseg.config import TrainConfig
from ebseg.errors import CheckpointError, RunNotWritten
from ebseg.files import whole
from ebseg.runs.folder import RunFolder

_log = logging.getLogger(__name__)

_FREE = {"checkpoint_every", "keep_checkpoints", "log_every", "max_broken", "accumulation"}
"""Settings that a resumed run may change: none of them changes its weights."""


@contextmanager
def _undivided() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block.

    What their handlers raise inside of ``torch.save`` comes out as "unexpected pos", as if the disk were
    full, or has PyTorch's writer abort the process.
    """
    if threading.current_thread() is not threading.main_thread():  # there, handlers raise nothing
        yield
        return
    came: list[int] = []
    usual = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for held in came:
            signal.raise_signal(held)


class RunState:
    """The checkpoints of one run, in ``out/checkpoints``. ``model``: the model's configuration.

    A checkpoint is complete: the trained weights, the optimiser's moments, the loss scaler, and the step,
    from which the learning rate, the order of the photos, their augmentation and their random points all
    follow (each is drawn from the run's seed and a photo's number alone, so no generator has a state to
    keep). Frozen weights are not stored, but the weights that a run starts from must be the same ones: their
    digest is.
    """

    def __init__(
        self, out: Path, net: nn.Module, model: str, config: TrainConfig, data: Sequence[str]
    ) -> None:
        self._files = RunFolder(out)
        self.keep = config.keep_checkpoints
        settings = config.model_dump(exclude=_FREE)
        self.identity = {
            **{name: json.dumps(value) for name, value in settings.items()},
            "model": model,
            "data": json.dumps(list(data)),
            "starting weights": _digest(net),
        }

    @_undivided()
    def store(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, atomically, and drop the oldest ones.

        Raises RunNotWritten where it cannot be written; those before it stay.
        """
        written = self._files.checkpoint(step)
        try:
            with (
                whole(written, unfinished=self._files.unfinished_checkpoint, durable=True) as unfinished,
                unfinished.open("wb") as file,
            ):
                torch.save({"step": step, "identity": self.identity, **state}, file)
        except (OSError, RuntimeError) as error:
            # Where a disk is full, PyTorch stumbles over that error with another one, which does not say so.
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise RunNotWritten(
                f"the checkpoint {written} could not be written ({reason}): make room; the same command goes "
                "on from the checkpoint before it"
            ) from error
        # A damaged file of a later step must not push this one out.
        for old in [path for path in self._files.stored() if path <= written][: -self.keep]:
            old.unlink(missing_ok=True)

    def newest(self) -> dict[str, Any] | None:
        """Read the newest checkpoint that can be read; None where there is none.

        Raises CheckpointError for one of another run: other settings, data or starting weights.
        """
        for path in reversed(self._files.stored()):
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                found = _with_losses_apart(state["identity"])
            except Exception as error:  # a damaged file can make PyTorch raise nearly anything
                _log.warning("Ignored a damaged checkpoint: %s (%s)", path, type(error).__name__)
                continue
            other = [name for name in self.identity | found if self.identity.get(name) != found.get(name)]
            if other:
                raise CheckpointError(
                    f"{path} is of another run, which differs in: {', '.join(sorted(other))}. Choose another "
                    "folder, or give what that run was given"
                )
            return state
        return None


def _with_losses_apart(identity: dict[str, str]) -> dict[str, str]:
    """Read a run's identity, also one of when the losses were part of the model's configuration."""
    if "losses" in identity:
        return identity
    model = json.loads(identity["model"])
    losses = model.pop("losses")
    return {**identity, "model": json.dumps(model, separators=(",", ":")), "losses": json.dumps(losses)}


def _digest(net: nn.Module) -> str:
    """Name weights by their content."""
    digest = hashlib.sha256()
    for name, parameter in net.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
