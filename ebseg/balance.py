"""The adaptively balanced (AdaB) decoder: three embeddings of one mask, balanced at inference.

Paper, section 3.3. Q masks, E joint embedding size, K labels, B batch, h x w CLIP's grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ebseg.config import BalanceConfig

_EPSILON = 1e-8


def pool_dense_features(masks: Tensor, dense: Tensor) -> Tensor:
    """Embedding C: CLIP's dense features averaged inside each mask.

    ``masks``: (B, Q, ., .) logits; ``dense``: (B, E, h, w). Returns (B, Q, E); an empty mask gives zeros.
    """
    masks = F.interpolate(masks, size=dense.shape[-2:], mode="bilinear", align_corners=False)
    inside = (masks.sigmoid() > 0.5).to(dense.dtype)
    summed = torch.einsum("bqhw,behw->bqe", inside, dense)
    return summed / (inside.sum(dim=(2, 3))[..., None] + _EPSILON)


def balance(a: Tensor, b: Tensor, c: Tensor, seen: Tensor, config: BalanceConfig) -> Tensor:
    """Balance three sets of class logits.

    ``a``: (B, Q, K + 1), the background last; ``b``, ``c``: (B, Q, K) or with the background, which
    is not used; ``seen``: (K,) bool, whether a label was trained on. Returns log-probabilities
    (B, Q, K + 1), the background last; they do not sum to one exactly (paper, equations 5 and 6:
    seen labels A^(1-alpha-gamma) C^alpha B^gamma, others A^(1-beta-gamma) C^beta B^gamma).
    """
    labels = len(seen)
    dense_share = torch.where(seen, config.alpha, config.beta).to(a.dtype)  # (K,)
    decoder_share = 1 - dense_share - config.gamma
    p_a, p_b, p_c = (logits[..., :labels].softmax(dim=-1) for logits in (a, b, c))
    product = p_a**decoder_share * p_c**dense_share * p_b**config.gamma
    background = a.softmax(dim=-1)[..., labels:]  # (B, Q, 1)
    balanced = (product + _EPSILON).log().softmax(dim=-1) * (1 - background)
    return (torch.cat([balanced, background], dim=-1) + _EPSILON).log()
