"""The masked-attention decoder: queries become masks, mask embeddings and attention biases.

Paper, section 3.2; the layers are Mask2Former's (Cheng et al., CVPR 2022).

B batch, Q queries, D width, E joint embedding size, H CLIP's heads, h x w the mask features' grid,
g x G CLIP's grid.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        kernels = self.mask_mlp(queries)  # (B, Q, D)
        masks = _products(kernels, mask_features)
        embeddings = self.mask_embedding(queries, masks, mask_features)
        bias = self.attention_bias(kernels, self.attention_bias.pixels(mask_features), clip_grid)
        return MaskPrediction(masks, embeddings, bias)

    def predict_all(
        self, mask_features: Tensor, memories: Sequence[Tensor], clip_grid: tuple[int, int]
    ) -> list[MaskPrediction]:
        """All predictions, before the first layer and after each one, as the training losses need.

        They differ in their queries only, so what is not a query's own is computed once for all.
        """
        states = self._run(mask_features, memories)
        count = states[0].shape[1]
        queries = torch.cat(states, dim=1)  # (B, predictions * Q, D)
        kernels = self.mask_mlp(queries)
        masks = torch.einsum("bqd,bdhw->bqhw", kernels, mask_features)
        embeddings = self.mask_embedding(queries, masks, mask_features)
        pixels = self.attention_bias.pixels(mask_features)
        biases = [self.attention_bias(part, pixels, clip_grid) for part in kernels.split(count, dim=1)]
        parts = zip(masks.split(count, dim=1), embeddings.split(count, dim=1), biases, strict=True)
        return [MaskPrediction(*part) for part in parts]

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
            visible = self._visible(states[-1], features[level])
            x = layer(x, positions, keys[level], values[level], visible)
            states.append(self.norm(x))
        return states

    @torch.no_grad()
    def _visible(self, queries: Tensor, features: Tensor) -> Tensor:
        """Pixels (B, Q, hw) inside a query's mask; a query with an empty mask sees everything."""
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask_mlp(queries), features).flatten(2)
        inside = masks.sigmoid() >= 0.5
        return inside | ~inside.any(dim=-1, keepdim=True)


def _products(kernels: Tensor, features: Tensor) -> Tensor:
    """Inner products (B, Q, h, w) of kernels (B, Q, D) with features (B, D, h, w).

    Tall by narrow, which CPUs multiply faster than narrow by wide in half precision; ``einsum`` would not.
    """
    products = features.flatten(2).transpose(1, 2) @ kernels.to(features.dtype).transpose(1, 2)  # (B, hw, Q)
    maps: Tensor = products.transpose(1, 2).unflatten(2, features.shape[-2:])
    return maps


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

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """Update queries x (B, Q, D); keys and values (B, hw, D); visible (B, Q, hw)."""
        x = self.cross_norm(x + _attend(self.cross_attention, x + positions, keys, values, visible[:, None]))
        placed = x + positions
        x = self.self_norm(x + _attend(self.self_attention, placed, placed, x, None))
        updated: Tensor = self.mlp_norm(x + self.linear2(F.relu(self.linear1(x))))
        return updated


def _attend(
    attention: nn.MultiheadAttention, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None
) -> Tensor:
    """Run attention of queries (B, Q, D) to values (B, L, D), with one mask (B, 1, Q, L) for all heads.

    The module's own forward wants the mask once a head, as numbers: most of what the attention costs here.
    """
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, bias).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
    )  # (B, H, ., D / H) each
    merged: Tensor = attention.out_proj(
        F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(2)
    )
    return merged


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

    def forward(self, kernels: Tensor, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Biases (B, H, Q, g * G), the largest in each cell of a grid (g, G).

        ``kernels``: (B, Q, D), of masks. ``pixels``: (B, D, h, w), of ``self.pixels``. The MLP's last layer
        and the scaling are linear, so they are folded into the kernels: H * D channels a pixel are never
        made. Nor are the biases at stride 4 kept, by far the largest tensors there would be.
        """
        folded, constant = self._folded(kernels)
        shape = (pixels.shape[2], pixels.shape[3])
        rows = pixels.flatten(2).transpose(1, 2)  # (B, hw, D)
        kernels = folded.flatten(1, 2).to(pixels.dtype)
        alike = all(side % cells == 0 for side, cells in zip(shape, grid, strict=True))
        largest: Tensor = (
            cell_maxima(kernels, rows, shape, grid)
            if alike and not torch.is_grad_enabled()
            else LargestProducts.apply(kernels, rows, shape, grid)
        )
        pooled: Tensor = largest.unflatten(1, folded.shape[1:3]) + constant
        return pooled

    def pixels(self, mask_features: Tensor) -> Tensor:
        """Run the MLP but for its last layer at every pixel (B, D, h, w)."""
        hidden = self.mlp.hidden(mask_features.flatten(2).transpose(1, 2))
        pixels: Tensor = hidden.transpose(1, 2).unflatten(2, mask_features.shape[-2:])
        return pixels

    def _folded(self, kernels: Tensor) -> tuple[Tensor, Tensor]:
        """Fold the MLP's last layer and the scaling into mask kernels (B, Q, D).

        Returns what to multiply with ``pixels``, (B, H, Q, D), and what to add, (B, H, Q, 1).
        """
        weight, offset = (
            parameter.unflatten(0, (self.clip_heads, -1)) for parameter in self.mlp.layers[-1].parameters()
        )  # (H, D, D) and (H, D)
        folded = torch.einsum("bqc,ncd->bnqd", kernels, weight) * self.scaling.weight
        constant = torch.einsum("bqc,nc->bnq", kernels, offset) * self.scaling.weight + self.scaling.bias
        return folded, constant[..., None]


def cell_maxima(kernels: Tensor, pixels: Tensor, shape: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """As ``LargestProducts``, where all cells have as many pixels, in a third of the time that pooling takes.

    The first pixels of all cells are multiplied, then their second ones, and so on.
    """
    down, right = (side // cells for side, cells in zip(shape, grid, strict=True))
    maps = pixels.unflatten(1, shape)  # (B, h, w, D)

    def products(y: int, x: int) -> Tensor:  # (B, N, g * G)
        of_cells: Tensor = kernels @ maps[:, y::down, x::right].flatten(1, 2).transpose(1, 2)
        return of_cells

    largest = products(0, 0)
    for y, x in itertools.islice(itertools.product(range(down), range(right)), 1, None):
        torch.maximum(largest, products(y, x), out=largest)
    return largest


class LargestProducts(torch.autograd.Function):
    """``adaptive_max_pool2d`` of the inner products of kernels (B, N, D) with pixels (B, h * w, D).

    A pooled product has the gradient of one pixel, the largest: the backward pass gathers these few
    rather than fill and multiply maps of N * h * w numbers that are almost all zero.
    """

    @staticmethod
    def forward(
        ctx: Any, kernels: Tensor, pixels: Tensor, shape: tuple[int, int], grid: tuple[int, int]
    ) -> Tensor:
        """Give (B, N, g * G); ``shape`` is (h, w), ``grid`` (g, G)."""
        (h, w), (g, _) = shape, grid
        values, places = [], []
        for row in range(g):  # the products of a row of the grid fit into a CPU's cache
            top, bottom = row * h // g, -(-(row + 1) * h // g)
            strip = kernels @ pixels[:, top * w : bottom * w].transpose(1, 2)
            value, place = F.adaptive_max_pool2d(
                strip.unflatten(2, (bottom - top, w)), (1, grid[1]), return_indices=True
            )  # (B, N, 1, G)
            values.append(value[:, :, 0])
            places.append(place[:, :, 0].int() + top * w)  # half the memory, and sorted faster
        ctx.save_for_backward(kernels, pixels, torch.cat(places, dim=2))
        return torch.cat(values, dim=2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of kernels and pixels: sums of the others' rows, weighted, as ``embedding_bag`` does."""
        kernels, pixels, places = ctx.saved_tensors  # places: (B, N, g * G), 0..hw
        weights = gradient.to(pixels.dtype).flatten()
        cells = places.shape[2]
        counted = torch.arange(pixels[..., 0].numel(), dtype=torch.int32, device=pixels.device)
        first = counted[:: pixels.shape[1], None, None]
        places = (places + first).flatten()  # 0..B * hw
        of_kernels = F.embedding_bag(
            places.reshape(-1, cells),
            pixels.flatten(0, 1),
            per_sample_weights=weights.reshape(-1, cells),
            mode="sum",
        )
        places, order = places.sort(stable=True)  # stable: equal runs give equal sums
        offsets = torch.searchsorted(places, counted)
        of_pixels = F.embedding_bag(
            order // cells, kernels.flatten(0, 1), offsets, per_sample_weights=weights[order], mode="sum"
        )
        return of_kernels.view_as(kernels), of_pixels.view_as(pixels), None, None
