"""Parts of a snapshot's photos, chosen by hashes: the same photo always falls to the same part."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from ebseg.data.samples import Sample
from ebseg.vocabulary import Vocabulary
from training.annotations.snapshot import SnapshotSource

VALIDATION_SHARE = 0.2
"""Share of the photos to train on that early stopping and the choice of weights look at instead."""

FOLDS = 3
"""Parts that take turns in being judged, where too few tasks are held out."""


@dataclass(frozen=True)
class Part:
    """Some photos of a snapshot, a Source itself."""

    source: SnapshotSource
    indices: tuple[int, ...]
    name: str

    @property
    def vocabulary(self) -> Vocabulary:
        """What the label maps' numbers mean."""
        return self.source.vocabulary

    @property
    def tasks(self) -> tuple[int, ...]:
        """Label Studio's numbers of the tasks."""
        return tuple(self.source.tasks[index] for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Read one. Raises what the snapshot raises."""
        return self.source[self.indices[index]]

    def fingerprint(self) -> str:
        """Name the content: the snapshot's and which photos of it are in this part."""
        return hashlib.sha256(f"{self.source.fingerprint()} {self.indices}".encode()).hexdigest()


def training_and_validation(source: SnapshotSource, *, fold: int | None = None) -> tuple[Part, Part]:
    """Split the photos to train on; without those of a fold, where one is given.

    A task's photos are on one side. All photos for validation show labels. Both parts have one that does: two
    tasks are needed.
    """
    judged = set[str]() if fold is None else set(_dealt(source, fold))
    ranked = [group for group in _ranked(source, "validation") if group not in judged]
    count = min(max(round(VALIDATION_SHARE * len(ranked)), 1), len(ranked) - 1)
    validation = set(ranked[:count])
    training = set(source.groups) - judged - validation
    indices = tuple(index for index, group in enumerate(source.groups) if group in training)
    return (
        Part(source, indices, f"{source.name}, training"),
        _labelled_part(source, validation, "validation"),
    )


def folds(source: SnapshotSource) -> list[Part]:
    """Deal the tasks to train on that show labels to ``FOLDS`` parts of nearly the same size."""
    return [_labelled_part(source, _dealt(source, fold), f"fold {fold + 1}") for fold in range(FOLDS)]


def _dealt(source: SnapshotSource, fold: int) -> list[str]:
    return _ranked(source, "fold")[fold::FOLDS]


def _ranked(source: SnapshotSource, salt: str) -> list[str]:
    """Order the groups of photos that show labels by a hash that says nothing about them."""
    found = {
        group for group, photo in zip(source.groups, source.photos, strict=True) if photo in source.labelled
    }
    return sorted(found, key=lambda group: _hash(salt, group))


def _hash(salt: str, group: str) -> str:
    return hashlib.sha256(f"{salt} {group}".encode()).hexdigest()


def _labelled_part(source: SnapshotSource, groups: Collection[str], name: str) -> Part:
    """Take the photos of some groups that show labels."""
    chosen = set(groups)
    indices = tuple(
        index
        for index, (group, photo) in enumerate(zip(source.groups, source.photos, strict=True))
        if group in chosen and photo in source.labelled
    )
    return Part(source, indices, f"{source.name}, {name}")
