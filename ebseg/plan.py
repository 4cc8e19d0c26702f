"""What a training run would do and need, told without starting it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from ebseg.config import Precision, TrainConfig
from ebseg.data.batches import check_shares
from ebseg.data.samples import Source
from ebseg.model import EBSeg
from ebseg.train import parameter_groups
from ebseg.vocabulary import Vocabulary

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MOMENTS = 2
"""Tensors of a parameter's size that AdamW keeps, besides a step count of 4 bytes."""
_COUNT_BYTES = 4


def plan_training(
    net: EBSeg,
    config: TrainConfig,
    sources: Sequence[Source],
    *,
    processes: int = 1,
    device: str | torch.device = "cpu",
) -> str:
    """Tell what training would do: data, steps, batches, precision, parameters, and memory a process.

    Reads no photo, so that broken files are not known, and leaves ``net`` as it is. Data that is not on disk
    yet (``MissingDataset``) has no photos. Raises ConfigError where a run would, before its first step.
    """
    check_shares(config, processes)
    device = torch.device(device)
    sections = [
        _data(sources),
        _steps(config, sources),
        _batches(config, processes, device),
        _parameters(net, config),
        _memory(net, config, sources, processes, device),
    ]
    return "\n".join(line for section in sections for line in section)


def activation_bytes(net: EBSeg, vocabulary: Vocabulary, photos: int, crop: int, precision: Precision) -> int:
    """Bytes that a forward pass of so many photos keeps for the backward pass, up to the losses.

    The model's own forward pass runs on tensors without content, so that the largest batch is counted in
    seconds and in no memory; each storage counts once, parameters do not. ``crop``: pixels of a side.
    """
    device = next(net.parameters()).device
    kept: dict[int, Tensor] = {}  # holding them keeps the numbers of their storages from being used again

    def keep(tensor: Tensor) -> Tensor:
        kept[_storage(tensor)] = tensor
        return tensor

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # The mode forgets these as soon as nobody else holds them.
    parameters = [mode.from_tensor(parameter) for parameter in net.parameters()]
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    try:
        with mode, _autocast(device, precision), torch.enable_grad(), hooks:
            images = torch.zeros(photos, 3, crop, crop, device=device)
            label_maps = torch.zeros(photos, crop, crop, dtype=torch.int64, device=device)
            # Reading embeddings from a cache is no work for tensors without content.
            text = torch.zeros(len(vocabulary), net.config.clip.embed_dim)
            net.losses(images, label_maps, vocabulary, text=text)
    except DynamicOutputShapeException:
        # The forward pass is over: the losses begin by asking which labels a photo shows, and there is none.
        pass
    for parameter in (*parameters, *net.parameters()):
        kept.pop(_storage(parameter), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _data(sources: Sequence[Source]) -> list[str]:
    lines = ["Data (no photo was read: broken files are not known)"]
    for source in sources:
        photos = f"{len(source):,} photos, " if len(source) else ""
        lines.append(f"  {source.name}: {photos}{len(source.vocabulary):,} labels")
    return lines


def _steps(config: TrainConfig, sources: Sequence[Source]) -> list[str]:
    photos = sum(len(source) for source in sources)
    passes = f": {config.steps * config.batch / photos:,.1f} passes over {photos:,} photos" if photos else ""
    return [
        "Steps",
        f"  {config.steps:,} steps of {config.batch} photos{passes}",
        f"  a checkpoint every {config.checkpoint_every:,} steps, the newest {config.keep_checkpoints} kept",
        f"  learning rate {config.learning_rate:g}, polynomial decay of power {config.power:g}, "
        f"gradients clipped to norm {config.largest_gradient:g}",
    ]


def _batches(config: TrainConfig, processes: int, device: torch.device) -> list[str]:
    return [
        "Batches",
        f"  {config.batch} photos = {processes} processes x {config.accumulation} batches x "
        f"{_photos_at_once(config, processes)} photos of {config.crop} x {config.crop} pixels",
        f"  precision {_precision(config, device)} on {device}",
    ]


def _parameters(net: EBSeg, config: TrainConfig) -> list[str]:
    groups = parameter_groups(net, config.weight_decay)
    trained = [parameter for group in groups for parameter in group["params"]]
    wanted = {id(parameter) for parameter in net.parameters() if parameter.requires_grad}
    if len(trained) != len(wanted) or {id(parameter) for parameter in trained} != wanted:
        raise AssertionError("a trainable parameter is in no group or in several")
    lines = ["Parameters"]
    for group in groups:
        tensors = group["params"]
        lines.append(
            f"  {group['name']}: {len(tensors)} tensors, {_count(tensors):,} parameters, "
            f"weight decay {group['weight_decay']:g}"
        )
    frozen = [parameter for parameter in net.parameters() if not parameter.requires_grad]
    return [*lines, f"  trained {_count(trained):,}, frozen {_count(frozen):,}"]


def _memory(
    net: EBSeg, config: TrainConfig, sources: Sequence[Source], processes: int, device: torch.device
) -> list[str]:
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    gradients = _bytes(trained)
    largest = max((source.vocabulary for source in sources), key=len)
    at_once = _photos_at_once(config, processes)
    activations = activation_bytes(net, largest, at_once, config.crop, _precision(config, device))
    parts = {
        "weights": _bytes([*net.parameters(), *net.buffers()]),
        "gradients": gradients,
        "AdamW's moments": _MOMENTS * gradients + _COUNT_BYTES * len(trained),
        "buffers for averaging gradients": gradients if processes > 1 else 0,
        f"activations of {at_once} photos, an estimate": activations,
    }
    lines = [f"  {name}: {_gib(size)}" for name, size in parts.items() if size]
    return [
        "Memory of each process",
        *lines,
        f"  together about {_gib(sum(parts.values()))}. Not in it: the losses' masks, which depend on the "
        "labels shown, work space, PyTorch itself and the processes that read photos",
    ]


def _photos_at_once(config: TrainConfig, processes: int) -> int:
    return config.batch // (processes * config.accumulation)


def _precision(config: TrainConfig, device: torch.device) -> Precision:
    if config.precision != "auto":
        return config.precision
    return "fp16" if device.type == "cuda" else "float32"


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    if precision not in _AUTOCAST:
        return nullcontext()
    return torch.autocast(device.type, dtype=_AUTOCAST[precision])


def _storage(tensor: Tensor) -> int:
    number: int = tensor.untyped_storage()._cdata
    return number


def _count(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
