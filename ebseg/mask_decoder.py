"""The masked-attention decoder: queries become masks, mask embeddings and attention biases.

Paper, section 3.2; the layers are Mask2Former's (Cheng et al., CVPR 2022).

B batch, Q queries, D width, E joint embedding size, H CLIP's heads, h x w the mask features' grid,
g x G CLIP's grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebseg.config import DecoderConfig
from ebseg.pixel_decoder import sine_positions

_MAX_EMBEDDING_SCALE = 10.0


@dataclass(frozen=True)
class MaskPrediction:
    """One prediction of all masks.

    ``masks``: (B, Q, h, w) logits at stride 4. ``embeddings``: (B, Q, E), the A embeddings, of
    length ``embedding_scale``. ``bias``: (B, H, Q, g * G), for CLIP's recognition.
    """

    masks: Tensor
    embeddings: Tensor
    bias: Tensor


class MaskDecoder(nn.Module):
    """Queries that attend, layer by layer, to the pixels of the masks they predicted so far."""

    def __init__(self, config: DecoderConfig, *, embed_dim: int, clip_heads: int) -> None:
        super().__init__()
        width = config.width
        self.query_features = nn.Embedding(config.queries, width)
        self.query_positions = nn.Embedding(config.queries, width)
        self.level_embedding = nn.Embedding(3, width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.mask_layers))
        self.norm = nn.LayerNorm(width)
        self.mask_mlp = MLP(width, width)
        self.mask_embedding = MaskEmbedding(width, embed_dim)
        self.attention_bias = AttentionBias(width, clip_heads)

    def forward(
        self, mask_features: Tensor, memories: Sequence[Tensor], clip_grid: tuple[int, int]
    ) -> MaskPrediction:
        """Predict masks, for inference: only what reaches the output is computed.

        ``mask_features``: (B, D, h, w); ``memories``: three (B, D, ., .) maps, coarse to fine.
        """
        queries = self._run(mask_features, memories)[-1]
        return self._predict(queries, mask_features, clip_grid)

    def predict_all(
        self, mask_features: Tensor, memories: Sequence[Tensor], clip_grid: tuple[int, int]
    ) -> list[MaskPrediction]:
        """All predictions, before the first layer and after each one, as the training losses need."""
        return [
            self._predict(queries, mask_features, clip_grid) for queries in self._run(mask_features, memories)
        ]

    def _run(self, mask_features: Tensor, memories: Sequence[Tensor]) -> list[Tensor]:
        """Normed queries (B, Q, D) before the first layer and after each one."""
        batch, width = mask_features.shape[:2]
        values, keys, features = [], [], []
        for memory, embedding in zip(memories, self.level_embedding.weight, strict=True):
            h, w = memory.shape[-2:]
            value = memory.flatten(2).transpose(1, 2) + embedding  # (B, hw, D)
            values.append(value)
            keys.append(value + sine_positions(h, w, width, memory.device).flatten(1).T)
            # A mask is linear in the mask features: resizing these once, and not the masks of every
            # layer, gives the same attention masks with a fraction of the work.
            features.append(
                F.interpolate(mask_features.detach(), size=(h, w), mode="bilinear", align_corners=False)
            )
        positions = self.query_positions.weight
        x = self.query_features.weight.expand(batch, -1, -1)  # (B, Q, D)
        states = [self.norm(x)]
        for depth, layer in enumerate(self.layers):
            level = depth % len(values)
            blocked = self._blocked(states[-1], features[level])
            x = layer(x, positions, keys[level], values[level], blocked)
            states.append(self.norm(x))
        return states

    @torch.no_grad()
    def _blocked(self, queries: Tensor, features: Tensor) -> Tensor:
        """Pixels (B, Q, hw) outside a query's mask; a query with an empty mask sees everything."""
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask_mlp(queries), features).flatten(2)
        blocked = masks.sigmoid() < 0.5
        return blocked & ~blocked.all(dim=-1, keepdim=True)

    def _predict(self, queries: Tensor, mask_features: Tensor, clip_grid: tuple[int, int]) -> MaskPrediction:
        kernels = self.mask_mlp(queries)  # (B, Q, D)
        masks = torch.einsum("bqd,bdhw->bqhw", kernels, mask_features)
        embeddings = self.mask_embedding(queries, masks, mask_features)
        if torch.is_grad_enabled():
            # The biases at stride 4 are the largest tensors of a training step (H * Q * h * w a
            # prediction): computed again in the backward pass rather than kept.
            bias: Tensor = checkpoint(
                self._pooled_bias, kernels, mask_features, clip_grid, use_reentrant=False
            )
        else:
            bias = self._pooled_bias(kernels, mask_features, clip_grid)
        return MaskPrediction(masks=masks, embeddings=embeddings, bias=bias)

    def _pooled_bias(self, kernels: Tensor, mask_features: Tensor, clip_grid: tuple[int, int]) -> Tensor:
        bias = self.attention_bias(kernels, mask_features)  # (B, H, Q, h, w)
        pooled: Tensor = F.adaptive_max_pool2d(bias.flatten(1, 2), clip_grid)  # (B, H * Q, g, G)
        return pooled.reshape(*bias.shape[:3], -1)


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and an MLP, each followed by its norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.cross_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_norm = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, config.mask_ffn)
        self.linear2 = nn.Linear(config.mask_ffn, width)
        self.mlp_norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, blocked: Tensor) -> Tensor:
        """Update queries x (B, Q, D); keys and values (B, hw, D); blocked (B, Q, hw)."""
        blocked = blocked.repeat_interleave(self.cross_attention.num_heads, dim=0)  # (B * heads, Q, hw)
        attended, _ = self.cross_attention(x + positions, keys, values, attn_mask=blocked, need_weights=False)
        x = self.cross_norm(x + attended)
        attended, _ = self.self_attention(x + positions, x + positions, x, need_weights=False)
        x = self.self_norm(x + attended)
        updated: Tensor = self.mlp_norm(x + self.linear2(F.relu(self.linear1(x))))
        return updated


class MLP(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out_width)]
        )

    def hidden(self, x: Tensor) -> Tensor:
        """Compute the input of the last layer."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., out_width)."""
        mapped: Tensor = self.layers[-1](self.hidden(x))
        return mapped


class MaskEmbedding(nn.Module):
    """The A embedding of a mask: what its pixels look like, plus what its query knows."""

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__()
        self.pool_norm = nn.LayerNorm(width)
        self.pool_linear = nn.Linear(width, width)
        self.mlp = MLP(width, embed_dim)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, queries: Tensor, masks: Tensor, mask_features: Tensor) -> Tensor:
        """Embeddings (B, Q, E) from normed queries (B, Q, D), mask logits and mask features."""
        hard = (masks.detach() > 0).to(mask_features.dtype)
        pooled = torch.einsum("bqhw,bdhw->bqd", hard, mask_features)
        pooled = pooled / (hard.sum(dim=(2, 3))[..., None] + 1e-8)
        x = self.pool_linear(self.pool_norm(pooled)) + queries
        return F.normalize(self.mlp(x), dim=-1) * self.scale.clamp(max=_MAX_EMBEDDING_SCALE)


class AttentionBias(nn.Module):
    """Where copies of CLIP's class token shall look: one bias a mask, CLIP head and pixel."""

    def __init__(self, width: int, clip_heads: int) -> None:
        super().__init__()
        self.clip_heads = clip_heads
        self.mlp = MLP(width, width * clip_heads)
        self.scaling = nn.Linear(1, 1)

    def forward(self, kernels: Tensor, mask_features: Tensor) -> Tensor:
        """Biases (B, H, Q, h, w) from mask kernels (B, Q, D) and mask features (B, D, h, w).

        The MLP's last layer and the scaling are linear, so they are folded into the kernels: H * D
        channels a pixel are never made.
        """
        weight, offset = (
            parameter.unflatten(0, (self.clip_heads, -1)) for parameter in self.mlp.layers[-1].parameters()
        )  # (H, D, D) and (H, D)
        folded = torch.einsum("bqc,ncd->bnqd", kernels, weight) * self.scaling.weight
        constant = torch.einsum("bqc,nc->bnq", kernels, offset) * self.scaling.weight + self.scaling.bias
        pixels = self.mlp.hidden(mask_features.flatten(2).transpose(1, 2))  # (B, hw, D)
        bias: Tensor = torch.einsum("bnqd,bpd->bnqp", folded, pixels) + constant[..., None]
        return bias.reshape(*bias.shape[:3], *mask_features.shape[-2:])
