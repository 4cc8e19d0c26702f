"""Contrastive pre-training of the small CLIP pair on crops of drawn scenes and their phrases.

The pair is trained for what EBSeg asks of it: the class token's copies that look at one region only
(embedding B) and the dense features averaged over a region (embedding C) are contrasted with the
phrase of that region, and the class token that looks everywhere with all phrases of the crop. The
true phrases come from the label map, so no negative is false. Words are also contrasted alone
("ball", "red object"), and a phrase is drawn to the sum of its words: this carries over to
combinations of words that were never seen together.

B crops, Q regions, N patches, E joint embedding size, T texts.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebseg.clip import ClipImageEncoder, TextClassifier
from ebseg.config import ClipConfig
from ebseg.data.drawn.phrases import HELD_OUT, PHRASES, SEEN_PHRASES, SURFACES
from ebseg.vocabulary import TEMPLATES
from training.tiny.pretrain_scenes import Regions, Scenes, find_regions, half_size_scenes, random_crops

MEAN = (122.7709, 116.7460, 104.0937)  # CLIP's, of RGB 0..255
DEVIATION = (68.5005, 66.6322, 70.3232)
MOST_REGIONS = 8
BLOCKED = -100.0  # bias of patches outside the region, as EBSeg's
LARGEST_SCALE = 100.0  # of logits, as CLIP's


@dataclass(frozen=True)
class ClipPhase:
    """Steps on crops of one size: pixels of a side, crops a step, range of zoom, weight of nouns.

    `spare_held_out`: leave words out of a contrast that are held out beside the region's other word.
    """

    steps: int
    batch: int
    side: int
    zoom: tuple[float, float]
    noun_weight: float
    spare_held_out: bool


class ClipPair(nn.Module):
    """Both towers, as EBSeg holds them."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ClipImageEncoder(config)
        self.text = TextClassifier(config)

    def embed_regions(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Embed regions (masks (B, Q, N) bool) of images (B, 3, h, w), 0..255, as EBSeg does.

        Returns B, (B, Q, E) of unit length, and C, (B, Q, E), a mean of unit vectors.
        """
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        features = self.image((images - mean) / deviation, surgery=True)
        bias = torch.zeros(masks.shape).masked_fill(~masks, BLOCKED)
        heads = self.config.image_heads
        steered, dense = self.image.recognise(features, bias[:, None].expand(-1, heads, -1, -1))
        if dense is None:
            raise RuntimeError("the value-to-value stream was asked for but not carried")
        inside = masks.float() / masks.sum(dim=2, keepdim=True)
        return steered, inside @ dense.flatten(2).transpose(1, 2)


def word_texts() -> tuple[list[str], list[list[int]]]:
    """List texts of single words, and for each seen phrase the indices of its words' texts."""
    texts: list[str] = []
    parts: list[list[int]] = []
    for phrase in SEEN_PHRASES:
        words = phrase.split()
        if len(words) == 1:
            parts.append([])
            continue
        kind = "surface" if words[1] in SURFACES else "object"
        alone = [f"{words[0]} {kind}", words[1]]
        texts += [text for text in alone if text not in texts]
        parts.append([texts.index(text) for text in alone])
    return texts, parts


def contrasts(words: list[str]) -> Tensor:
    """Which words' texts a seen phrase may be contrasted with: (phrases, words) bool.

    Not with a word that is held out beside the phrase's other word. Else training would teach that
    nothing of metal is a cone, because no metal cone is ever shown.
    """
    allowed = torch.ones(len(SEEN_PHRASES), len(words), dtype=torch.bool)
    for row, phrase in enumerate(SEEN_PHRASES):
        for column, text in enumerate(words):
            coat, noun = phrase.split()[0], phrase.split()[-1]
            word = text.split()[0]
            allowed[row, column] = f"{coat} {word}" not in HELD_OUT and f"{word} {noun}" not in HELD_OUT
    return allowed


class ClipStage:
    """The first stage: `model` is trained on `scenes` by rounds of phases.

    The learning rate starts anew with each round (Loshchilov and Hutter, "SGDR", 2017).
    """

    name = "clip"

    def __init__(self, config: ClipConfig, scenes: Scenes, rounds: tuple[tuple[ClipPhase, ...], ...]) -> None:
        self.model = ClipPair(config)
        self.scenes = scenes
        self.phases = tuple(phase for phases in rounds for phase in phases)
        self.rounds = tuple(sum(phase.steps for phase in phases) for phases in rounds)
        words, parts = word_texts()
        self._texts = (*SEEN_PHRASES, *words)
        self._coats, self._nouns = (
            torch.tensor([part[place] if part else -1 for part in parts]) for place in (0, 1)
        )
        self._allowed = contrasts(words)

    def _phase(self, step: int) -> ClipPhase:
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise ValueError(f"step {step} is beyond the last phase")

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Draw a batch and return its loss and what to log of it."""
        phase, patch = self._phase(step), self.model.config.patch_size
        images, labels = random_crops(self.scenes, rng, batch=phase.batch, side=phase.side, zoom=phase.zoom)
        regions = find_regions(
            labels, patch=patch, phrases=len(SEEN_PHRASES), most=MOST_REGIONS, threshold=rng.uniform(0.2, 0.6)
        )
        everywhere = torch.ones_like(regions.masks[:, :1])
        steered, dense = self.model.embed_regions(images, torch.cat([regions.masks, everywhere], dim=1))
        texts = [TEMPLATES[i].format(text) for i, text in zip(
            rng.integers(0, len(TEMPLATES), len(self._texts)), self._texts, strict=True
        )]  # fmt: skip
        embedded = F.normalize(self.model.text.encode_texts(texts), dim=-1)
        scale = self.model.text.logit_scale.exp().clamp(max=LARGEST_SCALE)
        terms = {
            "B": self._region_loss(scale * steered[:, :-1] @ embedded.T, regions, phase),
            "C": self._region_loss(scale * dense[:, :-1] @ embedded.T, regions, phase),
            "whole": _whole_loss(scale * steered[:, -1] @ embedded[: len(SEEN_PHRASES)].T, regions),
            "sum": self._sum_loss(embedded),
        }
        total = terms["B"] + terms["C"] + 0.3 * terms["whole"] + 0.5 * terms["sum"]
        return total, {name: term.item() for name, term in terms.items()} | {"scale": scale.item()}

    def _region_loss(self, logits: Tensor, regions: Regions, phase: ClipPhase) -> Tensor:
        """Contrast regions with seen phrases, with first words and with nouns: logits (B, Q, T)."""
        weights = (regions.areas / 4).clamp(max=1) * (regions.areas > 0.5)
        phrases = logits[..., : len(SEEN_PHRASES)]
        words = logits[..., len(SEEN_PHRASES) :]
        if phase.spare_held_out:
            words = words.masked_fill(~self._allowed[regions.labels], BLOCKED)
        total = _weighted_cross_entropy(phrases, regions.labels, weights)
        for targets, weight in ((self._coats, 0.5), (self._nouns, phase.noun_weight)):
            group = torch.tensor(sorted(set(targets[targets >= 0].tolist())))
            place = torch.searchsorted(group, targets).where(targets >= 0, -1)
            total = total + weight * _weighted_cross_entropy(
                words[..., group], place[regions.labels], weights
            )
        return total

    def _sum_loss(self, embedded: Tensor) -> Tensor:
        """One minus the cosine between a phrase and the sum of its words."""
        paired = self._coats >= 0
        words = embedded[len(SEEN_PHRASES) :]
        sums = F.normalize(words[self._coats[paired]] + words[self._nouns[paired]], dim=-1)
        return (1 - (embedded[: len(SEEN_PHRASES)][paired] * sums).sum(dim=-1)).mean()

    @torch.no_grad()
    def measure(self, seed: int, count: int) -> dict[str, float]:
        """Share of regions named rightly among all phrases, in `count` held-out scenes of each kind."""
        names = self.model.text.encode_names(PHRASES)
        scale = self.model.text.logit_scale.exp().clamp(max=LARGEST_SCALE)
        result: dict[str, float] = {}
        for unseen in (False, True):
            scenes = half_size_scenes(seed, count, unseen=unseen)
            hits: dict[str, list[Tensor]] = {"B": [], "C": [], "BC": []}
            for images, labels in zip(
                torch.split(scenes.images, 16), torch.split(scenes.labels, 16), strict=True
            ):
                regions = find_regions(
                    labels.long(), patch=self.model.config.patch_size, phrases=len(PHRASES),
                    most=MOST_REGIONS + 4, threshold=0.5,
                )  # fmt: skip
                asked = (regions.areas > 0.5) & ((regions.labels >= len(SEEN_PHRASES)) == unseen)
                b, c = self.model.embed_regions(images.float(), regions.masks)
                b, c = ((scale * e @ names.T).log_softmax(dim=-1) for e in (b, c))
                for name, scores in (("B", b), ("C", c), ("BC", 0.7 * b + 0.3 * c)):
                    hits[name].append((scores.argmax(dim=-1) == regions.labels)[asked])
            kind = "unseen" if unseen else "seen"
            result |= {
                f"{kind}_{name}": torch.cat(found).float().mean().item() for name, found in hits.items()
            }
        return result

    def export(self) -> dict[str, Tensor]:
        """Weights under the names `clip_image.`, `clip_text.` and `clip_logit_scale`."""
        weights = {f"clip_image.{k}": v for k, v in self.model.image.tower.state_dict().items()}
        weights |= {f"clip_text.{k}": v for k, v in self.model.text.tower.state_dict().items()}
        return weights | {"clip_logit_scale": self.model.text.logit_scale.detach()}


def _weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean over regions with a target, weighted: logits (B, Q, T), targets (B, Q), -1 for none."""
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    counted = weights.flatten() * (targets.flatten() >= 0)
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def _whole_loss(logits: Tensor, regions: Regions) -> Tensor:
    """Contrast crops with all their phrases, each by the square root of its area: logits (B, T)."""
    shares = torch.zeros_like(logits).scatter(1, regions.labels, regions.areas.sqrt())
    shares = shares / shares.sum(dim=1, keepdim=True)
    return -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()
