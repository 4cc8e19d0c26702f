"""EBSeg: the paper's figure 2, read from top to bottom.

Shan, Wu, Zhu, Shao, Sang, Gao: "Open-Vocabulary Semantic Segmentation with Image Embedding
Balancing", CVPR 2024 (arXiv 2406.09829).

B batch, Q queries (masks), K labels, E joint embedding size, D decoder width, H CLIP's heads.
height x width: the photo at test size; padded: up to multiples of 32; stride 4: a quarter of padded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebseg.balance import balance, pool_dense_features
from ebseg.clip import ClipImageEncoder, TextClassifier
from ebseg.config import ModelConfig
from ebseg.losses import Generators, Prediction, Totals, criterion, targets_of
from ebseg.mask_decoder import MaskDecoder
from ebseg.pixel_decoder import ClipFusion, PixelDecoder
from ebseg.sam import SpatialEncoder
from ebseg.scores import score_strips
from ebseg.vocabulary import Vocabulary

PAD_MULTIPLE = 32
"""Photos are padded to multiples of this many pixels: the stride of the coarsest map."""

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SAM_MEAN, _SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

NameEncoder = Callable[[Sequence[str]], Tensor]
"""Names to embeddings (len(names), E): the text tower's own, or a cache in front of it."""


@dataclass(frozen=True)
class Unbalanced:
    """What the network says of a photo before its class logits are balanced.

    ``masks``: (1, Q, h, w) logits at stride 4 of the padded photo; ``embeddings``: (1, Q, E), the A
    embeddings; ``a``, ``b``, ``c``: (1, Q, K + 1) class logits, background last; ``padded``: rows and columns
    of the padded photo.
    """

    masks: Tensor
    embeddings: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    padded: tuple[int, int]


class EBSeg(nn.Module):
    """Open-vocabulary segmentation with balanced image embeddings.

    Built with random weights, without a download or a file. ``training_vocabulary`` names what the
    weights were trained on and so decides which labels count as seen; checkpoints carry it.
    """

    def __init__(self, config: ModelConfig) -> None:
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
        self.training_vocabulary: Vocabulary | None = None
        self.encode_names: NameEncoder = self.text.encode_names
        self._freeze()
        self.eval()

    def _freeze(self) -> None:
        """Freeze both encoders and the text tower but for positions and background (section 4.2)."""
        for module in (self.clip, self.text, self.sam):
            module.requires_grad_(False)
        self.clip.tower.positional_embedding.requires_grad_(True)
        self.sam.encoder.pos_embed.requires_grad_(True)
        self.text.background.requires_grad_(True)

    @torch.inference_mode()
    def segment(self, image: Tensor, vocabulary: Vocabulary, size: tuple[int, int]) -> Tensor:
        """Score every label at every pixel.

        ``image``: (3, height, width), float RGB 0..255 at test size. ``size``: (rows, columns) of the
        result. Returns (K, rows, columns): the paper's per-pixel class scores, sums over the masks,
        so that they can exceed 1.
        """
        masks, classes = self.masks_and_classes(image, vocabulary)
        return self.combine(masks, classes, size)

    @torch.inference_mode()
    def masks_and_classes(self, image: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        """Masks of a photo and what each may be.

        ``image`` as for ``segment``. Returns mask logits (Q, height, width) at test size and class
        probabilities (Q, K); a mask's probabilities and its background's sum to one.
        """
        height, width = image.shape[-2:]
        found = self.unbalanced(image, self.class_embeddings(vocabulary))
        classes = self.class_probabilities(found, vocabulary)
        padded = F.interpolate(found.masks, size=found.padded, mode="bilinear", align_corners=False)
        return padded[0, :, :height, :width], classes

    @torch.inference_mode()
    def class_probabilities(self, found: "Unbalanced", vocabulary: Vocabulary) -> Tensor:
        """Balance what the network says of a photo: (Q, K), without the background's share."""
        seen = torch.tensor(self.seen(vocabulary), device=found.a.device)
        balanced = balance(found.a, found.b, found.c, seen, self.config.balance)
        # The authors apply a softmax to the logarithms again; it only renormalises.
        return balanced.softmax(dim=-1)[0, :, : len(vocabulary)]

    @torch.inference_mode()
    def unbalanced(self, image: Tensor, text: Tensor) -> "Unbalanced":
        """Masks of a photo and their three embeddings' class logits, before these are balanced.

        ``image`` as for ``segment``; ``text``: (K + 1, E), as ``class_embeddings`` gives it.
        """
        clip_images, sam_images = self.preprocess([image])
        features = self.clip(clip_images, surgery=True)
        maps = self.fusion(self.sam(sam_images), features.fusion)
        mask_features, memories = self.pixel_decoder(maps)
        prediction = self.mask_decoder(mask_features, memories, features.grid)
        recognised, dense = self.clip.recognise(features, prediction.bias)
        pooled = pool_dense_features(prediction.masks, dense)
        a, b, c = (self.logits(x, text) for x in (prediction.embeddings, recognised, pooled))
        rows, columns = sam_images.shape[-2:]
        return Unbalanced(prediction.masks, prediction.embeddings, a, b, c, (rows, columns))

    def losses(
        self,
        images: Tensor,
        label_maps: Tensor,
        vocabulary: Vocabulary,
        *,
        generators: Generators | None = None,
        totals: Totals | None = None,
    ) -> dict[str, Tensor]:
        """Weighted loss terms of a batch; their sum is the training loss.

        ``images``: (B, 3, height, width), float RGB 0..255. ``label_maps``: (B, height, width) int,
        indices into ``vocabulary``, -1 ignored. ``generators``, ``totals``: see ``losses.criterion``.
        Training runs CLIP's ordinary stream only: the C embeddings join at inference.
        """
        text = self.class_embeddings(vocabulary)  # (K + 1, E)
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
                a=self.logits(prediction.embeddings, text),
                b=self.logits(embeddings, text),
                embeddings=prediction.embeddings,
            )
            for prediction, embeddings in zip(predicted, recognised.split(queries, dim=1), strict=True)
        ]
        rows, columns = (
            padded - side for padded, side in zip(sam_images.shape[-2:], label_maps.shape[-2:], strict=True)
        )
        label_maps = F.pad(label_maps, (0, columns, 0, rows), value=-1)
        # Half precision would overflow in sums over thousands of points.
        with torch.autocast(images.device.type, enabled=False):
            return criterion(
                predictions,
                targets_of(label_maps, self.config.losses),
                text,
                self.config.losses,
                generators=generators,
                totals=totals,
            )

    @staticmethod
    def combine(masks: Tensor, classes: Tensor, size: tuple[int, int]) -> Tensor:
        """Class scores (K, rows, columns) from mask logits (Q, ., .) and class probabilities (Q, K)."""
        return torch.cat(list(score_strips(masks, classes, size)), dim=1)

    def preprocess(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Normalise and pad photos (3, ., .) RGB 0..255 to one size; CLIP's copy is smaller.

        Returns CLIP's (B, 3, ., .) and the spatial encoder's (B, 3, padded) input. The padding is
        zero after normalisation and nothing masks it, as in the authors' code.
        """
        sides = [max(image.shape[side] for image in images) for side in (-2, -1)]
        rows, columns = (-(-side // PAD_MULTIPLE) * PAD_MULTIPLE for side in sides)

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

    def class_embeddings(self, vocabulary: Vocabulary) -> Tensor:
        """Text embeddings (K + 1, E) of the labels, L2-normalised, the learned background last."""
        prompts = [prompt for label in vocabulary.prompts for prompt in label]
        names = self.encode_names(prompts).to(self.text.background.device)
        embeddings: Tensor = self.text(self.text.label_embeddings(vocabulary, names))
        return embeddings

    def seen(self, vocabulary: Vocabulary) -> tuple[bool, ...]:
        """Tell which labels the weights were trained on; none where the training vocabulary is not known."""
        if self.training_vocabulary is None:
            return (False,) * len(vocabulary)
        return vocabulary.seen_in(self.training_vocabulary)

    def logits(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Class logits (B, Q, K + 1) of image embeddings (B, Q, E); their length counts (A's scale)."""
        logits: Tensor = self.text.logit_scale.exp() * embeddings @ text.T
        return logits
