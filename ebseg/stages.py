"""The stages of a prediction, marked where they happen: profilers and `ebseg bench stages` tell them apart.

They may lie in one another: ``SCORES`` is all of ``Predictor.decide``, with ``TEXT`` and ``BALANCING`` in it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from enum import StrEnum

from torch.profiler import record_function


class Stage(StrEnum):
    """The stages, in the order in which they end."""

    PREPROCESSING = "preprocessing"
    CLIP = "CLIP"
    SAM = "SAM"
    PIXEL_DECODER = "pixel decoder"
    MASK_DECODER = "mask decoder"
    RECOGNITION = "recognition"
    TEXT = "text"
    BALANCING = "balancing"
    SCORES = "scores"


Observer = Callable[[Stage], AbstractContextManager[object]]
"""Gives the context that a stage runs in."""


def _recorded(name: Stage) -> record_function:
    """Name the stage in the profile of whoever runs torch.profiler; without one it takes microseconds."""
    return record_function(f"ebseg.{name}")


_observer: ContextVar[Observer] = ContextVar("observer", default=_recorded)


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Mark a stage: a block, or as a decorator a function."""
    with _observer.get()(name):
        yield


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Have the stages that follow in this thread run in an observer's contexts, and not in the profiler's."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
