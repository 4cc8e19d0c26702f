"""Numbers of fewer bits for what a photo costs: faster where the CPU multiplies them faster.

The paper's numbers are those of float32, which evaluation and training keep.
"""

import functools
import statistics
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ebseg.config import InferencePrecision
from ebseg.errors import ConfigError

WORTH = 1.5
"""How many times faster bfloat16 has to multiply than float32 for ``InferencePrecision.AUTO`` to take it."""

_TOKENS, _WIDTH = 512, 768
_ROUNDS = 5
_LARGEST_INT8 = 127


def choose_precision(asked: InferencePrecision, device: torch.device) -> InferencePrecision:
    """Give what is asked for; for ``AUTO``, what a measurement of a tenth of a second finds best here.

    Raises ConfigError for int8 on anything but a CPU.
    """
    if asked is InferencePrecision.INT8 and device.type != "cpu":
        raise ConfigError(f"precision 'int8' is for CPUs, not for {str(device)!r}: choose float32 or bf16")
    if asked is not InferencePrecision.AUTO:
        return asked
    return (
        InferencePrecision.BF16
        if device.type == "cpu" and bf16_speed() >= WORTH
        else InferencePrecision.FLOAT32
    )


@functools.cache
def bf16_speed() -> float:
    """Measure, once a process, how many times faster than float32 this CPU multiplies bfloat16."""
    x, weight = torch.ones(_TOKENS, _WIDTH), torch.ones(4 * _WIDTH, _WIDTH)
    halves = x.bfloat16(), weight.bfloat16()
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(_ROUNDS + 1):
            for taken, operands in zip(seconds, ((x, weight), halves), strict=True):
                begun = time.perf_counter()
                F.linear(*operands)
                taken.append(time.perf_counter() - begun)
    whole, half = (statistics.median(taken[1:]) for taken in seconds)  # the first is a warm-up
    return whole / half


class Products(TorchFunctionMode, ABC):
    """A context in which linear layers of some weights multiply numbers of fewer bits.

    ``weights``: matrices that never change; a copy of each in fewer bits, in the order that suits the CPU, is
    kept once it was used. Other layers stay as they are. Threads may share one.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self._weights = {id(weight): weight for weight in weights}
        self._packed: dict[int, Any] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Stand in for ``F.linear`` of one of the weights; PyTorch calls it for each of its functions."""
        if func is F.linear and len(args) > 1 and id(args[1]) in self._weights:
            return self._linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: nn.Parameter, bias: Tensor | None = None) -> Tensor:
        if id(weight) not in self._packed:
            self._packed[id(weight)] = self._pack(weight.detach(), bias)
        return self._product(x, self._packed[id(weight)])

    @staticmethod
    @abstractmethod
    def _pack(weight: Tensor, bias: Tensor | None) -> Any:
        """Give a weight and its bias in PyTorch's own form for ``_product``."""

    @staticmethod
    @abstractmethod
    def _product(x: Tensor, packed: Any) -> Tensor:
        """Multiply inputs (..., n) by what was packed."""


class Int8Products(Products):
    """Products of 8-bit integers: dynamic quantisation.

    Weights have a scale a row, inputs one a call; sums have 32 bits, results are float32.
    """

    @staticmethod
    def _pack(weight: Tensor, bias: Tensor | None) -> Any:
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo().tiny).double() / _LARGEST_INT8
        with warnings.catch_warnings():
            # PyTorch wants to drop its quantised tensors one day; its own prepacking takes nothing else yet.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            zeros = torch.zeros(len(weight), dtype=torch.long)
            quantised = torch.quantize_per_channel(weight, scales, zeros, axis=0, dtype=torch.qint8)
        return torch.ops.quantized.linear_prepack(quantised, bias)

    @staticmethod
    def _product(x: Tensor, packed: Any) -> Tensor:
        # Inputs of 7 bits: without VNNI, pairs of products of 8 bits overflow in a CPU's 16-bit sums.
        product: Tensor = torch.ops.quantized.linear_dynamic(x, packed, reduce_range=True)
        return product


class Bf16Products(Products):
    """Products of bfloat16 numbers, summed up in float32; results are bfloat16, as under autocast.

    Autocast converts weights anew in each call, and a bias is first copied to each row of a result. These are
    the operations of which PyTorch's compiler makes linear layers.
    """

    @staticmethod
    def are_known(device: torch.device) -> bool:
        """Tell whether this PyTorch and this CPU have them."""
        return (
            device.type == "cpu"
            and torch.backends.mkldnn.is_available()
            and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )

    @staticmethod
    def _pack(weight: Tensor, bias: Tensor | None) -> Any:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16())
        return packed, None if bias is None else bias.detach().bfloat16()

    @staticmethod
    def _product(x: Tensor, packed: Any) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), *packed, "none", [], "")
        return product


def encoders_weights(tensors: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """Choose, of a backbone's tensors by name, the matrices of both image encoders."""
    return [p for name, p in tensors.items() if name.startswith(("clip.", "sam.")) and p.dim() == 2]
