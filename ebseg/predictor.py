"""A photo in, a Segmentation out: resize, encode, score in strips, decide, leave unsure pixels unlabelled.

Q masks, K labels; H x W: the photo's own size; h x w: the masks'.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ebseg.ask import Ask, Measure, Memory, Photo, Pointed, Threshold
from ebseg.certainty import certainty, contenders
from ebseg.config import InferencePrecision, ModelConfig
from ebseg.errors import ConfigError, ImageError
from ebseg.images import read_image
from ebseg.memory import join
from ebseg.model import EBSeg, Encoded
from ebseg.pointing import point
from ebseg.precision import Bf16Weights, Packed, choose_precision, matrices
from ebseg.resize import shortest_edge_size
from ebseg.scores import Contest, contests, score_strips
from ebseg.segmentation import Segmentation
from ebseg.stages import Stage, stage
from ebseg.text_cache import TextCache, TextEncoder
from ebseg.vocabulary import Vocabulary

DEFAULT_THRESHOLD = 0.3
"""Share of the scores under which a pixel stays unlabelled.

Measured with the small model on 12 held-out drawn scenes, all 114 phrases asked for: of the pixels with a
share from 0.1 to 0.3 less than a third were right, from 0.3 to 0.4 three quarters. A wrong label costs the
person who corrects it two strokes, erasing and painting, a missing one costs one.
"""


@dataclass(frozen=True, eq=False)
class EncodedPhoto:
    """What one model says of a photo before a label is named: any labels can be asked for from then on.

    ``encoded``: of this photo alone. ``size``: its own (H, W) in pixels.
    """

    encoded: Encoded
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, on the model's device."""
        return self.encoded.nbytes


PHOTOS_AT_ONCE = 4
"""That a GPU encodes together. No GPU was at hand to choose it by: ``ebseg bench batches`` tries others."""


class Predictor:
    """A model ready to label photos; one call at a time uses all cores.

    ``version`` names the weights. ``device`` is where the model runs (see ``choose_device``). ``threshold``
    is the share, 0..1, under which a pixel stays unlabelled. ``text_cache`` keeps text embeddings between
    calls; without one they are kept as long as the predictor lives. ``precision`` is what photos are encoded
    with (see ``choose_precision``). Puts ``net`` into evaluation mode.
    """

    def __init__(
        self,
        net: EBSeg,
        *,
        version: str,
        device: str | torch.device | None = None,
        threshold: float = DEFAULT_THRESHOLD,
        text_cache: TextCache | None = None,
        precision: InferencePrecision = InferencePrecision.FLOAT32,
    ) -> None:
        self.version = version
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.threshold = _checked_threshold(threshold)
        self.net = net.to(self.device).eval()
        self._packed = self._packed_weights()
        self.texts = TextEncoder(net.text, text_cache)

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.net.config

    def predict(
        self,
        image: Photo,
        labels: Sequence[str | Sequence[str]] | Vocabulary,
        threshold: float | None = None,
    ) -> Segmentation:
        """Label every pixel of a photo.

        ``image``: (H, W, 3) uint8 RGB, a PIL image, or a file's path. ``labels``: names, or lists of
        synonyms; see Vocabulary. ``threshold`` replaces the predictor's own for this call.

        Raises ImageError for a photo that cannot be read and VocabularyError for faulty labels.
        """
        vocabulary = labels if isinstance(labels, Vocabulary) else Vocabulary(labels)
        return self.predict_many([Ask(image, vocabulary, threshold)])[0]

    def predict_many(self, asks: Sequence[Ask]) -> list[Segmentation]:
        """Answer questions, in their order; a photo object that several ask about is encoded once.

        Photos are encoded one at a time: on a CPU a batch takes as long as its photos do apart. Raises
        ImageError for a photo that cannot be read.
        """
        about: dict[int, list[int]] = {}
        for number, ask in enumerate(asks):
            self._thresholds(ask.threshold, ask.vocabulary)
            about.setdefault(id(ask.photo), []).append(number)
        answers: dict[int, Segmentation] = {}
        for numbers in about.values():
            pixels = as_array(asks[numbers[0]].photo)
            encoded = self.encode(pixels)
            for number in numbers:
                answers[number] = self.answer(asks[number], encoded, pixels)
        return [answers[number] for number in range(len(asks))]

    def answer(self, ask: Ask, encoded: EncodedPhoto, pixels: npt.NDArray[np.uint8]) -> Segmentation:
        """Answer a question about a photo, (H, W, 3) uint8 RGB, that this model has encoded."""
        if ask.pointed is None:
            return self.decide(encoded, ask.vocabulary, ask.threshold, ask.measures, ask.memory)
        return self.point(encoded, pixels, ask.vocabulary, ask.pointed)

    @property
    def photos_at_once(self) -> int:
        """Photos of one size that are encoded together: on a CPU that takes as long as one by one."""
        return PHOTOS_AT_ONCE if self.device.type == "cuda" else 1

    def encode(self, photo: Photo) -> EncodedPhoto:
        """Do all for a photo that does not depend on labels, which is most of the work.

        Raises ImageError for a photo that cannot be read.
        """
        return self.encode_many([photo])[0]

    def encode_many(self, photos: Sequence[Photo]) -> list[EncodedPhoto]:
        """Encode photos, in their order; those of one size at test size ``photos_at_once`` together.

        Raises ImageError for a photo that cannot be read.
        """
        pixels = [as_array(photo) for photo in photos]
        with stage(Stage.PREPROCESSING):
            images = [self._at_test_size(each) for each in pixels]
        alike: dict[torch.Size, list[int]] = {}
        for number, image in enumerate(images):
            alike.setdefault(image.shape, []).append(number)
        found: dict[int, Encoded] = {}
        for numbers in alike.values():
            for first in range(0, len(numbers), self.photos_at_once):
                together = numbers[first : first + self.photos_at_once]
                encoded = self.encode_batch([images[number] for number in together])
                found.update(zip(together, encoded.apart(), strict=True))
        return [
            EncodedPhoto(found[number], (each.shape[0], each.shape[1])) for number, each in enumerate(pixels)
        ]

    def _at_test_size(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Give a photo (H, W, 3) as (3, h, w), 0..255, where the model is."""
        resized = resize_shortest_edge(pixels, self.config.test_size, self.config.test_max_size)
        return torch.from_numpy(resized).to(self.device).permute(2, 0, 1).float()

    def encode_batch(self, images: Sequence[Tensor]) -> Encoded:
        """Encode photos at test size in the predictor's precision; see ``EBSeg.encode``."""
        with self._autocast(), self._packed:
            return self.net.encode(images)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision is not InferencePrecision.BF16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _packed_weights(self) -> AbstractContextManager[object]:
        """Give the context in which linear layers multiply numbers of the predictor's precision."""
        if self.precision is InferencePrecision.INT8:
            return Packed(self.net.backbone.int8)
        if self.precision is InferencePrecision.BF16 and Bf16Weights.are_known(self.device):
            # Of a head no more gains: all its matrices would take four times the memory.
            decoder = Bf16Weights(matrices(dict(self.net.pixel_decoder.named_parameters())))
            return Packed(self.net.backbone.bf16, decoder)
        return nullcontext()

    @torch.inference_mode()
    @stage(Stage.SCORES)
    def decide(
        self,
        encoded: EncodedPhoto,
        vocabulary: Vocabulary,
        threshold: Threshold = None,
        measures: Sequence[Measure] = (),
        memory: Memory | None = None,
    ) -> Segmentation:
        """Label every pixel of a photo that this model has encoded; the rest as in ``Ask``."""
        thresholds = self._thresholds(threshold, vocabulary)
        classes = self.net.classify(encoded.encoded, vocabulary, text=self.texts(vocabulary))[0]
        masks = encoded.encoded.resizable()
        if memory is not None and memory.model == self.version:
            scored = score_strips(masks, classes, encoded.size)
            joined = join(memory, scored, encoded.encoded, vocabulary.names, encoded.size)
            strips: Iterator[Contest] = (Contest.of_all(scores) for scores in joined)
        else:
            best = max((contenders(measure, len(vocabulary)) for measure in measures), default=1)
            strips = contests(masks, classes, encoded.size, best)
        decided = [
            (*best_labels(strip, thresholds), *(certainty(strip, measure) for measure in measures))
            for strip in strips
        ]
        label_map, shares, *others = (torch.cat(parts).cpu().numpy() for parts in zip(*decided, strict=True))
        return Segmentation(label_map, shares, vocabulary.names, dict(zip(measures, others, strict=True)))

    def _thresholds(self, threshold: Threshold, vocabulary: Vocabulary) -> float | Tensor:
        """Give one threshold, or each label's, (K,). Raises ConfigError for what is none."""
        if not isinstance(threshold, tuple):
            return self.threshold if threshold is None else _checked_threshold(threshold)
        if len(threshold) != len(vocabulary):
            raise ConfigError(f"{len(threshold)} thresholds were given for {len(vocabulary)} labels")
        each = [self.threshold if one is None else _checked_threshold(one) for one in threshold]
        return torch.tensor(each, device=self.device)

    @torch.inference_mode()
    def point(
        self, encoded: EncodedPhoto, pixels: npt.NDArray[np.uint8], vocabulary: Vocabulary, pointed: Pointed
    ) -> Segmentation:
        """Find what a person points at; all else stays unlabelled. See ``pointing.point``."""
        classes = self.net.classify(encoded.encoded, vocabulary, text=self.texts(vocabulary))[0]
        found, sure = point(encoded.encoded, classes[:, pointed.label], pixels, pointed)
        label_map = np.where(found, np.int16(pointed.label), np.int16(-1))
        return Segmentation(label_map, sure, vocabulary.names)


@contextmanager
def evaluation_mode(net: EBSeg) -> Iterator[None]:
    """Look at a model amid its training: modules' modes and PyTorch's random numbers are as before then."""
    modes = [(module, module.training) for module in net.modules()]
    device = next(net.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        net.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def best_labels(contest: Contest, threshold: float | Tensor) -> tuple[Tensor, Tensor]:
    """Choose each pixel's label and say how sure that is.

    ``threshold``: one, or one for each of the K labels, (K,). Returns the label map (rows, W) int16, -1 where
    the best share is under the threshold, and the best shares (rows, W), 0..1.

    A share is of the labels' scores together. A mask's class probabilities and its background's sum to one,
    so where the scores sum to less than one the masks leave the rest to none of the labels, and that rest
    counts in the whole: without it a lone label would be sure of every pixel.
    """
    best, place = contest.scores.max(dim=0)  # not argmax, which takes longer on a CPU
    chosen = contest.labels[place]
    share = best / contest.total.clamp(min=1.0)
    least = threshold[chosen] if isinstance(threshold, Tensor) else threshold
    return chosen.masked_fill(share < least, -1).short(), share.float()


def choose_device(device: str | torch.device | None) -> torch.device:
    """Give the device asked for; None means a GPU where there is one.

    Raises ConfigError where the device is not here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # an assertion is how PyTorch says "built without CUDA"
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {str(device)!r} cannot be used ({reason}); try 'cpu' or 'cuda'") from error
    return chosen


def resize_shortest_edge(photo: npt.NDArray[np.uint8], size: int, max_size: int) -> npt.NDArray[np.uint8]:
    """Resize (H, W, 3) to a shorter edge of ``size``, or less where the longer would pass ``max_size``.

    Bilinear as in Pillow; sizes as in ``shortest_edge_size``.
    """
    height, width = shortest_edge_size(photo.shape[0], photo.shape[1], size, max_size)
    return np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))


def as_array(image: Photo) -> npt.NDArray[np.uint8]:
    """Read a photo as (H, W, 3) uint8 RGB."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(
            "a photo must be an array (height, width, 3) of uint8 RGB, "
            f"not {image.dtype} of shape {image.shape}"
        )
    return image


def _checked_threshold(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold {threshold} is not between 0 and 1")
    return threshold
