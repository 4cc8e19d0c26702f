"""Deterministic, order-independent weights for EBSeg state dicts (see rule() for the exact rule)."""

import math, re, zlib
import torch

# the only state-dict keys that share storage in the official model (same rule for B and L)
ALIAS = {
    "clip_rec_head.proj": "clip_visual_extractor.proj",
    "clip_rec_head.ln_post.weight": "clip_visual_extractor.ln_post.weight",
    "clip_rec_head.ln_post.bias": "clip_visual_extractor.ln_post.bias",
}
SKIP = {
    "ov_classifier.attn_mask",
    "criterion.empty_weight",  # float *buffers*: leave as built
    "pixel_mean",
    "pixel_std",
    "sam_pixel_mean",
    "sam_pixel_std",
}  # (non-persistent officially)
SMALL = (
    "positional_embedding",
    "pos_embed",
    "token_embedding.weight",
    "level_embed",
    "level_embed.weight",
    "rel_pos_h",
    "rel_pos_w",
    "class_embedding",
    "bg_embed",
)  # suffixes -> 0.02 * x
UNIT = ("query_feat.weight", "query_embed.weight")  # suffixes -> 1.0 * x
CONST = {
    "ov_classifier.logit_scale": math.log(1 / 0.07),
    "sem_seg_head.predictor.logit_scale": 1.0,
    "sem_seg_head.predictor.bias_scaling.weight": 1.0,
    "sem_seg_head.predictor.bias_scaling.bias": 0.0,
}


# extra factors / offsets (regex fully matched against the canonical key; at most one of each applies)
_P, _R, _T = r"sem_seg_head\.predictor\.", r"clip_rec_head\.resblocks\..*", r"ov_classifier\.transformer\..*"
GAIN = [
    (re.compile(p), g)
    for p, g in [
        (_P + r"transformer_.*\.(out_proj|linear2)\.weight", 0.1),
        (_P + r"pool_proj\.1\.weight", 0.3),
        (_P + r"mask_embed\.layers\.2\.weight", 4.0),
        (_P + r"attn_proj\.layers\.2\.weight", 2.0),
        (r"sem_seg_head\.pixel_decoder\.mask_features\.weight", 4.0),
        (r"ov_classifier\.token_embedding\.weight", 10.0),
        (_T + r"attn\.in_proj_weight", 2.0),
        (_T + r"mlp\.c_proj\.weight", 0.5),
        (r"clip_visual_extractor\.resblocks\..*(mlp\.c_proj|attn\.out_proj|attn\.proj)\.weight", 0.25),
        (_R + r"attn\.qkv\.weight", 1.5),
        (_R + r"attn\.proj\.weight", 4.0),
        (_R + r"mlp\.c_proj\.weight", 0.5),
    ]
]
OFFSET = [
    (re.compile(p), o)
    for p, o in [
        (_P + r"mask_embed1?\.layers\.[01]\.bias", -0.5),
        (r"sem_seg_head\.pixel_decoder\.layer_1\.norm\.bias", -1.0),
    ]
]


def rule(key, shape, seed):
    key = ALIAS.get(key, key)
    x = _base(key, shape, seed)
    for p, g in GAIN:
        if p.fullmatch(key):
            x = x * g
    for p, o in OFFSET:
        if p.fullmatch(key):
            x = x + o
    return x


def _base(key, shape, seed):
    if key in CONST:
        return torch.full(tuple(shape), CONST[key], dtype=torch.float32)
    g = torch.Generator().manual_seed((zlib.crc32(key.encode()) ^ seed) & 0x7FFFFFFF)
    x = torch.randn(tuple(shape), generator=g, dtype=torch.float32)
    if key.endswith(UNIT):
        return x
    if key.endswith(SMALL):
        return 0.02 * x
    if len(shape) == 1:
        return 1 + 0.05 * x if key.endswith(".weight") else 0.02 * x
    fan_in = 1
    for s in shape[1:]:
        fan_in *= s
    return x * (1.0 / math.sqrt(fan_in))


@torch.no_grad()
def fill(state_dict, seed):
    """Fill every floating tensor of `state_dict` IN PLACE; result does not depend on key order."""
    for k, v in state_dict.items():
        if k in SKIP or not torch.is_floating_point(v):
            continue
        v.copy_(rule(k, v.shape, seed))
    return state_dict
