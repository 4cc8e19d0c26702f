"""The spatial encoder: segment-anything's image encoder, frozen, read at four depths.

Paper, section 3.2. Kirillov et al., "Segment Anything", 2023; the blocks are ViTDet's.

B batch, h x w patches, C width, H heads, D = C / H.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch import Tensor, nn

from ebseg.config import SamConfig

ALIGNMENT = 16
"""Multiples of so many numbers a head are multiplied fast, by AMX above all: of 158, at half the speed."""

STRIDES = (8, 16, 32)
"""Pixels a cell of all outputs but the shallowest, shallow to deep."""


def build_image_encoder(config: SamConfig) -> ImageEncoderViT:
    """Build segment-anything's image encoder without its neck, with random weights."""
    encoder = ImageEncoderViT(
        img_size=config.grid * config.patch_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        rel_pos_zero_init=True,
        window_size=config.window,
        global_attn_indexes=config.global_blocks,
    )
    del encoder.neck
    return encoder


class SpatialEncoder(nn.Module):
    """Four feature maps of a photo, which the paper has at strides 4, 8, 16 and 32.

    The first is given as the patches are: what reads it, a 1x1 convolution, commutes with its resizing to
    stride 4, and costs a sixteenth before it.
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_image_encoder(config)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode.

        ``images``: (B, 3, height, width), normalised, sides multiples of 32. Returns four
        (B, C, height / stride, width / stride) maps: the shallowest at the patches' own stride, then STRIDES.
        """
        x = self.encoder.patch_embed(images)  # (B, h, w, C)
        x = x + self.positions(x.shape[1], x.shape[2])
        if not torch.is_grad_enabled():
            # A patch's channels side by side: the convolution gives them apart, and so they would stay.
            # Training gains nothing from it, and one that was begun otherwise goes on with its very numbers.
            x = x.contiguous()
        outputs: list[Tensor] = []
        for depth, block in enumerate(self.encoder.blocks):
            x = _block(block, x)
            if depth in self.config.global_blocks:
                scale = self.config.patch_size / STRIDES[len(outputs) - 1] if outputs else 1
                outputs.append(_rescale(x.permute(0, 3, 1, 2), scale))
        return outputs

    def positions(self, h: int, w: int) -> Tensor:
        """Resize the positional embedding to (1, h, w, C)."""
        grid = self.encoder.pos_embed.permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False)
        return grid.permute(0, 2, 3, 1)


def _rescale(x: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return x
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def _block(block: Any, x: Tensor) -> Tensor:
    """Run one of segment-anything's blocks on (B, h, w, C) with fused attention."""
    h, w = x.shape[1:3]
    y = block.norm1(x)
    if block.window_size:
        # Windows are zero-padded after the norm and the padding is not masked, as in the original.
        y, padded = window_partition(y, block.window_size)
        y = window_unpartition(_attend(block.attn, y), block.window_size, padded, (h, w))
    else:
        y = _attend(block.attn, y)
    x = x + y
    x = x + block.mlp(block.norm2(x))
    return x


def _attend(attention: Any, x: Tensor) -> Tensor:
    """Self-attention of (B, h, w, C) with decomposed relative positions."""
    batch, h, w, _ = x.shape
    qkv = attention.qkv(x).reshape(batch, h * w, 3, attention.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, hw, D)
    q, k = _with_relative_positions(attention, q, k, (h, w))
    v = F.pad(v, (0, q.shape[-1] - v.shape[-1]))  # fused kernels want one size for all three
    x = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., : x.shape[-1] // attention.num_heads]
    merged: Tensor = attention.proj(x.transpose(1, 2).reshape(batch, h, w, -1))
    return merged


def _with_relative_positions(
    attention: Any, q: Tensor, k: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Extend scaled queries and keys (B, H, hw, D) to (B, H, hw, D + h + w + zeros) by relative positions.

    To the product of a query and a key belong the query's products with the embeddings of the row
    and the column offset between them. The query carries its products with all h + w offsets, and the
    key picks its row's and its column's by ones among zeros. So no attention bias (B, H, hw, hw) is
    made: it would be most of the memory, and a bias with a gradient keeps PyTorch from its fused kernels.
    Those are fast for multiples of ALIGNMENT, up to which zeros are added.
    """
    h, w = grid
    rows = get_rel_pos(h, h, attention.rel_pos_h).to(q.dtype)  # (h, h, D)
    columns = get_rel_pos(w, w, attention.rel_pos_w).to(q.dtype)  # (w, w, D)
    pixels = q.unflatten(2, grid)  # (B, H, h, w, D)
    by_row = torch.einsum("bnhwd,hkd->bnhwk", pixels, rows).flatten(2, 3)  # (B, H, hw, h)
    by_column = torch.einsum("bnhwd,wkd->bnhwk", pixels, columns).flatten(2, 3)  # (B, H, hw, w)
    own_row = torch.eye(h, dtype=k.dtype, device=k.device).repeat_interleave(w, dim=0)  # (hw, h)
    own_column = torch.eye(w, dtype=k.dtype, device=k.device).repeat(h, 1)  # (hw, w)
    missing = -(q.shape[-1] + h + w) % ALIGNMENT
    places = torch.cat([own_row, own_column, own_row.new_zeros(h * w, missing)], dim=1)
    zeros = by_row.new_zeros(*by_row.shape[:3], missing)
    queries = torch.cat([q * attention.scale, by_row, by_column, zeros], dim=-1)
    return queries, torch.cat([k, places.expand(*k.shape[:2], -1, -1)], dim=-1)
