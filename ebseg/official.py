"""The authors' released checkpoints: their names of our parameters, and reading them strictly.

They are detectron2's pickles; they are read by ``torch.load(weights_only=True)``, which runs no code.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebseg.config import BASE, LARGE, VARIANTS, ModelConfig
from ebseg.errors import CheckpointError
from ebseg.model import EBSeg
from ebseg.vocabulary import Vocabulary

_PREFIXES = {
    "clip.tower.": "clip_visual_extractor.",
    "text.tower.": "ov_classifier.",
    "text.logit_scale": "ov_classifier.logit_scale",
    "text.background": "ov_classifier.bg_embed",
    "sam.encoder.": "backbone.",
    "pixel_decoder.": "sem_seg_head.pixel_decoder.",
    "mask_decoder.": "sem_seg_head.predictor.",
    "fusion.": "sem_seg_head.clip_fusion_layers.",
}
_PIXEL_DECODER = "sem_seg_head.pixel_decoder."
_ENCODER = _PIXEL_DECODER + "transformer.encoder."
_PREDICTOR = "sem_seg_head.predictor."
_LAYER = r"predictor\.layers\.(\d+)\."
_RENAMES = [
    (r"(clip_fusion_layers\.)norms\.(\d)", r"\1\2.0"),
    (r"(clip_fusion_layers\.)projections\.(\d)", r"\1\2.1"),
    (_PIXEL_DECODER + r"inputs\.", _PIXEL_DECODER + "input_proj."),
    (_PIXEL_DECODER + r"level_embedding", _PIXEL_DECODER + "transformer.level_embed"),
    (_PIXEL_DECODER + r"lateral_norm", _PIXEL_DECODER + "adapter_1.norm"),
    (_PIXEL_DECODER + r"lateral\.", _PIXEL_DECODER + "adapter_1."),
    (_PIXEL_DECODER + r"output_norm", _PIXEL_DECODER + "layer_1.norm"),
    (_PIXEL_DECODER + r"output\.", _PIXEL_DECODER + "layer_1."),
    (_PIXEL_DECODER + r"layers\.", _ENCODER + "layers."),
    (r"(encoder\.layers\.\d+\.)attention\.offsets", r"\1self_attn.sampling_offsets"),
    (r"(encoder\.layers\.\d+\.)attention\.weights", r"\1self_attn.attention_weights"),
    (r"(encoder\.layers\.\d+\.)attention\.values", r"\1self_attn.value_proj"),
    (r"(encoder\.layers\.\d+\.)attention\.output", r"\1self_attn.output_proj"),
    (r"(encoder\.layers\.\d+\.)attention_norm", r"\1norm1"),
    (r"(encoder\.layers\.\d+\.)mlp_norm", r"\1norm2"),
    (_PREDICTOR + r"query_features", _PREDICTOR + "query_feat"),
    (_PREDICTOR + r"query_positions", _PREDICTOR + "query_embed"),
    (_PREDICTOR + r"level_embedding", _PREDICTOR + "level_embed"),
    (_PREDICTOR + r"norm\.", _PREDICTOR + "decoder_norm."),
    (_PREDICTOR + r"mask_mlp", _PREDICTOR + "mask_embed"),
    (_PREDICTOR + r"mask_embedding\.pool_norm", _PREDICTOR + "pool_proj.0"),
    (_PREDICTOR + r"mask_embedding\.pool_linear", _PREDICTOR + "pool_proj.1"),
    (_PREDICTOR + r"mask_embedding\.mlp", _PREDICTOR + "mask_embed1"),
    (_PREDICTOR + r"mask_embedding\.scale", _PREDICTOR + "logit_scale"),
    (_PREDICTOR + r"attention_bias\.mlp", _PREDICTOR + "attn_proj"),
    (_PREDICTOR + r"attention_bias\.scaling", _PREDICTOR + "bias_scaling"),
    (_LAYER + r"cross_attention", r"predictor.transformer_cross_attention_layers.\1.multihead_attn"),
    (_LAYER + r"cross_norm", r"predictor.transformer_cross_attention_layers.\1.norm"),
    (_LAYER + r"self_attention", r"predictor.transformer_self_attention_layers.\1.self_attn"),
    (_LAYER + r"self_norm", r"predictor.transformer_self_attention_layers.\1.norm"),
    (_LAYER + r"mlp_norm", r"predictor.transformer_ffn_layers.\1.norm"),
    (_LAYER + r"(linear\d)", r"predictor.transformer_ffn_layers.\1.\2"),
]  # fmt: skip
_FUSED_ATTENTION = [("in_proj_", "qkv."), ("out_proj.", "proj.")]
_SHARED = {
    f"clip_visual_extractor.{name}": f"clip_rec_head.{name}"
    for name in ("proj", "ln_post.weight", "ln_post.bias")
}
"""Tensors that the authors' two CLIP modules share: stored twice. Loading fills the second last."""


def official_names(net: EBSeg) -> dict[str, str]:
    """Map our parameters' names to the authors'."""
    return {name: _official_name(name, net.config) for name, _ in net.named_parameters()}


def _official_name(name: str, config: ModelConfig) -> str:
    for ours, theirs in _PREFIXES.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    if name.startswith("clip_visual_extractor."):
        return _official_clip_name(name.replace(".transformer.", "."), config)
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _official_clip_name(name: str, config: ModelConfig) -> str:
    """CLIP's blocks: surgery blocks have an attention class of their own, the last ones a module."""
    if name in _SHARED:
        return _SHARED[name]
    match = re.fullmatch(r"clip_visual_extractor\.resblocks\.(\d+)\.(.+)", name)
    if match is None:
        return name
    depth, rest = int(match[1]), match[2]
    if depth >= config.clip.surgery_start:
        for ours, theirs in _FUSED_ATTENTION:
            rest = rest.replace(f"attn.{ours}", f"attn.{theirs}")
    if depth >= config.clip.recognition_start:
        return f"clip_rec_head.resblocks.{depth - config.clip.recognition_start}.{rest}"
    return f"clip_visual_extractor.resblocks.{depth}.{rest}"


def _buffers(net: EBSeg) -> dict[str, Tensor]:
    """Buffers in the authors' state that carry nothing learned: written, and accepted but not read."""
    classes = len(Vocabulary.from_dataset("coco-stuff-171"))
    weight = torch.ones(classes + 1)
    weight[-1] = 0.1
    return {"criterion.empty_weight": weight, "ov_classifier.attn_mask": net.text.tower.attn_mask}


def load_official(net: EBSeg, state: Mapping[str, Tensor]) -> None:
    """Load the authors' parameters into ``net``, in place, by exact names and shapes.

    Raises CheckpointError that lists what is missing, left over or misshapen; ``net`` is unchanged then.
    """
    names = official_names(net)
    wanted = {theirs: parameter for parameter, theirs in zip(net.parameters(), names.values(), strict=True)}
    missing = sorted((wanted.keys() | _SHARED.keys()) - state.keys())
    left_over = sorted(state.keys() - wanted.keys() - _SHARED.keys() - _buffers(net).keys())
    shapes = {**wanted, **{first: wanted[second] for first, second in _SHARED.items()}}
    misshapen = [
        f"{name} is {tuple(state[name].shape)} and should be {tuple(parameter.shape)}"
        for name, parameter in sorted(shapes.items())
        if name in state and state[name].shape != parameter.shape
    ]
    require_match(net.config, missing, left_over, misshapen)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(state[name])
    net.trained_on(Vocabulary.from_dataset("coco-stuff-171"))


def to_official(net: EBSeg) -> dict[str, Tensor]:
    """Return the authors' state dict of ``net``, with its doubled tensors and its buffers."""
    state = {
        theirs: parameter.detach().clone()
        for parameter, theirs in zip(net.parameters(), official_names(net).values(), strict=True)
    }
    for first, second in _SHARED.items():
        state[first] = state[second]
    return state | _buffers(net)


def require_match(
    config: ModelConfig, missing: list[str], left_over: list[str], misshapen: list[str]
) -> None:
    """Raise CheckpointError that lists the tensors that are missing, left over and misshapen."""
    complaints = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in (("missing", missing), ("left over", left_over), ("misshapen", misshapen))
        if names
    ]
    if complaints:
        raise CheckpointError(
            f"This is not a checkpoint of EBSeg {config.name!r}: {'; '.join(complaints)}. "
            f"Use the file that belongs to this variant ({', '.join(VARIANTS)})."
        )


def require_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that could only predict nonsense."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: {name} has values that are not finite: the file is damaged, or its training "
                "diverged. Use another checkpoint."
            )


def read_official(path: Path) -> dict[str, Tensor]:
    """Read the model's state in a detectron2 checkpoint without running its pickle."""
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is damaged, or holds more than tensors and numbers. "
            f"Fetch it again. ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f'{path} holds no state under "model": it is not a released EBSeg checkpoint.')
    return state


def _numpy_globals() -> list[Any]:
    """List what NumPy scalars and arrays in a pickle are made of, under NumPy 1's and 2's module names."""
    kinds = np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"
    dtypes = {type(np.dtype(kind)) for kind in kinds}
    functions = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.empty(0).__reduce__()[0]}
    renamed = [
        (function, f"numpy.{core}.multiarray.{name}")
        for name, function in functions.items()
        for core in ("core", "_core")
    ]
    return [np.dtype, np.ndarray, *dtypes, *renamed]


def official_variant(state: Mapping[str, Tensor], path: Path) -> ModelConfig:
    """Tell which variant a released checkpoint holds. Raises CheckpointError for none of them."""
    width = state.get("clip_visual_extractor.class_embedding", torch.empty(0)).shape[0]
    for config in (BASE, LARGE):
        if config.clip.image_width == width:
            return config
    raise CheckpointError(
        f"{path} is neither EBSeg-B nor EBSeg-L: clip_visual_extractor.class_embedding has {width} values."
    )
