"""Fusion of CLIP's features into the spatial encoder's, and the multi-scale pixel decoder.

Paper, section 3.2. The decoder is Mask2Former's (Cheng et al., CVPR 2022) with the multi-scale
deformable attention of Deformable DETR (Zhu et al., ICLR 2021), in plain PyTorch.

B batch, D width, H heads, P points, S scales, N = tokens of all scales.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebseg.config import DecoderConfig

_GROUPS = 32
"""Groups of GroupNorm."""


class ClipFusion(nn.Module):
    """Adds CLIP's features to the spatial encoder's maps at strides 8, 16 and 32."""

    def __init__(self, *, clip_width: int, sam_width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(clip_width, eps=1e-6) for _ in range(3))
        self.projections = nn.ModuleList(nn.Conv2d(clip_width, sam_width, 1) for _ in range(3))

    def forward(self, spatial: Sequence[Tensor], clip: Sequence[Tensor]) -> list[Tensor]:
        """Fuse. ``spatial``: four (B, C, h, w) maps, stride 4 first; ``clip``: three maps, shallow first."""
        fused = [spatial[0]]
        for x, features, norm, projection in zip(
            spatial[1:], clip, self.norms, self.projections, strict=True
        ):
            y = norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            y = F.interpolate(projection(y), size=x.shape[-2:], mode="bilinear", align_corners=False)
            fused.append(x + y)
        return fused


class PixelDecoder(nn.Module):
    """From four maps to mask features at stride 4 and three memories for the mask decoder."""

    def __init__(self, config: DecoderConfig, *, in_width: int) -> None:
        super().__init__()
        width = config.width
        self.inputs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_width, width, 1), nn.GroupNorm(_GROUPS, width)) for _ in range(3)
        )
        self.level_embedding = nn.Parameter(torch.randn(3, width))
        self.layers = nn.ModuleList(DeformableLayer(config) for _ in range(config.pixel_layers))
        self.lateral = nn.Conv2d(in_width, width, 1, bias=False)
        self.lateral_norm = nn.GroupNorm(_GROUPS, width)
        self.output = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.output_norm = nn.GroupNorm(_GROUPS, width)
        self.mask_features = nn.Conv2d(width, width, 1)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for module in (*(projection[0] for projection in self.inputs), self.lateral, self.output):  # type: ignore[index]
            nn.init.xavier_uniform_(module.weight)
        for conv in (*(projection[0] for projection in self.inputs), self.mask_features):  # type: ignore[index]
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode four (B, C, h, w) maps, stride 4 first.

        Returns the mask features (B, D, height / 4, width / 4) and three (B, D, h, w) memories at
        strides 32, 16 and 8, in this order. Mixed precision stops here, as in the authors' code.
        """
        with torch.autocast(maps[0].device.type, enabled=False):
            return self._decode([x.to(self.mask_features.weight.dtype) for x in maps])

    def _decode(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        levels = [project(x) for project, x in zip(self.inputs, reversed(maps[1:]), strict=True)]
        shapes = [(x.shape[2], x.shape[3]) for x in levels]
        positions = torch.cat(
            [
                sine_positions(h, w, x.shape[1], x.device).flatten(1).T + embedding
                for x, (h, w), embedding in zip(levels, shapes, self.level_embedding, strict=True)
            ]
        )  # (N, D)
        reference = _pixel_centres(shapes, levels[0].device)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)  # (B, N, D)
        for layer in self.layers:
            tokens = layer(tokens, positions, reference, shapes)
        parts = tokens.split([h * w for h, w in shapes], dim=1)
        memories = [
            part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)
        ]
        finest = self.lateral_norm(self.lateral(maps[0]))
        finest = finest + F.interpolate(
            memories[-1], size=finest.shape[-2:], mode="bilinear", align_corners=False
        )
        finest = F.relu(self.output_norm(self.output(finest)))
        return self.mask_features(finest), memories


class DeformableLayer(nn.Module):
    """One post-norm encoder layer: deformable self-attention over all scales, then an MLP."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention = DeformableAttention(config, scales=3)
        self.attention_norm = nn.LayerNorm(config.width)
        self.linear1 = nn.Linear(config.width, config.pixel_ffn)
        self.linear2 = nn.Linear(config.pixel_ffn, config.width)
        self.mlp_norm = nn.LayerNorm(config.width)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, tokens: Tensor, positions: Tensor, reference: Tensor, shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Run on tokens (B, N, D) with positions (N, D) and reference points (N, 2) as (x, y) in 0..1."""
        attended = self.attention(tokens + positions, tokens, reference, shapes)
        tokens = self.attention_norm(tokens + attended)
        mixed: Tensor = self.mlp_norm(tokens + self.linear2(F.relu(self.linear1(tokens))))
        return mixed


class DeformableAttention(nn.Module):
    """Attention to a few learned sampling points a head and scale (Deformable DETR, section 4.1)."""

    def __init__(self, config: DecoderConfig, *, scales: int) -> None:
        super().__init__()
        self.heads, self.scales, self.points = config.heads, scales, config.points
        samples = self.heads * scales * self.points
        self.offsets = nn.Linear(config.width, samples * 2)
        self.weights = nn.Linear(config.width, samples)
        self.values = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        # Heads start looking in evenly spread directions, points ever farther out.
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (H, 2)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        reach = torch.arange(1, self.points + 1)[:, None]  # (P, 1)
        start = (directions[:, None, None] * reach).expand(-1, self.scales, -1, -1)  # (H, S, P, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(start.flatten())
        for zero in (self.offsets.weight, self.weights.weight, self.weights.bias):
            nn.init.zeros_(zero)
        for linear in (self.values, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, queries: Tensor, tokens: Tensor, reference: Tensor, shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Attend from queries (B, N, D) to values of tokens (B, N, D) around reference points (N, 2).

        Bilinear sampling with zeros outside, as a weighted sum of table rows (``embedding_bag``):
        rows of one head lie side by side in memory, which is several times faster on a CPU than
        ``grid_sample`` with its one read a channel, and gives the same numbers.
        """
        batch, length, width = tokens.shape
        table = self.values(tokens).reshape(batch * length * self.heads, width // self.heads)
        sampling = (batch, length, self.heads, self.scales, self.points)
        offsets = self.offsets(queries).reshape(*sampling, 2)
        shares = self.weights(queries).reshape(*sampling[:3], -1).softmax(dim=-1).reshape(sampling)
        sizes = torch.tensor([(w, h) for h, w in shapes], device=tokens.device)[:, None]  # (S, 1, 2)
        pixels = (reference[:, None, None, None] + offsets / sizes) * sizes - 0.5  # (B, N, H, S, P, 2)
        # Rows and weights of all sampling points are large and quickly made: the backward pass makes
        # them again rather than keep them (75 MiB a layer at 640x640).
        summed: Tensor = checkpoint(
            self._sampled, table, pixels, shares, shapes, use_reentrant=False, preserve_rng_state=False
        )
        merged: Tensor = self.output(summed.reshape(batch, length, width))
        return merged

    def _sampled(
        self, table: Tensor, pixels: Tensor, shares: Tensor, shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Weighted sums (B * N * H, D / H) of the table's rows at pixels (B, N, H, S, P, 2)."""
        rows, weights = self._bilinear(pixels, shares, shapes, pixels.shape[1])
        rows, weights = rows.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)
        # PyTorch sorts the rows in the backward pass, which is faster with 32 bits.
        return F.embedding_bag(rows.int(), table, per_sample_weights=weights, mode="sum")

    def _bilinear(
        self, pixels: Tensor, shares: Tensor, shapes: list[tuple[int, int]], length: int
    ) -> tuple[Tensor, Tensor]:
        """Table rows and weights (B, N, H, S, P, 4) of the four pixels around each sampling point."""
        device = pixels.device
        heights, widths, starts = (
            torch.tensor(column, device=device)[:, None] for column in zip(*_layout(shapes), strict=True)
        )  # (S, 1) each
        corner = pixels.detach().floor()
        right, down = (pixels - corner).unbind(-1)
        x, y = corner.long().unbind(-1)
        batches = torch.arange(len(pixels), device=device).reshape(-1, 1, 1, 1, 1) * length
        heads = torch.arange(self.heads, device=device).reshape(-1, 1, 1)
        rows, weights = [], []
        for row, vertical in ((y, 1 - down), (y + 1, down)):
            for column, horizontal in ((x, 1 - right), (x + 1, right)):
                inside = (row >= 0) & (row < heights) & (column >= 0) & (column < widths)
                token = batches + starts + row * widths + column
                rows.append(torch.where(inside, token * self.heads + heads, 0))
                weights.append(shares * vertical * horizontal * inside)
        return torch.stack(rows, dim=-1), torch.stack(weights, dim=-1)


def _layout(shapes: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Height, width and first token of each scale."""
    layout, start = [], 0
    for h, w in shapes:
        layout.append((h, w, start))
        start += h * w
    return layout


def _pixel_centres(shapes: list[tuple[int, int]], device: torch.device) -> Tensor:
    """Centres (N, 2) of all scales' pixels as (x, y) in 0..1."""
    centres = []
    for h, w in shapes:
        y = (torch.arange(h, device=device) + 0.5) / h
        x = (torch.arange(w, device=device) + 0.5) / w
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([columns, rows], dim=-1).flatten(0, 1))
    return torch.cat(centres)


def sine_positions(h: int, w: int, width: int, device: torch.device) -> Tensor:
    """Sine positional embedding (width, h, w), y's half before x's (DETR, Carion et al. 2020)."""
    half = width // 2
    index = torch.arange(half, device=device)
    periods = 10000 ** (2 * (index // 2) / half)  # (half,)
    y = torch.arange(1, h + 1, device=device) / (h + 1e-6) * (2 * math.pi)
    x = torch.arange(1, w + 1, device=device) / (w + 1e-6) * (2 * math.pi)

    def waves(angle: Tensor) -> Tensor:  # (n,) to (n, half), sine and cosine alternating
        phase = angle[:, None] / periods
        return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=-1).flatten(1)

    rows = waves(y).T[:, :, None].expand(-1, -1, w)
    columns = waves(x).T[:, None, :].expand(-1, h, -1)
    return torch.cat([rows, columns])
