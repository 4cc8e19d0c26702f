"""Checkpoints: ours, loaded strictly, and the way to the authors'.

Ours are safetensors with the model's config and training vocabulary in the header. Format 2 holds a whole
model, or a head: what EBSeg trains, without the backbone, which the header names and gives the digest of.
Format 1 holds a whole model, and in its config the weights of a loss, which are a training run's own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ebseg.config import ModelConfig
from ebseg.errors import CheckpointError, ConfigError, VocabularyError
from ebseg.files import nobody_elses, whole
from ebseg.model import EBSeg
from ebseg.model_names import checkpoint_path
from ebseg.official import (
    load_official,
    official_names,
    official_variant,
    read_official,
    require_finite,
    require_match,
)
from ebseg.vocabulary import Vocabulary

__all__ = [
    "backbone_name",
    "load_beside",
    "load_checkpoint",
    "load_head",
    "load_official",
    "read_header",
    "save_checkpoint",
    "save_head",
]

FORMAT_VERSION = "2"
_WHOLE, _HEAD = "model", "head"


def save_checkpoint(
    net: EBSeg, path: Path, *, dtype: torch.dtype = torch.float32, metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``net``, backbone and head, to a safetensors file, atomically.

    The header holds its config and training vocabulary. ``metadata``: further strings for it, such as where
    the weights come from.
    """
    _save(net, dict(net.named_parameters()), path, dtype, {**(metadata or {}), "holds": _WHOLE})


def save_head(
    net: EBSeg,
    path: Path,
    *,
    backbone: str,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write what EBSeg trains of ``net``, otherwise as ``save_checkpoint``: a tenth of EBSeg-B's bytes.

    ``backbone``: a model with the backbone of ``net``, by the name or path by which ``ebseg.load`` finds it.
    Loading checks that it has, by the digest that is written beside the name.
    """
    header = {"holds": _HEAD, "backbone": net.backbone.digest, "backbone_name": backbone}
    _save(net, net.head, path, dtype, {**(metadata or {}), **header})


def _save(
    net: EBSeg, tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype, header: Mapping[str, str]
) -> None:
    if net.training_vocabulary is None:
        raise CheckpointError(
            "The model has no training vocabulary: say what it was trained on before saving "
            "(EBSeg.trained_on)."
        )
    header = {
        **header,
        "ebseg_format": FORMAT_VERSION,
        "config": net.config.model_dump_json(),
        "training_vocabulary": net.training_vocabulary.to_json(),
    }
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    # Not the one name for all: a folder of models may be written to by several.
    with whole(path, unfinished=nobody_elses(path), mode=0o644) as unfinished:  # safetensors makes it private
        save_file(state, unfinished, metadata=header)
        _sort_metadata(unfinished)


def _sort_metadata(path: Path) -> None:
    """Put a header's metadata in order, in place.

    safetensors writes it in a random one, and a checkpoint's version is the digest of its file.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        # As compact as what safetensors writes, so it fits; the rest of the room stays spaces.
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def load_checkpoint(path: Path) -> tuple[EBSeg, dict[str, str]]:
    """Load one of our checkpoints, or one of the authors', as a float32 model on the CPU.

    A head's backbone is found by its name. Returns the model and the header's metadata (empty for the
    authors' files). Raises CheckpointError for a file that is missing, damaged or of another model, or that
    holds a number that is not finite; and for a head whose backbone cannot be had or is another one.
    """
    _require_file(path)
    if path.suffix != ".safetensors":
        state = read_official(path)
        net = _unfilled(official_variant(state, path), None)
        load_official(net, state)
        require_finite(path, {name: state[name] for name in official_names(net).values()})
        return net, {}
    header, state = _read(path)
    if header.backbone is not None:
        found = _find_backbone(header.backbone, path)
        return _with_head(load_checkpoint(found)[0], str(found), header.backbone, header, state)
    net = _unfilled(header.config, header.vocabulary)
    _fill(dict(net.named_parameters()), header, state)
    return net, header.metadata


def load_head(path: Path, *, backbone: EBSeg) -> tuple[EBSeg, dict[str, str]]:
    """Put a head on the backbone of a loaded model, which stays as it is: they share the frozen tensors.

    Returns what ``load_checkpoint`` returns, but on the device of ``backbone``; see ``EBSeg.with_own_head``.
    Raises CheckpointError as that does, and for a file that holds a whole model.
    """
    _require_file(path)
    header, state = _read(path)
    if header.backbone is None:
        raise CheckpointError(f"{path} holds a whole model, not a head: load it by itself.")
    return _with_head(backbone, "the model beside it", header.backbone, header, state)


def load_beside(path: Path, *, other: EBSeg) -> tuple[EBSeg, dict[str, str]]:
    """Load a checkpoint beside a loaded model, whose frozen tensors it shares if it has the same backbone.

    Else as ``load_checkpoint``, which says what is returned and raised. A head that fits reads no backbone.
    """
    _require_file(path)
    if path.suffix == ".safetensors":
        backbone = _read(path, tensors=False)[0].backbone
        if backbone is not None and backbone.digest == other.backbone.digest:
            return load_head(path, backbone=other)
    net, metadata = load_checkpoint(path)
    if net.backbone.digest != other.backbone.digest or not net.config.same_layers(other.config):
        return net, metadata
    sharing = other.with_own_head(net.config, net.training_vocabulary)
    with torch.no_grad():
        for name, parameter in sharing.head.items():
            parameter.copy_(net.get_parameter(name))
    return sharing, metadata


def backbone_name(path: Path) -> str | None:
    """Read by which name a head's backbone is found; None for a whole model. Raises CheckpointError."""
    _require_file(path)
    if path.suffix != ".safetensors":
        return None
    backbone = _read(path, tensors=False)[0].backbone
    return None if backbone is None else backbone.name


def read_header(path: Path) -> tuple[ModelConfig, dict[str, str]]:
    """Read which model a checkpoint holds, and the metadata that ``load_checkpoint`` gives: no weights.

    Raises CheckpointError as that does, for what can be seen without the weights.
    """
    _require_file(path)
    if path.suffix != ".safetensors":
        return official_variant(read_official(path), path), {}
    header = _read(path, tensors=False)[0]
    return header.config, header.metadata


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}: check the path.")


@dataclass(frozen=True)
class _BackboneName:
    """Which backbone a head belongs to: its content's digest, and the name of a model that has it."""

    digest: str
    name: str


@dataclass(frozen=True)
class _Header:
    """What a file of ours says of its tensors. ``backbone``: None for a whole model."""

    path: Path
    config: ModelConfig
    vocabulary: Vocabulary
    backbone: _BackboneName | None
    metadata: dict[str, str]


def _parse_header(content: dict[str, str], path: Path) -> _Header:
    """Split a header into what every file has and the rest."""
    version = content.pop("ebseg_format", "unknown")
    if version not in ("1", FORMAT_VERSION):
        raise CheckpointError(
            f"{path} is not a checkpoint of this package (format {version}, wanted {FORMAT_VERSION} or 1): "
            "write one with `ebseg train`."
        )
    try:
        values = json.loads(content.pop("config"))
        if version == "1" and isinstance(values, dict):
            values.pop("losses", None)
        config = ModelConfig.model_validate(values)
        vocabulary = Vocabulary.from_json(content.pop("training_vocabulary"))
    except (KeyError, ValueError, VocabularyError) as error:
        raise CheckpointError(f"{path} has a damaged config or training vocabulary: {error}") from error
    holds = _WHOLE if version == "1" else content.pop("holds", "nothing")
    backbone = None
    if holds == _HEAD:
        backbone = _BackboneName(content.pop("backbone", ""), content.pop("backbone_name", ""))
    elif holds != _WHOLE:
        raise CheckpointError(f"{path} holds {holds}, neither a {_WHOLE} nor a {_HEAD}: fetch it again.")
    return _Header(path, config, vocabulary, backbone, content)


def _read(path: Path, *, tensors: bool = True) -> tuple[_Header, dict[str, Tensor]]:
    """Read a file of ours, without its tensors where they are not asked for."""
    try:
        with safe_open(path, framework="pt") as file:
            content = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys() if tensors}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error}): fetch it again.") from error
    return _parse_header(content, path), state


class _NoInitialValues(TorchFunctionMode):
    """Leaves out drawing numbers for new parameters: for EBSeg-B that takes a second."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(function, "__module__", None) == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return function(*args, **given)


def _unfilled(config: ModelConfig, vocabulary: Vocabulary | None) -> EBSeg:
    """Make a model whose parameters hold whatever was in memory, to be filled from a file."""
    with _NoInitialValues():
        return EBSeg(config, training_vocabulary=vocabulary)


def _fill(wanted: Mapping[str, nn.Parameter], header: _Header, state: Mapping[str, Tensor]) -> None:
    """Copy a file's tensors, by exact names and shapes."""
    require_match(
        header.config,
        missing=sorted(wanted.keys() - state.keys()),
        left_over=sorted(state.keys() - wanted.keys()),
        misshapen=sorted(n for n in wanted.keys() & state.keys() if wanted[n].shape != state[n].shape),
    )
    require_finite(header.path, state)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(state[name])


def _find_backbone(backbone: _BackboneName, path: Path) -> Path:
    """Find the file that has a head's backbone, which must not be a head itself."""
    try:
        found = checkpoint_path(backbone.name)
        _require_file(found)
    except (ConfigError, CheckpointError) as error:
        raise CheckpointError(
            f"{path} is a head for the backbone of {backbone.name}, which cannot be had: {error}"
        ) from error
    if found.suffix == ".safetensors" and _read(found, tensors=False)[0].backbone is not None:
        raise CheckpointError(f"{path} is a head for the backbone of {found}, which is a head itself.")
    return found


def _with_head(
    net: EBSeg, whose: str, wanted: _BackboneName, header: _Header, state: Mapping[str, Tensor]
) -> tuple[EBSeg, dict[str, str]]:
    """Put a head on the backbone of ``net``, which people know as ``whose``."""
    path = header.path
    if net.backbone.digest != wanted.digest:
        raise CheckpointError(
            f"{path} is a head for the backbone {wanted.digest} of {wanted.name}, but {whose} has the "
            f"backbone {net.backbone.digest}: give the model that the head was trained on."
        )
    if not header.config.same_layers(net.config):
        raise CheckpointError(
            f"{path} is a head of EBSeg {header.config.name!r}, but {whose} has other layers."
        )
    other = net.with_own_head(header.config, header.vocabulary)
    _fill(other.head, header, state)
    return other, header.metadata
