"""Where a training run's frozen encoders come from: CLIP's and segment-anything's released weights."""

import hashlib
import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPException
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from open_clip.constants import HF_SAFE_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ebseg.checkpoint import load_checkpoint
from ebseg.errors import CheckpointError
from ebseg.files import locked
from ebseg.loading import PACKAGED, checkpoint_path
from ebseg.model import EBSeg

CLIP_MODELS = {"base": "ViT-B-16", "large": "ViT-L-14-336"}
"""OpenCLIP's names of the image and text towers that OpenAI released, by variant."""

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"
"""The last part of the file's name begins the SHA-256 of its content."""

_PARTS = ("clip_image.", "clip_text.", "sam.")
_SCALE = "clip_logit_scale"
_FAULTS_SHOWN = 3


def load_encoders(net: EBSeg, source: str | None) -> None:
    """Give ``net`` the encoders to train with, in place.

    ``source``: a file of encoders (``training.tiny.pretrain`` writes one), or a model by its name or file, of
    which only the encoders are taken. None: the released CLIP and segment-anything weights, downloaded once;
    for the small variant, which has no released ones, those of the packaged model.

    Raises CheckpointError for weights that cannot be had, cannot be read or do not fit (``net`` is as it was
    then), and ConfigError for an unknown name.
    """
    if source is None and net.config.name in CLIP_MODELS:
        clip = _released_clip(CLIP_MODELS[net.config.name])
        _fill(net, {**clip, **_released_sam()}, "the released encoders")
        return
    path = checkpoint_path(source or PACKAGED)
    if path.suffix == ".safetensors" and _holds_encoders(path):
        _fill(net, load_file(path), str(path))
    else:
        donor, _ = load_checkpoint(path)
        _fill(net, _tensors(donor), str(path))


def _modules(net: EBSeg) -> tuple[nn.Module, nn.Module, nn.Module]:
    return net.clip.tower, net.text.tower, net.sam.encoder


def _tensors(net: EBSeg) -> dict[str, Tensor]:
    """Name the encoders' tensors as a file of encoders does; they share the model's memory."""
    parts = zip(_PARTS, _modules(net), strict=True)
    tensors = {f"{prefix}{n}": t for prefix, module in parts for n, t in module.state_dict().items()}
    return {**tensors, _SCALE: net.text.logit_scale.detach()}


def _fill(net: EBSeg, state: Mapping[str, Tensor], source: str) -> None:
    """Copy all encoders, by exact names and shapes, or none."""
    wanted = _tensors(net)
    faults = [f"{name} is missing" for name in wanted if name not in state]
    faults += [f"{name} is left over" for name in state if name not in wanted]
    faults += [
        f"{name} is {tuple(state[name].shape)} and should be {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        shown = "; ".join(faults[:_FAULTS_SHOWN])
        raise CheckpointError(
            f"{source} cannot be used for EBSeg {net.config.name!r}: {len(faults)} tensors do not fit, "
            f"{shown}{' ...' if len(faults) > _FAULTS_SHOWN else ''}. Give encoders of this variant"
        )
    for name, tensor in wanted.items():
        tensor.copy_(state[name])


def _holds_encoders(path: Path) -> bool:
    """Tell a file of encoders from a whole model's. Raises CheckpointError for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith(_PARTS[0]) for name in file.keys())  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"encoders {path} cannot be read ({error}): fetch them again") from error


def _released_clip(name: str) -> dict[str, Tensor]:
    """Download OpenAI's CLIP, once, into huggingface_hub's cache; it shows its progress itself."""
    repository = get_pretrained_cfg(name, "openai")["hf_hub"].strip("/")
    try:
        # OpenCLIP's own download would try each of two files and say only what was wrong with the second.
        path = Path(hf_hub_download(repository, HF_SAFE_WEIGHTS_NAME))
    except OSError as error:  # the hub's own errors are OSErrors, offline or not
        raise CheckpointError(
            f"CLIP {name} could not be downloaded ({HF_SAFE_WEIGHTS_NAME} of {repository}): {error}. Check "
            "the connection or set HF_ENDPOINT to a mirror"
        ) from error
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        # The hub's cache would link a file to its old content again: that is what has to go.
        raise CheckpointError(f"{path.resolve()} is damaged ({error}): delete it and start again") from error
    return {_clip_name(key): tensor for key, tensor in state.items()}


def _clip_name(key: str) -> str:
    """Turn OpenCLIP's name of a tensor into ours."""
    if key == "logit_scale":
        return _SCALE
    return f"clip_image.{key.removeprefix('visual.')}" if key.startswith("visual.") else f"clip_text.{key}"


def _released_sam() -> dict[str, Tensor]:
    """Download segment-anything's ViT-B, once, into PyTorch's cache; its neck is left out."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / SAM_URL.rpartition("/")[2]
    wanted = re.search(r"_([0-9a-f]+)\.pth$", path.name)
    if wanted is None:
        raise ValueError(f"{SAM_URL} does not end in its content's SHA-256")
    try:
        if not path.exists():
            _download_sam(path, wanted[1])
    except (
        OSError,
        HTTPException,
        RuntimeError,
    ) as error:  # RuntimeError: of another hash, such as cut short
        raise CheckpointError(
            f"segment-anything's weights could not be downloaded ({error}): check the connection, or fetch "
            f"{SAM_URL} elsewhere and put it at {path}"
        ) from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(wanted[1]):
        raise CheckpointError(f"{path} is damaged (its SHA-256 is {digest}): delete it and start again")
    state = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "image_encoder."
    return {
        f"sam.{key.removeprefix(prefix)}": tensor
        for key, tensor in state.items()
        if key.startswith(prefix) and not key.startswith(f"{prefix}neck.")
    }


def _download_sam(path: Path, digest: str) -> None:
    """Download to a name of its own and move it once its hash is right; show progress in a terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as turn:
        with suppress(OSError):  # some network file systems lock nothing: then each downloads for itself
            turn.enter_context(locked(path.with_suffix(".lock")))
        if path.exists():  # another process has fetched it meanwhile
            return
        terminal = sys.stderr.isatty()
        if terminal:
            print(f"downloading {path.name}", file=sys.stderr)
        torch.hub.download_url_to_file(SAM_URL, str(path), hash_prefix=digest, progress=terminal)
