"""Whether a project's annotations are reason to train."""

from dataclasses import dataclass

from training.manifest import Manifest
from training.settings import Settings

FEWEST, FEWEST_TO_VALIDATE = 2, 6
"""Photos to train on: one of them is for early stopping, and thirds of them take turns in being judged."""


@dataclass(frozen=True)
class Reason:
    """The answer: ``train``, and why or why not in words."""

    train: bool
    why: str


def reason_to_train(
    manifest: Manifest, trained: Manifest | None, settings: Settings, *, forced: bool
) -> Reason:
    """Compare a reading of annotations with the last one that was trained on, None where there is none.

    ``forced`` replaces the thresholds, but not what a training needs: photos to train on, and enough held-out
    ones to judge by.
    """
    kept, held_out = (len(manifest.part(part)) for part in ("train", "held_out"))
    missing = settings.min_held_out - held_out
    least = FEWEST_TO_VALIDATE if missing > 0 else FEWEST
    if kept < least:
        return Reason(False, f"{kept} annotated tasks to train on: {least} are needed at least")
    if missing > 0 and settings.few_held_out == "wait":
        return Reason(
            False,
            f"waits for held-out tasks: {held_out} of {settings.min_held_out} are annotated, "
            f"{missing} more are needed",
        )
    known = {entry.content for entry in trained.entries} if trained else set()
    new = sum(entry.content not in known for entry in manifest.entries)
    if forced:
        return Reason(True, f"asked for, with {new} new annotations")
    if new >= settings.min_new_annotations:
        return Reason(True, f"{new} new annotations")
    labels = _new_labels(manifest, trained) if trained else []
    if new and len(labels) >= settings.min_new_labels:
        return Reason(True, f"{len(labels)} new labels: {', '.join(labels[:5])}")
    return Reason(False, f"{new} new annotations, {settings.min_new_annotations} start a training")


def _new_labels(manifest: Manifest, trained: Manifest) -> list[str]:
    """List the labels that the new annotations show and the old ones did not."""
    return sorted(manifest.shown_labels - trained.shown_labels)
