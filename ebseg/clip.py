"""CLIP's image tower with surgery and mask-steered recognition, and its text tower as a classifier.

Paper, sections 3.2 (image embeddings) and 3.3 (frozen recognition). CLIP surgery: Li et al., "CLIP
Surgery for Better Explainability with Enhancement in Open-Vocabulary Tasks". Steering copies of the
class token by attention biases: Xu et al., "Side Adapter Network", CVPR 2023.

B batch, L tokens (1 class token + N patches), N = h * w patches, C width, H heads, D = C / H,
Q copies of the class token (one a mask), E joint embedding size, K labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer
from torch import Tensor, nn

from ebseg.config import ClipConfig
from ebseg.digest import Digest
from ebseg.recompute import made_again
from ebseg.vocabulary import TEMPLATES, Vocabulary

TEXTS_PER_BATCH = 256
"""Texts encoded at once: bounds memory for vocabularies of a thousand labels."""


class _QuickGELU(QuickGELU):  # type: ignore[misc]
    """CLIP's activation, of which training keeps no sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        return made_again(super().forward, x)


def build_image_tower(config: ClipConfig) -> VisionTransformer:
    """Build CLIP's image tower with random weights."""
    return VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        width=config.image_width,
        layers=config.image_layers,
        heads=config.image_heads,
        mlp_ratio=4.0,
        output_dim=config.embed_dim,
        act_layer=_QuickGELU,
    )


def build_text_tower(config: ClipConfig) -> TextTransformer:
    """Build CLIP's text tower with random weights."""
    return TextTransformer(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_heads,
        layers=config.text_layers,
        output_dim=config.embed_dim,
        act_layer=QuickGELU,
    )


@dataclass(frozen=True)
class ClipFeatures:
    """What the image tower knows before the recognition blocks.

    ``fusion``: three (B, C, h, w) maps, shallow to deep. ``tokens``: (B, L, C), class token first.
    ``surgery``: (B, L, C), the value-to-value stream, or None where it was not asked for.
    """

    fusion: tuple[Tensor, ...]
    tokens: Tensor
    surgery: Tensor | None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        h, w = self.fusion[0].shape[-2:]
        return h, w


class ClipImageEncoder(nn.Module):
    """CLIP's image tower, cut into a part that sees the photo and a part that recognises masks."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = build_image_tower(config)

    def forward(self, images: Tensor, *, surgery: bool) -> ClipFeatures:
        """Run the blocks before recognition.

        ``images``: (B, 3, height, width), normalised. ``surgery``: also carry the value-to-value
        stream, which only inference needs.
        """
        x = self.tower.conv1(images)  # (B, C, h, w)
        h, w = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        class_token = self.tower.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([class_token, x], dim=1) + self._positions(h, w).to(x.dtype)  # (B, L, C)
        x = self.tower.ln_pre(x)
        dense: Tensor | None = None
        fusion = []
        for depth, block in enumerate(self._blocks()[: self.config.recognition_start]):
            if surgery and depth >= self.config.surgery_start:
                dense = x if dense is None else dense
                x, dense = _surgery_block(block, x, dense)
            else:
                x = _block(block, x)
            if depth + 1 in self.config.fusion_layers:
                fusion.append(x[:, 1:].transpose(1, 2).unflatten(2, (h, w)))  # (B, C, h, w)
        return ClipFeatures(fusion=tuple(fusion), tokens=x, surgery=dense)

    def recognise(self, features: ClipFeatures, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Recognise each mask: copies of the class token look where its attention bias points.

        ``bias``: (B, H, Q, N), added to the copies' attention logits. Returns the copies'
        embeddings (B, Q, E), L2-normalised, and the dense features (B, E, h, w) of the surgery
        stream, L2-normalised over E; these are empty (B, E, 0, 0) where that stream was not carried.

        Neither patches nor class token look at the copies, so they are computed once, whatever Q.
        Nor does a copy look at other copies or at the class token: the authors give these the
        attention mask -100, against which a copy's own column (mask 0) leaves less than e^-60.
        """
        x, dense = features.tokens, features.surgery
        copies = x[:, :1].expand(-1, bias.shape[2], -1)  # (B, Q, C)
        blocks = self._blocks()[self.config.recognition_start :]
        for block in blocks:
            q, k, v = _project(block, block.ln_1(x))  # (B, H, L, D)
            copies = _steered_block(block, copies, k[:, :, 1:], v[:, :, 1:], bias)
            if dense is not None:
                dense = dense + _merge(block, F.scaled_dot_product_attention(v, v, v))
            if block is not blocks[-1]:  # nothing reads the last block's patches
                x = x + _merge(block, F.scaled_dot_product_attention(q, k, v))
                x = x + block.mlp(block.ln_2(x))
        embeddings = F.normalize(self._to_joint_space(copies), dim=-1)  # (B, Q, E)
        if dense is None:
            return embeddings, embeddings.new_empty(len(x), embeddings.shape[2], 0, 0)
        patches = F.normalize(self._to_joint_space(dense[:, 1:]), dim=-1)  # (B, N, E)
        return embeddings, patches.transpose(1, 2).unflatten(2, features.grid)

    def _blocks(self) -> list[Any]:
        return list(self.tower.transformer.resblocks)

    def _to_joint_space(self, x: Tensor) -> Tensor:
        projected: Tensor = self.tower.ln_post(x) @ self.tower.proj
        return projected

    def _positions(self, h: int, w: int) -> Tensor:
        """Positional embedding (L, C) for a grid of h x w patches."""
        positions: Tensor = self.tower.positional_embedding
        side = math.isqrt(len(positions) - 1)
        if (h, w) == (side, side):
            return positions
        grid = positions[1:].T.unflatten(1, (side, side))[None]  # (1, C, side, side)
        grid = F.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False)
        return torch.cat([positions[:1], grid[0].flatten(1).T])


def _project(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries, keys and values (B, H, L, D) of normed tokens (B, L, C)."""
    attention = block.attn
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # (B, L, 3C)
    q, k, v = (
        part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1)
    )
    return q, k, v


def _merge(block: Any, x: Tensor) -> Tensor:
    """Attention's output projection: (B, H, L, D) to (B, L, C)."""
    merged: Tensor = block.attn.out_proj(x.transpose(1, 2).flatten(2))
    return merged


def _block(block: Any, x: Tensor) -> Tensor:
    """Run an ordinary pre-norm transformer block."""
    q, k, v = _project(block, block.ln_1(x))
    x = x + _merge(block, F.scaled_dot_product_attention(q, k, v))
    x = x + block.mlp(block.ln_2(x))
    return x


def _surgery_block(block: Any, x: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """Run a block with both streams: the dense one gets value-to-value attention and no MLP."""
    q, k, v = _project(block, block.ln_1(x))
    dense = dense + _merge(block, F.scaled_dot_product_attention(v, v, v))
    x = x + _merge(block, F.scaled_dot_product_attention(q, k, v))
    x = x + block.mlp(block.ln_2(x))
    return x, dense


def _steered_block(block: Any, copies: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Run a block for class-token copies (B, Q, C) that see the patches (B, H, N, D) and themselves."""
    own_q, own_k, own_v = _project(block, block.ln_1(copies))  # (B, H, Q, D)
    own_q = own_q * own_q.shape[-1] ** -0.5
    to_patches = own_q @ k.transpose(2, 3) + bias  # (B, H, Q, N)
    to_self = (own_q * own_k).sum(dim=-1, keepdim=True)  # (B, H, Q, 1)
    shares = torch.cat([to_self, to_patches], dim=-1).softmax(dim=-1)
    seen = shares[..., 1:] @ v + shares[..., :1] * own_v  # (B, H, Q, D)
    copies = copies + _merge(block, seen)
    copies = copies + block.mlp(block.ln_2(copies))
    return copies


class TextClassifier(nn.Module):
    """CLIP's text tower with prompt templates and a learned background class.

    Templates: Gu et al., "Open-vocabulary Object Detection via Vision and Language Knowledge
    Distillation" (ViLD).
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.tower = build_text_tower(config)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.background = nn.Parameter(torch.empty(1, config.embed_dim))
        nn.init.normal_(self.background, std=0.02)
        self._context_length = config.context_length
        self._digest = Digest()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Class embeddings (K + 1, E), normalised, the background last, of label embeddings (K, E)."""
        return F.normalize(torch.cat([embeddings, self.background.to(embeddings.dtype)]), dim=-1)

    @torch.no_grad()
    def encode_names(self, names: Sequence[str]) -> Tensor:
        """Embeddings (len(names), E) of names, each through all templates, averaged, normalised."""
        texts = [template.format(name) for name in names for template in TEMPLATES]
        beginnings = [template.partition("{}")[0] for _ in names for template in TEMPLATES]
        embeddings = F.normalize(self.encode_texts(texts, beginnings), dim=-1)
        averaged = embeddings.unflatten(0, (len(names), len(TEMPLATES))).mean(dim=1)
        return F.normalize(averaged, dim=-1)

    def encode_labels(self, vocabulary: Vocabulary) -> Tensor:
        """Embeddings (K, E) of labels: means of their synonyms'."""
        names = self.encode_names([prompt for prompts in vocabulary.prompts for prompt in prompts])
        return label_embeddings(vocabulary, names)

    def fingerprint(self) -> str:
        """Name the text tower's weights: equal for equal weights, for caches of text embeddings."""
        return self._digest.of(self.tower.state_dict())

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Give the numbers of texts' word parts, (len(texts), context), zeros behind the end token."""
        tokens: Tensor = open_clip.tokenize(list(texts), self._context_length)
        return tokens

    def encode_texts(self, texts: Sequence[str], beginnings: Sequence[str] | None = None) -> Tensor:
        """Encode texts: embeddings (T, E), not normalised.

        ``beginnings``: with what each text begins. Attention is causal, so a beginning's keys and values are
        the same whatever follows: they are made once for all texts that share it. And the end token, the
        largest of all, is read out, so that nothing after it is needed: texts are encoded beside others of
        their length.
        """
        device = self.tower.positional_embedding.device
        beginnings = beginnings or [""] * len(texts)
        places = {beginning: place for place, beginning in enumerate(dict.fromkeys(beginnings))}
        begun = self._begin(list(places))
        of = torch.tensor([places[beginning] for beginning in beginnings], device=device)  # (T,)
        tokens = self.tokens(texts).to(device)  # (T, context)
        ends = tokens.argmax(dim=-1)  # (T,)
        # A word may be cut otherwise than its beginning alone: what is equal counts.
        equal = tokens[:, : begun.tokens.shape[1]] == begun.tokens[of]
        shared = torch.minimum(equal.long().cumprod(dim=1).sum(dim=1), ends)  # (T,)
        order = (ends - shared).argsort()
        encoded = [
            self._end(tokens[part], shared[part], ends[part], begun, of[part])
            for part in order.split(TEXTS_PER_BATCH)
        ]
        return torch.cat(encoded)[order.argsort()]

    def _begin(self, beginnings: list[str]) -> "_Begun":
        """Run the tower on the beginnings of texts."""
        tokens = self.tokens(beginnings).to(self.tower.positional_embedding.device)
        length = int(tokens.argmax(dim=-1).max())  # of the longest, without its end token
        tokens = tokens[:, :length]
        x = self.tower.token_embedding(tokens) + self.tower.positional_embedding[:length]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        keys, values = [], []
        for block in self.tower.transformer.resblocks:
            q, k, v = _project(block, block.ln_1(x))
            keys.append(k)
            values.append(v)
            x = x + _merge(block, F.scaled_dot_product_attention(q, k, v, attn_mask=causal))
            x = x + block.mlp(block.ln_2(x))
        return _Begun(tokens, keys, values)

    def _end(self, tokens: Tensor, shared: Tensor, ends: Tensor, begun: "_Begun", of: Tensor) -> Tensor:
        """Encode texts (T, context) from their tokens ``shared`` on, up to ``ends``, (T,) each: (T, E).

        ``of``: (T,), the places of the texts' beginnings.
        """
        tower, length = self.tower, begun.tokens.shape[1]
        rest = int((ends - shared).max()) + 1
        texts = torch.arange(len(tokens), device=tokens.device)
        columns = shared[:, None] + torch.arange(rest, device=tokens.device)  # (T, rest)
        columns = columns.clamp(max=tokens.shape[1] - 1)  # behind the end: read by nobody
        x = tower.token_embedding(tokens.gather(1, columns)) + tower.positional_embedding[columns]
        before = torch.arange(length, device=tokens.device) < shared[:, None, None, None]  # (T, 1, 1, length)
        causal = torch.ones(rest, rest, dtype=torch.bool, device=tokens.device).tril()
        shape = (len(tokens), 1, rest, -1)
        visible = torch.cat([before.expand(shape), causal.expand(shape)], dim=-1)
        blocks = list(tower.transformer.resblocks)
        for block, keys, values in zip(blocks, begun.keys, begun.values, strict=True):
            q, k, v = _project(block, block.ln_1(x))
            k, v = torch.cat([keys[of], k], dim=2), torch.cat([values[of], v], dim=2)
            if block is blocks[-1]:  # only the end tokens are read out
                last = ends - shared
                x, q = x[texts, last, None], q[texts, :, last, None]
                visible = visible[texts, :, last, None]
            x = x + _merge(block, F.scaled_dot_product_attention(q, k, v, attn_mask=visible))
            x = x + block.mlp(block.ln_2(x))
        encoded: Tensor = tower.ln_final(x[:, 0]) @ tower.text_projection
        return encoded


@dataclass(frozen=True, eq=False)
class _Begun:
    """Beginnings of texts. ``tokens``: (n, P). ``keys``, ``values``: (n, H, P, D), of each block."""

    tokens: Tensor
    keys: list[Tensor]
    values: list[Tensor]


def label_embeddings(vocabulary: Vocabulary, names: Tensor) -> Tensor:
    """Average synonyms: (K, E) from the embeddings of all prompts (P, E), label by label."""
    sizes = [len(prompts) for prompts in vocabulary.prompts]
    return torch.stack([part.mean(dim=0) for part in names.split(sizes)])
