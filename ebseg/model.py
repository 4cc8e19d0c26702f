"""EBSeg: the paper's figure 2, read from top to bottom.

Shan, Wu, Zhu, Shao, Sang, Gao: "Open-Vocabulary Semantic Segmentation with Image Embedding
Balancing", CVPR 2024 (arXiv 2406.09829).

B batch, Q queries (masks), K labels, E joint embedding size, D decoder width, H CLIP's heads.
h x w: the grid at stride 4, of masks and mask features; g x G: CLIP's grid of patches.
height x width: the photo at test size; padded: up to multiples of 32; stride 4: a quarter of padded.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebseg.balance import balance, pool_dense_features
from ebseg.clip import ClipImageEncoder, TextClassifier
from ebseg.config import BalanceConfig, LossConfig, ModelConfig
from ebseg.digest import Digest
from ebseg.errors import ImageError
from ebseg.losses import Generators, Prediction, Totals, criterion, targets_of
from ebseg.mask_decoder import MaskDecoder
from ebseg.pixel_decoder import ClipFusion, PixelDecoder
from ebseg.precision import Bf16Weights, Int8Weights, encoders_weights
from ebseg.sam import SpatialEncoder
from ebseg.scores import Masks, score_strips
from ebseg.stages import Stage, stage
from ebseg.vocabulary import Vocabulary

PAD_MULTIPLE = 32
"""Photos are padded to multiples of this many pixels: the stride of the coarsest map."""

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SAM_MEAN, _SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_PAPERS_LOSSES = LossConfig()


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the network says of photos before a label is named.

    ``masks``: (B, Q, h, w) logits at stride 4 of the padded photos. ``a``, ``b``, ``c``: (B, Q, E), each
    mask's embedding by the mask decoder, by CLIP's recognition, and pooled from CLIP's dense features.
    ``dense``: (B, E, g, G), these features, of the surgery stream, L2-normalised over E. ``features``:
    (B, D, h, w) float16, the pixel decoder's, L2-normalised over D. ``sizes``: each photo's (height, width)
    at test size; ``padded``: the (rows, columns) that all are padded to.
    """

    masks: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    dense: Tensor
    features: Tensor
    sizes: tuple[tuple[int, int], ...]
    padded: tuple[int, int]

    def photo(self, index: int) -> "Encoded":
        """Give one photo of the batch, as a batch of one that shares its memory."""
        one = slice(index, index + 1)
        return Encoded(
            masks=self.masks[one],
            a=self.a[one],
            b=self.b[one],
            c=self.c[one],
            dense=self.dense[one],
            features=self.features[one],
            sizes=self.sizes[one],
            padded=self.padded,
        )

    def apart(self) -> list["Encoded"]:
        """Give each photo as a batch of one with memory of its own: one may be kept longer than another."""
        if len(self.sizes) == 1:
            return [self]
        photos = (self.photo(index) for index in range(len(self.sizes)))
        return [photo._copied() for photo in photos]

    def _copied(self) -> "Encoded":
        tensors = {name: each for name, each in vars(self).items() if isinstance(each, Tensor)}
        own: dict[str, Any] = {name: tensor.clone() for name, tensor in tensors.items()}
        return replace(self, **own)

    def resizable(self, index: int = 0) -> Masks:
        """Give one photo's masks, to be resized to its test size and its own."""
        return Masks(self.masks[index], self.padded, self.sizes[index])

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tensors take."""
        tensors = (getattr(self, field.name) for field in fields(self))
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


class Backbone:
    """What EBSeg never trains: CLIP's towers and the spatial encoder, but for positions and background.

    ``tensors``: the model's own parameters, by name.
    """

    def __init__(self, tensors: Mapping[str, nn.Parameter]) -> None:
        self.tensors = tensors
        self._digest = Digest()

    @property
    def digest(self) -> str:
        """The name of the tensors' content, worked out once (EBSeg-B: a second): 32 hexadecimal digits."""
        return self._digest.of(self.tensors)

    @cached_property
    def int8(self) -> Int8Weights:
        """The encoders' weights in 8-bit integers, which all models on this backbone share."""
        return Int8Weights(encoders_weights(self.tensors))

    @cached_property
    def bf16(self) -> Bf16Weights:
        """The encoders' weights in bfloat16, which all models on this backbone share."""
        return Bf16Weights(encoders_weights(self.tensors))


class EBSeg(nn.Module):
    """Open-vocabulary segmentation with balanced image embeddings.

    Built with random weights, without a download or a file. ``training_vocabulary`` names what the
    weights were trained on and so decides which labels count as seen; checkpoints carry it.

    The methods that take a ``vocabulary`` take its ``text`` too: (K, E), its labels' embeddings as
    ``text_cache.TextEncoder`` keeps them. Without it the text tower encodes them in each call.
    """

    def __init__(self, config: ModelConfig, *, training_vocabulary: Vocabulary | None = None) -> None:
        super().__init__()
        self.config = config
        self.clip = ClipImageEncoder(config.clip)
        self.text = TextClassifier(config.clip)
        self.sam = SpatialEncoder(config.sam)
        self.fusion = ClipFusion(clip_width=config.clip.image_width, sam_width=config.sam.width)
        self.pixel_decoder = PixelDecoder(config.decoder, in_width=config.sam.width)
        self.mask_decoder = MaskDecoder(
            config.decoder, embed_dim=config.clip.embed_dim, clip_heads=config.clip.image_heads
        )
        self._training_vocabulary = training_vocabulary
        self._freeze()
        self.eval()

    def _freeze(self) -> None:
        """Freeze both encoders and the text tower but for positions and background (section 4.2)."""
        for module in (self.clip, self.text, self.sam):
            module.requires_grad_(False)
        self.clip.tower.positional_embedding.requires_grad_(True)
        self.sam.encoder.pos_embed.requires_grad_(True)
        self.text.background.requires_grad_(True)
        self.backbone = Backbone({name: p for name, p in self.named_parameters() if not p.requires_grad})

    @torch.inference_mode()
    def segment(
        self, image: Tensor, vocabulary: Vocabulary, size: tuple[int, int], *, text: Tensor | None = None
    ) -> Tensor:
        """Score every label at every pixel.

        ``image``: (3, height, width), float RGB 0..255 at test size. ``size``: (rows, columns) of the
        result. Returns (K, rows, columns): the paper's per-pixel class scores, sums over the masks,
        so that they can exceed 1.
        """
        encoded = self.encode([image])
        classes = self.classify(encoded, vocabulary, text=text)  # (1, Q, K)
        return self.combine(encoded.resizable(), classes[0], size)

    @torch.inference_mode()
    def encode(self, images: Sequence[Tensor]) -> Encoded:
        """Find the masks of photos and embed each in three ways: all that does not depend on labels.

        ``images``: B photos, each as for ``segment``, that are all padded to one size: nothing masks the
        padding, so that more of it than a photo has alone would change what is found. Raises ImageError where
        the sizes differ.
        """
        with stage(Stage.PREPROCESSING):
            clip_images, sam_images = self.preprocess(images)
        with stage(Stage.CLIP):
            features = self.clip(clip_images, surgery=True)
        with stage(Stage.SAM):
            spatial = self.sam(sam_images)
        with stage(Stage.PIXEL_DECODER):
            maps = self.fusion(spatial, features.fusion)  # four (B, ., ., .), shallow to deep
            mask_features, memories = self.pixel_decoder(maps)  # (B, D, h, w) and three coarser ones
        with stage(Stage.MASK_DECODER):
            prediction = self.mask_decoder(mask_features, memories, features.grid)
        with stage(Stage.RECOGNITION):
            recognised, dense = self.clip.recognise(features, prediction.bias)  # (B, Q, E) and (B, E, g, G)
            pooled = pool_dense_features(prediction.masks, dense)  # (B, Q, E)
        rows, columns = sam_images.shape[-2:]
        return Encoded(
            masks=prediction.masks.float().contiguous(),  # all may be of half precision, under autocast
            a=prediction.embeddings.float(),
            b=recognised.float(),
            c=pooled.float(),
            dense=dense.float(),
            features=F.normalize(mask_features, dim=1).half(),
            sizes=tuple((image.shape[-2], image.shape[-1]) for image in images),
            padded=(rows, columns),
        )

    @torch.inference_mode()
    @stage(Stage.BALANCING)
    def classify(self, encoded: Encoded, vocabulary: Vocabulary, *, text: Tensor | None = None) -> Tensor:
        """Tell what each mask may be: probabilities (B, Q, K) that sum to one with its background's."""
        embeddings = self.class_embeddings(vocabulary, text)  # (K + 1, E)
        a, b, c = self.class_logits(encoded, embeddings)  # (B, Q, K + 1) each
        seen = torch.tensor(self.seen(vocabulary), device=a.device)  # (K,)
        balanced = balance(a, b, c, seen, self.config.balance)  # (B, Q, K + 1)
        # The authors apply a softmax to the logarithms again; it only renormalises.
        return balanced.softmax(dim=-1)[..., : len(vocabulary)]

    def losses(
        self,
        images: Tensor,
        label_maps: Tensor,
        vocabulary: Vocabulary,
        *,
        text: Tensor | None = None,
        config: LossConfig = _PAPERS_LOSSES,
        generators: Generators | None = None,
        totals: Totals | None = None,
    ) -> dict[str, Tensor]:
        """Weighted loss terms of a batch; their sum is the training loss.

        ``images``: (B, 3, height, width), float RGB 0..255. ``label_maps``: (B, height, width) int,
        indices into ``vocabulary``, -1 ignored. ``generators``, ``totals``: see ``losses.criterion``.
        Training runs CLIP's ordinary stream only: the C embeddings join at inference.
        """
        embeddings = self.class_embeddings(vocabulary, text)  # (K + 1, E)
        clip_images, sam_images = self.preprocess(list(images))
        features = self.clip(clip_images, surgery=False)
        maps = self.fusion(self.sam(sam_images), features.fusion)
        mask_features, memories = self.pixel_decoder(maps)
        predicted = self.mask_decoder.predict_all(mask_features, memories, features.grid)
        bias = torch.cat([prediction.bias for prediction in predicted], dim=2)
        recognised, _ = self.clip.recognise(features, bias)  # all predictions' masks in one pass
        queries = self.config.decoder.queries
        predictions = [
            Prediction(
                masks=prediction.masks,
                a=self.logits(prediction.embeddings, embeddings),
                b=self.logits(b, embeddings),
                embeddings=prediction.embeddings,
            )
            for prediction, b in zip(predicted, recognised.split(queries, dim=1), strict=True)
        ]
        rows, columns = (
            padded - side for padded, side in zip(sam_images.shape[-2:], label_maps.shape[-2:], strict=True)
        )
        label_maps = F.pad(label_maps, (0, columns, 0, rows), value=-1)
        targets = targets_of(label_maps, config)
        # Half precision would overflow in sums over thousands of points.
        with torch.autocast(images.device.type, enabled=False):
            return criterion(predictions, targets, embeddings, config, generators=generators, totals=totals)

    @staticmethod
    def combine(masks: Masks, classes: Tensor, size: tuple[int, int]) -> Tensor:
        """Class scores (K, rows, columns) from masks and their class probabilities (Q, K)."""
        scores, top = classes.new_empty(classes.shape[1], *size), 0
        for strip in score_strips(masks, classes, size):
            scores[:, top : top + strip.shape[1]] = strip
            top += strip.shape[1]
        return scores

    def preprocess(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Normalise and pad photos (3, ., .) RGB 0..255; CLIP's copy is smaller.

        Returns CLIP's (B, 3, ., .) and the spatial encoder's (B, 3, padded) input. The padding is
        zero after normalisation and nothing masks it, as in the authors' code.
        """
        rows, columns = _padded_size([(image.shape[-2], image.shape[-1]) for image in images])

        def normalised(mean: Sequence[float], std: Sequence[float], unit: float) -> Tensor:
            batch = images[0].new_zeros(len(images), 3, rows, columns)
            for target, image in zip(batch, images, strict=True):
                offset, scale = (image.new_tensor(values)[:, None, None] * unit for values in (mean, std))
                target[:, : image.shape[-2], : image.shape[-1]] = (image - offset) / scale
            return batch

        clip_images = F.interpolate(
            normalised(_CLIP_MEAN, _CLIP_STD, 255.0),
            scale_factor=self.config.clip.photo_scale,
            mode="bilinear",
            align_corners=False,
        )
        return clip_images, normalised(_SAM_MEAN, _SAM_STD, 1.0)

    def class_embeddings(self, vocabulary: Vocabulary, text: Tensor | None = None) -> Tensor:
        """Text embeddings (K + 1, E) of the labels, L2-normalised, the learned background last."""
        if text is None:
            with stage(Stage.TEXT):
                text = self.text.encode_labels(vocabulary)
        embeddings: Tensor = self.text(text.to(self.text.background.device))
        return embeddings

    def class_logits(self, encoded: Encoded, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits of A, B and C, (B, Q, K + 1) each, not balanced; for ``class_embeddings``."""
        a, b, c = (self.logits(x, embeddings) for x in (encoded.a, encoded.b, encoded.c))
        return a, b, c

    def logits(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """Class logits (B, Q, K + 1) of image embeddings x (B, Q, E); their length counts (A's scale)."""
        logits: Tensor = self.text.logit_scale.exp() * x @ embeddings.T
        return logits

    @property
    def training_vocabulary(self) -> Vocabulary | None:
        """What the weights were trained on; None where that is not known."""
        return self._training_vocabulary

    def trained_on(self, vocabulary: Vocabulary | None) -> None:
        """State what the weights were trained on: for whoever gives this model other weights."""
        self._training_vocabulary = vocabulary

    def seen(self, vocabulary: Vocabulary) -> tuple[bool, ...]:
        """Tell which labels the weights were trained on; none where the training vocabulary is not known."""
        if self.training_vocabulary is None:
            return (False,) * len(vocabulary)
        return vocabulary.seen_in(self.training_vocabulary)

    @property
    def head(self) -> dict[str, nn.Parameter]:
        """All that EBSeg trains, by name: what is not its backbone's."""
        return {name: p for name, p in self.named_parameters() if name not in self.backbone.tensors}

    def with_balance(self, exponents: BalanceConfig) -> Self:
        """Give this model with other exponents; both share all weights."""
        other = copy.copy(self)
        other.config = self.config.model_copy(update={"balance": exponents})
        return other

    def with_own_head(self, config: ModelConfig, training_vocabulary: Vocabulary | None) -> Self:
        """Give a second model on the same backbone, whose tensors both share, with a copy of this one's head.

        ``config``: of the same layers. Both stay on one device: moving one moves the backbone of both.
        """
        shared = [*self.backbone.tensors.values(), *self.buffers(), self.backbone]
        other = copy.deepcopy(self, {id(part): part for part in shared})
        other.config, other._training_vocabulary = config, training_vocabulary
        return other


def _padded_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Give the (rows, columns) that photos of these (height, width) are all padded to."""
    rows, columns = (
        {-(-side // PAD_MULTIPLE) * PAD_MULTIPLE for side in sides} for sides in zip(*sizes, strict=True)
    )
    if len(rows) > 1 or len(columns) > 1:
        found = ", ".join(f"{width} x {height}" for height, width in dict.fromkeys(sizes))
        raise ImageError(
            f"photos of {found} pixels are not padded to one size (multiples of {PAD_MULTIPLE}): encode them "
            "apart"
        )
    return rows.pop(), columns.pop()
