"""Where a training run's frozen encoders come from: CLIP's and segment-anything's released weights."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import HfHubHTTPError
from open_clip.factory import load_state_dict
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ebseg.checkpoint import load_checkpoint
from ebseg.errors import CheckpointError
from ebseg.loading import checkpoint_path
from ebseg.model import EBSeg

CLIP_MODELS = {"base": "ViT-B-16", "large": "ViT-L-14-336"}
"""OpenCLIP's names of the image and text towers that OpenAI released, by variant."""

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"
"""The last part of the file's name begins the SHA-256 of its content."""

_PARTS = ("clip_image.", "clip_text.", "sam.")


def load_encoders(net: EBSeg, source: str | None) -> None:
    """Give ``net`` the encoders to train with, in place.

    ``source``: a file of encoders (``training.pretrain`` writes one), or a model by its name or file, of
    which only the encoders are taken. None: the released CLIP and segment-anything weights, downloaded once;
    for the small variant, which has no released ones, those of the packaged model.

    Raises CheckpointError for weights that cannot be had, cannot be read or do not fit.
    """
    if source is None and net.config.name in CLIP_MODELS:
        _load_parts(net, _released(net.config.name), "released encoders")
        return
    path = checkpoint_path(source or "ebseg-tiny")
    if path.suffix == ".safetensors" and _holds_encoders(path):
        _load_parts(net, load_file(path), str(path))
        return
    donor, _ = load_checkpoint(path)
    parts = zip(_PARTS, _modules(donor), strict=True)
    state = {f"{prefix}{n}": t for prefix, module in parts for n, t in module.state_dict().items()}
    _load_parts(net, {**state, "clip_logit_scale": donor.text.logit_scale.detach()}, str(path))


def _modules(net: EBSeg) -> tuple[nn.Module, nn.Module, nn.Module]:
    return net.clip.tower, net.text.tower, net.sam.encoder


def _load_parts(net: EBSeg, state: Mapping[str, Tensor], source: str) -> None:
    try:
        for prefix, module in zip(_PARTS, _modules(net), strict=True):
            module.load_state_dict(
                {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
            )
        with torch.no_grad():
            net.text.logit_scale.copy_(state["clip_logit_scale"])
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{source} do not fit EBSeg {net.config.name!r}: {error}") from error


def _holds_encoders(path: Path) -> bool:
    """Tell a file of encoders from a whole model's. Raises CheckpointError for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith(_PARTS[0]) for name in file.keys())  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"encoders {path} cannot be read ({error})") from error


def _released(variant: str) -> dict[str, Tensor]:
    """Download OpenAI's CLIP and segment-anything's ViT-B, each once."""
    name = CLIP_MODELS[variant]
    try:
        clip = load_state_dict(download_pretrained(get_pretrained_cfg(name, "openai")))
    except (OSError, HfHubHTTPError, RuntimeError) as error:
        raise CheckpointError(
            f"CLIP {name} could not be downloaded ({error}): check the connection, or set HF_ENDPOINT to a "
            "mirror"
        ) from error
    state = {"clip_logit_scale": clip.pop("logit_scale")}
    for key, tensor in clip.items():
        part = "clip_image." if key.startswith("visual.") else "clip_text."
        state[part + key.removeprefix("visual.")] = tensor
    return state | {f"sam.{key}": tensor for key, tensor in _released_sam().items()}


def _released_sam() -> dict[str, Tensor]:
    """Download segment-anything's ViT-B into PyTorch's cache and keep its image encoder without the neck."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / SAM_URL.rpartition("/")[2]
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(SAM_URL, str(path), progress=False)
    except OSError as error:
        raise CheckpointError(
            f"segment-anything's weights could not be downloaded ({error}): check the connection, or fetch "
            f"{SAM_URL} elsewhere and put it at {path}"
        ) from error
    wanted = re.search(r"_([0-9a-f]+)\.pth$", path.name)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if wanted is None or not digest.startswith(wanted[1]):
        raise CheckpointError(f"{path} is damaged (its SHA-256 is {digest}): delete it and start again")
    state = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "image_encoder."
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in state.items()
        if key.startswith(prefix) and not key.startswith(prefix + "neck.")
    }
