"""Fusion of CLIP's features into the spatial encoder's, and the multi-scale pixel decoder.

Paper, section 3.2. The decoder is Mask2Former's (Cheng et al., CVPR 2022) with the multi-scale
deformable attention of Deformable DETR (Zhu et al., ICLR 2021), in plain PyTorch.

B batch, D width, H heads, P points, S scales, N = tokens of all scales.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebseg.config import DecoderConfig
from ebseg.recompute import made_again

_GROUPS = 32
"""Groups of GroupNorm."""

_TOKENS_AT_ONCE = 2048
"""Tokens whose samples a CPU works out together: what more of them need would not stay in its caches."""


class ClipFusion(nn.Module):
    """Adds CLIP's features to the spatial encoder's maps at strides 8, 16 and 32."""

    def __init__(self, *, clip_width: int, sam_width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(clip_width, eps=1e-6) for _ in range(3))
        self.projections = nn.ModuleList(nn.Conv2d(clip_width, sam_width, 1) for _ in range(3))

    def forward(self, spatial: Sequence[Tensor], clip: Sequence[Tensor]) -> list[Tensor]:
        """Fuse. ``spatial``: four (B, C, h, w) maps, the shallowest first; ``clip``: three maps, likewise."""
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
        self.heads, self.points = config.heads, config.points
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
        """Decode four (B, C, h, w) maps: one of any stride, for stride 4, then those at 8, 16 and 32.

        Returns the mask features (B, D, height / 4, width / 4) and three (B, D, h, w) memories at
        strides 32, 16 and 8, in this order. A training's mixed precision stops here, as in the authors' code.
        """
        if not torch.is_grad_enabled():
            return self._decode(maps)
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
        sampling = Sampling(shapes, self.heads, self.points, levels[0].device)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)  # (B, N, D)
        for layer in self.layers:
            tokens = layer(tokens, positions, sampling)
        parts = tokens.split([h * w for h, w in shapes], dim=1)
        # Flat first: PyTorch has fast kernels for maps whose photos follow one another, as these do then.
        memories = [
            part.flatten(0, 1).unflatten(0, (-1, *shape)).permute(0, 3, 1, 2)
            for part, shape in zip(parts, shapes, strict=True)
        ]
        stride_4 = (2 * shapes[-1][0], 2 * shapes[-1][1])
        finest = made_again(self._joined, maps[0], memories[-1], stride_4)
        return made_again(self._mask_features, finest), memories

    def _joined(self, shallow: Tensor, memory: Tensor, size: tuple[int, int]) -> Tensor:
        """Join the shallowest map with the finest memory, at the size of masks."""
        # A 1x1 convolution without bias and a resizing commute: see SpatialEncoder.
        finest = self.lateral_norm(_resized(self.lateral(shallow), size))
        joined: Tensor = self.output(finest + _resized(memory, size))
        return joined

    def _mask_features(self, finest: Tensor) -> Tensor:
        features: Tensor = self.mask_features(F.relu(self.output_norm(finest)))
        return features


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Sampling:
    """Where tokens of several scales look for what they sample: all that does not depend on the photo.

    The maps of all scales lie one behind the other in a table of ``rows`` rows, each map with a border of
    zeros, one pixel wide above and to the left, two below and to the right: a sample outside a map finds
    zeros, without a test. C = H * S * P samples a token, in this order.

    ``centres``: (N, 2 C), each token's own centre in pixels of the sample's scale, x of all samples before
    y. ``largest``: (2 C,), the largest coordinates, in the border. ``below``: (C,) int32, rows of the table
    from a pixel to the one under it; ``first``: (C,) int32, the row of a map's first pixel.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], heads: int, points: int, device: torch.device
    ) -> None:
        self.shapes = list(shapes)
        widths = [w + 3 for _, w in shapes]
        starts = [0, *itertools.accumulate((h + 3) * (w + 3) for h, w in shapes)]
        self.rows = starts.pop()

        def of_samples(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            """Give each sample its scale's value: (..., S) to (..., C)."""
            return (
                torch.tensor(values, dtype=dtype, device=device).repeat_interleave(points, -1).repeat(heads)
            )

        self.below = of_samples(widths, torch.int32)
        self.first = of_samples(
            [start + width + 1 for start, width in zip(starts, widths, strict=True)], torch.int32
        )
        sizes = [of_samples([shape[axis] for shape in shapes], torch.float32) for axis in (1, 0)]
        self.largest = torch.cat(sizes)
        x, y = _pixel_centres(self.shapes, device).chunk(2, dim=1)  # (N, 1) each
        self.centres = torch.cat([x * sizes[0], y * sizes[1]], dim=1) - 0.5

    def table(self, values: Tensor) -> Tensor:
        """Put maps of values (B, N, D) into a table (B, rows, D)."""
        parts = values.split([h * w for h, w in self.shapes], dim=1)
        maps = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return torch.cat([F.pad(x, (0, 0, 1, 2, 1, 2)).flatten(1, 2) for x in maps], dim=1)


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

    def forward(self, tokens: Tensor, positions: Tensor, sampling: Sampling) -> Tensor:
        """Run on tokens (B, N, D) with positions (N, D)."""
        attended = self.attention(tokens, positions, sampling)
        tokens = self.attention_norm(tokens + attended)
        mixed: Tensor = self.mlp_norm(tokens + made_again(self._mlp, tokens))
        return mixed

    def _mlp(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.linear2(F.relu(self.linear1(tokens), inplace=True))
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

    def forward(self, tokens: Tensor, positions: Tensor, sampling: Sampling) -> Tensor:
        """Attend from tokens (B, N, D) with positions (N, D) to values of tokens around their own places.

        Bilinear sampling with zeros outside, as a weighted sum of table rows (``embedding_bag``):
        rows of one head lie side by side in memory, which is several times faster on a CPU than
        ``grid_sample`` with its one read a channel, and gives the same numbers.
        """
        merged: Tensor = self.output(made_again(self._summed, tokens, positions, sampling))
        return merged

    def _summed(self, tokens: Tensor, positions: Tensor, sampling: Sampling) -> Tensor:
        """Weighted sums (B, N, D) of what each token samples."""
        queries, centres = tokens + positions, sampling.centres
        # In the queries' precision, which autocast leaves at float32: it is also what is summed up fastest.
        table = sampling.table(self.values(tokens)).to(queries.dtype)
        if torch.is_grad_enabled() or queries.device.type != "cpu":
            return self._summed_at(table, queries, centres, sampling)
        pieces = zip(queries.split(_TOKENS_AT_ONCE, dim=1), centres.split(_TOKENS_AT_ONCE), strict=True)
        return torch.cat([self._summed_at(table, *piece, sampling) for piece in pieces], dim=1)

    def _summed_at(self, table: Tensor, queries: Tensor, centres: Tensor, sampling: Sampling) -> Tensor:
        """As ``_summed``, of some tokens: by their queries (B, n, D) and ``Sampling.centres`` (n, 2 C)."""
        # The layer gives x and y in turns; apart, they are long runs of one kind.
        weight, bias = (
            p.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1) for p in self.offsets.parameters()
        )
        pixels = F.linear(queries, weight, bias) + centres  # (B, n, 2 C)
        # PyTorch's softmax of so short rows takes several times as long on a CPU.
        scores = self.weights(queries).unflatten(-1, (self.heads, -1))  # (B, n, H, S * P)
        shares = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
        shares = (shares / shares.sum(dim=-1, keepdim=True)).flatten(2)  # (B, n, C)
        return self._sampled(table, pixels, shares, sampling)

    def _sampled(self, table: Tensor, pixels: Tensor, shares: Tensor, sampling: Sampling) -> Tensor:
        """Weighted sums (B, N, D) of a table's rows at pixels (B, N, 2 C), x before y; shares: (B, N, C)."""
        rows, weights = self._bilinear(pixels, shares, sampling)
        heads = table.unflatten(2, (self.heads, -1)).flatten(0, 2)  # (B * rows * H, D / H)
        summed = F.embedding_bag(
            rows.flatten(0, 2), heads, per_sample_weights=weights.flatten(0, 2), mode="sum"
        )
        return summed.view(*pixels.shape[:2], -1)

    def _bilinear(self, pixels: Tensor, shares: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Rows of heads' tables and weights (B, N, H, 4 * S * P) of the four pixels around each sample.

        The rows have 32 bits: PyTorch sorts them in the backward pass, which is faster so.
        """
        pixels = torch.minimum(pixels, sampling.largest.to(pixels.dtype)).clamp(min=-1)
        corner = pixels.detach().floor().nan_to_num()  # an integer of nothing could be any row
        right, down = (pixels - corner).chunk(2, dim=-1)
        x, y = corner.int().chunk(2, dim=-1)
        head = torch.arange(self.heads, dtype=torch.int32, device=pixels.device)
        photo = torch.arange(len(pixels), dtype=torch.int32, device=pixels.device)[:, None, None]
        first = (sampling.first + photo * sampling.rows) * self.heads + head.repeat_interleave(
            self.scales * self.points
        )
        below = sampling.below * self.heads
        row = first + x * self.heads + y * below
        rows = (row, row + self.heads, row + below, row + below + self.heads)
        low = shares * down
        high = shares - low
        weights = (high - high * right, high * right, low - low * right, low * right)
        return self._corners(rows), self._corners(weights)

    def _corners(self, corners: Sequence[Tensor]) -> Tensor:
        """Bring four corners' numbers (B, N, C) together by head: (B, N, H, 4 * S * P)."""
        return torch.stack([x.unflatten(2, (self.heads, -1)) for x in corners], dim=3).flatten(3)


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
