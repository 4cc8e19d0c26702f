"""Numbers of fewer bits for what a photo costs: faster where the CPU multiplies them faster.

The paper's numbers are those of float32, which evaluation and training keep.
"""

import functools
import statistics
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ebseg.config import InferencePrecision
from ebseg.errors import ConfigError

WORTH = 1.5
"""How many times faster bfloat16 has to multiply than float32 for ``InferencePrecision.AUTO`` to take it."""

_TOKENS, _WIDTH = 256, 768
_ROUNDS = 5
_LARGEST_INT8 = 127
_BF16_OPERATIONS = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")


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


class PackedWeights(ABC):
    """Weights of linear layers in fewer bits, in the CPU's own order, each made when it is first used.

    ``weights``: matrices that never change. Threads may share one.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self._weights = {id(weight): weight for weight in weights}
        self._packed: dict[int, Any] = {}

    def __contains__(self, weight: Tensor) -> bool:
        """Tell whether this very tensor is one of the weights."""
        return id(weight) in self._weights

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Give what ``F.linear`` does of inputs (..., n) and one of the weights (m, n), nearly: (..., m)."""
        if id(weight) not in self._packed:
            self._packed[id(weight)] = self._pack(weight.detach(), None if bias is None else bias.detach())
        return self._product(x, self._packed[id(weight)])

    @staticmethod
    @abstractmethod
    def _pack(weight: Tensor, bias: Tensor | None) -> Any:
        """Give a weight and its bias in PyTorch's own form for ``_product``."""

    @staticmethod
    @abstractmethod
    def _product(x: Tensor, packed: Any) -> Tensor:
        """Multiply inputs (..., n) by what was packed."""


class Packed(TorchFunctionMode):
    """A context in which linear layers of some weights multiply the packed ones; others stay as they are."""

    def __init__(self, *weights: PackedWeights) -> None:
        super().__init__()
        self._weights = weights

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Stand in for ``F.linear`` of one of the weights; PyTorch calls it for each of its functions."""
        if func is F.linear and len(args) > 1:
            for weights in self._weights:
                if args[1] in weights:
                    return weights.linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class Int8Weights(PackedWeights):
    """8-bit integers: dynamic quantisation.

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


class Bf16Weights(PackedWeights):
    """bfloat16; products are summed up in float32, results are bfloat16, as under autocast.

    Autocast converts weights anew in each call, and a bias is first copied to each row of a result. These are
    the operations of which PyTorch's compiler makes linear layers.
    """

    @staticmethod
    def are_known(device: torch.device) -> bool:
        """Tell whether this PyTorch and this CPU have what they need: for PyTorch it is internal."""
        here = device.type == "cpu" and all(hasattr(torch.ops.mkldnn, name) for name in _BF16_OPERATIONS)
        return here and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    @staticmethod
    def _pack(weight: Tensor, bias: Tensor | None) -> Any:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16())
        return packed, None if bias is None else bias.bfloat16()

    @staticmethod
    def _product(x: Tensor, packed: Any) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), *packed, "none", [], "")
        return product


def encoders_weights(tensors: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """Choose, of a backbone's tensors by name, the matrices of both image encoders."""
    return matrices({name: p for name, p in tensors.items() if name.startswith(("clip.", "sam."))})


def matrices(tensors: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """Choose, of a model's tensors by name, those that a linear layer's weight may be."""
    return [p for p in tensors.values() if p.dim() == 2]
