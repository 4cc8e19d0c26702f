"""Teach the text tower other names of known words: `python -m training.tiny.new_words MODEL --out FILE`.

No scene is labelled "sphere" or "crimson". Like the captions that CLIP learns from, regions of training
scenes are described here in these words ("crimson sphere" and "crimson ball" for a red ball), and the
text tower learns them from the picture, with the image tower locked (Zhai et al., "LiT: Zero-Shot
Transfer with Locked-image text Tuning", CVPR 2022). Every weight is frozen but for the rows of the token
table that belong to the new words, so that whatever the model said of other names stays bit for bit.
EBSeg's own training never uses the new words: to the decoder they are unseen.

R regions, P seen phrases, W texts of single words, E joint embedding size.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
import typer
from safetensors import safe_open
from torch import Tensor, nn

from ebseg.checkpoint import load_checkpoint, save_checkpoint
from ebseg.clip import TextClassifier
from ebseg.data.drawn.phrases import OTHER_NAMES, PHRASES, SEEN_PHRASES, renamed
from ebseg.model import EBSeg
from ebseg.vocabulary import TEMPLATES
from training.tiny.pretrain_clip import BLOCKED, LARGEST_SCALE, MOST_REGIONS, ClipPair, contrasts, word_texts
from training.tiny.pretrain_scenes import HELD_OUT_SEED, find_regions, half_size_scenes, random_crops

SIDE = 128
ZOOM = (0.6, 1.0)
CROPS_AT_ONCE = 10

Shares = dict[str, float]
"""Share of regions named rightly, 0..1, by kind: of seen phrases, of unseen combinations."""


@dataclass(frozen=True)
class Lessons:
    """How long and on how much the new words are learnt."""

    scenes: int = 1500
    crops: int = 2000
    steps: int = 600
    batch: int = 256  # regions a step
    learning_rate: float = 5e-3
    noun_weight: float = 1.5  # as in the towers' own pre-training


@dataclass(frozen=True)
class RegionBank:
    """Regions as the locked image tower embeds them.

    `b`, `c` (R, E); `labels` (R,) indices into `PHRASES`; `weights` (R,), less for the smallest.
    """

    b: Tensor
    c: Tensor
    labels: Tensor
    weights: Tensor


def new_tokens() -> Tensor:
    """List the tokens of the new words, ascending (int64)."""
    tokenizer = open_clip.SimpleTokenizer()
    return torch.tensor(sorted({token for word in OTHER_NAMES.values() for token in tokenizer.encode(word)}))


@torch.no_grad()
def embed_regions(
    pair: ClipPair, images: Tensor, labels: Tensor, *, most: int, threshold: float
) -> RegionBank:
    """Embed what covers more than half a patch of pictures (B, 3, h, w), 0..255, by label maps (B, h, w)."""
    banks = []
    for some, maps in zip(images.split(CROPS_AT_ONCE), labels.split(CROPS_AT_ONCE), strict=True):
        regions = find_regions(
            maps.long(), patch=pair.config.patch_size, phrases=len(PHRASES), most=most, threshold=threshold
        )
        b, c = pair.embed_regions(some.float(), regions.masks)
        kept = regions.areas > 0.5
        weights = (regions.areas / 4).clamp(max=1)
        banks.append((b[kept], c[kept], regions.labels[kept], weights[kept]))
    return RegionBank(*(torch.cat(parts) for parts in zip(*banks, strict=True)))


def training_regions(pair: ClipPair, seed: int, lessons: Lessons) -> RegionBank:
    """Embed regions of crops of the training scenes of `seed`, which show seen phrases only."""
    scenes = half_size_scenes(seed, lessons.scenes)
    rng = np.random.default_rng((seed, len(PHRASES)))
    crops = [
        random_crops(scenes, rng, batch=CROPS_AT_ONCE, side=SIDE, zoom=ZOOM)
        for _ in range(lessons.crops // CROPS_AT_ONCE)
    ]
    images, labels = (torch.cat(parts) for parts in zip(*crops, strict=True))
    return embed_regions(pair, images, labels, most=MOST_REGIONS, threshold=0.4)


class Captions:
    """The texts that a step contrasts regions with: phrases and single words, in old and in new words."""

    def __init__(self, text: TextClassifier) -> None:
        self._text = text
        self.words, self.parts = word_texts()
        self._old_texts = (*SEEN_PHRASES, *self.words)
        with torch.no_grad():  # old texts have no new token: they never change
            self._old = torch.stack([self._embed([t.format(x) for x in self._old_texts]) for t in TEMPLATES])

    def _embed(self, texts: list[str]) -> Tensor:
        return F.normalize(self._text.encode_texts(texts), dim=-1)

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Embed the old and the new texts, (P + W, E) each, every text through a random template.

        The new text of a phrase of two words renames both, or one of them, half of the time each.
        """
        texts = [_captioned(phrase, rng) for phrase in SEEN_PHRASES]
        texts += [" ".join(OTHER_NAMES.get(word, word) for word in text.split()) for text in self.words]
        templates = rng.integers(0, len(TEMPLATES), (2, len(texts)))
        new = self._embed([TEMPLATES[i].format(text) for i, text in zip(templates[0], texts, strict=True)])
        return self._old[torch.from_numpy(templates[1]), torch.arange(len(texts))], new


def _captioned(phrase: str, rng: np.random.Generator) -> str:
    """Rename a phrase, or, half of the time where it has two words, only one of them."""
    words, new = phrase.split(), renamed(phrase).split()
    if len(words) == 2 and rng.random() < 0.5:
        kept = int(rng.integers(2))
        new[kept] = words[kept]
    return " ".join(new)


def contrastive_loss(logits_old: Tensor, logits_new: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Contrast regions with their new text, and with their old one: logits (R, T) each, targets (R,).

    Each of the two is sought among all texts but the other, since both are true. Targets of -1 have no
    text and do not count; nor do texts whose logits are at most `BLOCKED`.
    """
    counted = targets >= 0
    old, new, wanted = logits_old[counted], logits_new[counted], targets[counted]
    total = logits_old.new_zeros(())
    for sought, others in ((new, old), (old, new)):
        rivals = others.scatter(1, wanted[:, None], BLOCKED)
        losses = F.cross_entropy(torch.cat([sought, rivals], dim=1), wanted, reduction="none")
        total = total + (losses * weights[counted]).sum()
    return total / weights[counted].sum().clamp(min=1e-6)


class NewWords:
    """What is learnt: rows of the text tower's token table, all else frozen."""

    def __init__(self, net: EBSeg, bank: RegionBank, lessons: Lessons) -> None:
        self.text, self.bank, self.lessons = net.text, bank, lessons
        self.captions = Captions(net.text)
        net.requires_grad_(False)
        self.table: nn.Parameter = net.text.tower.token_embedding.weight
        self._rows = torch.zeros(len(self.table), 1).index_fill(0, new_tokens(), 1)
        self._allowed = contrasts(self.captions.words)
        parts = self.captions.parts
        coats, nouns = (torch.tensor([part[i] if part else -1 for part in parts]) for i in (0, 1))
        self._groups = tuple(
            (_members(targets), targets, weight)
            for targets, weight in ((coats, 0.5), (nouns, lessons.noun_weight))
        )
        self._pairs = (coats >= 0, coats[coats >= 0], nouns[nouns >= 0])

    def train(self, seed: int) -> list[float]:
        """Train the rows; returns the loss of each step.

        Adam without weight decay leaves rows whose gradient is always zero as they are.
        """
        self.table.requires_grad_(True)
        hook = self.table.register_hook(lambda gradient: gradient * self._rows)
        optimiser = torch.optim.Adam([self.table], lr=self.lessons.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.lessons.steps)
        losses = []
        for step in range(self.lessons.steps):
            loss = self.loss(np.random.default_rng((seed, step)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        hook.remove()
        self.table.requires_grad_(False)
        return losses

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Contrast a batch of regions with texts in old and new words."""
        chosen = torch.from_numpy(rng.integers(0, len(self.bank.labels), self.lessons.batch))
        labels, weights = self.bank.labels[chosen], self.bank.weights[chosen]
        old, new = self.captions.draw(rng)
        scale = self.text.logit_scale.exp().clamp(max=LARGEST_SCALE)
        total = 0.5 * self._sum_loss(new)
        for embeddings in (self.bank.b[chosen], self.bank.c[chosen]):
            total = total + self._region_loss(
                scale * embeddings @ old.T, scale * embeddings @ new.T, labels, weights
            )
        return total

    def _region_loss(self, old: Tensor, new: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Sum the contrasts with phrases, first words and nouns: logits (R, P + W)."""
        count = len(SEEN_PHRASES)
        total = contrastive_loss(old[:, :count], new[:, :count], labels, weights)
        spared = ~self._allowed[labels]
        old, new = (logits[:, count:].masked_fill(spared, BLOCKED) for logits in (old, new))
        for group, targets, weight in self._groups:
            wanted = torch.where(targets >= 0, torch.searchsorted(group, targets), -1)[labels]
            total = total + weight * contrastive_loss(old[:, group], new[:, group], wanted, weights)
        return total

    def _sum_loss(self, new: Tensor) -> Tensor:
        """Draw a phrase to the sum of its words, as the towers' pre-training does."""
        paired, coats, nouns = self._pairs
        words = new[len(SEEN_PHRASES) :]
        sums = F.normalize(words[coats] + words[nouns], dim=-1)
        return (1 - (new[: len(SEEN_PHRASES)][paired] * sums).sum(dim=-1)).mean()


def _members(targets: Tensor) -> Tensor:
    members: Tensor = targets[targets >= 0].unique()
    return members


def held_out_regions(pair: ClipPair, seed: int, count: int) -> dict[str, RegionBank]:
    """Embed regions of held-out scenes: those of seen phrases, and those of unseen combinations."""
    banks = {}
    for kind, unseen in (("seen", False), ("unseen", True)):
        scenes = half_size_scenes(seed + HELD_OUT_SEED, count, unseen=unseen)
        bank = embed_regions(pair, scenes.images, scenes.labels, most=MOST_REGIONS + 4, threshold=0.5)
        asked = (bank.labels >= len(SEEN_PHRASES)) == unseen
        banks[kind] = RegionBank(bank.b[asked], bank.c[asked], bank.labels[asked], bank.weights[asked])
    return banks


@torch.no_grad()
def accuracy(text: TextClassifier, banks: dict[str, RegionBank], phrases: Sequence[str]) -> Shares:
    """Give the share of regions named rightly among all phrases, these given in the order of `PHRASES`."""
    names = text.encode_names(phrases)
    scale = text.logit_scale.exp().clamp(max=LARGEST_SCALE)
    result = {}
    for kind, bank in banks.items():
        b, c = ((scale * e @ names.T).log_softmax(dim=-1) for e in (bank.b, bank.c))
        result[kind] = ((0.7 * b + 0.3 * c).argmax(dim=-1) == bank.labels).float().mean().item()
    return result


def clip_pair(net: EBSeg) -> ClipPair:
    """Put a model's own towers into the form that pre-training embeds regions with."""
    pair = ClipPair(net.config.clip)
    pair.image, pair.text = net.clip, net.text
    return pair


def stored_dtype(path: Path) -> torch.dtype:
    """Tell in which type a checkpoint's token table is stored."""
    with safe_open(path, framework="pt") as file:
        dtype: torch.dtype = file.get_tensor("text.tower.token_embedding.weight").dtype
    return dtype


def teach(
    model: Path, out: Path, *, seed: int, lessons: Lessons, held_out: int
) -> dict[str, dict[str, float]]:
    """Teach a checkpoint's text tower the new words and write `out`, of the same type and header.

    Returns the share of regions named rightly on `held_out` held-out scenes of each kind: by old names and
    by new ones, before and after.
    """
    net, metadata = load_checkpoint(model)
    pair, new_names = clip_pair(net), [renamed(phrase) for phrase in PHRASES]
    banks = held_out_regions(pair, seed, held_out)
    report = {"old_names_before": accuracy(net.text, banks, PHRASES)}
    report["new_names_before"] = accuracy(net.text, banks, new_names)
    NewWords(net, training_regions(pair, seed, lessons), lessons).train(seed)
    save_checkpoint(net, out, dtype=stored_dtype(model), metadata=metadata)
    written, _ = load_checkpoint(out)
    report["old_names_after"] = accuracy(written.text, banks, PHRASES)
    report["new_names_after"] = accuracy(written.text, banks, new_names)
    return report


def main(
    model: Annotated[Path, typer.Argument(help="a checkpoint of the small model", exists=True)],
    out: Annotated[Path, typer.Option(help="checkpoint to write, of the same type and with the same header")],
    seed: Annotated[int, typer.Option(help="of scenes and batches")] = 0,
    threads: Annotated[int, typer.Option(help="processor threads")] = 1,
    held_out: Annotated[int, typer.Option(help="held-out scenes of each kind to measure on")] = 200,
) -> None:
    """Teach MODEL the other names of its words and write the result to OUT."""
    torch.set_num_threads(threads)
    started = time.monotonic()
    report = teach(model, out, seed=seed, lessons=Lessons(), held_out=held_out)
    typer.echo(json.dumps({"seconds": round(time.monotonic() - started, 1), **report}, indent=2))


if __name__ == "__main__":
    typer.run(main)
