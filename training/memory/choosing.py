"""Which corrected photos a memory is made of, and what names their samples: decided before any is encoded."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from training.annotations.entry import Entry
from training.annotations.manifest import Manifest, content_hash
from training.memory.samples import PIXELS

MOST_BYTES = 64 * 2**20
"""Of a project's samples."""


def bytes_of_one(width: int, labels: int) -> int:
    """Tell the bytes of a pixel's sample: ``width`` of the features, ``labels`` of the vocabulary."""
    return 2 * (2 * width + labels) + 6


def samples_key(manifest: Manifest, entry: Entry, model: str) -> str:
    """Name the samples of a photo: by all that decides them."""
    decides = [entry.photo, entry.label_map, model, manifest.vocabulary.to_json(), PIXELS]
    return content_hash(decides)


def chosen(entries: Iterable[Entry], bytes_each: int, most_bytes: int = MOST_BYTES) -> list[Entry]:
    """Choose the photos that show a label, as many as there is room for; of several alike the newest stay.

    First the newest photo of every label, then the second newest, ...: so a photo leaves the later the
    fewer newer ones show its rarest label. ``bytes_each``: of one pixel's sample.
    """
    newest = sorted(
        (entry for entry in entries if entry.pixels), key=lambda entry: (entry.time, entry.task), reverse=True
    )
    newer = Counter[str]()
    ranks: list[tuple[int, int]] = []
    for place, entry in enumerate(newest):
        ranks.append((min(newer[label] for label in entry.pixels), place))
        newer.update(entry.pixels.keys())
    kept: list[Entry] = []
    for _, place in sorted(ranks):
        most_bytes -= bytes_each * sum(min(count, PIXELS) for count in newest[place].pixels.values())
        if most_bytes < 0:
            break
        kept.append(newest[place])
    return kept


def digest(keys: Sequence[str]) -> str:
    """Name a choice of samples, in whatever order."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()
