"""Whether a project's annotations are reason to train."""

from collections.abc import Collection
from dataclasses import dataclass

from training.annotations.entry import Entry
from training.annotations.manifest import Manifest
from training.judging.gate import FEWEST_CROSS_VALIDATED
from training.settings import Settings

FEWEST = 2
"""Tasks to train on: one of them is for early stopping."""


@dataclass(frozen=True)
class Reason:
    """The answer: ``train``, and why or why not in words; ``missing``: held-out tasks that it waits for."""

    train: bool
    why: str
    missing: int = 0


def reason_to_train(
    manifest: Manifest,
    trained: Manifest | None,
    settings: Settings,
    *,
    forced: bool,
    seen: Collection[str] = (),
) -> Reason:
    """Compare a reading of annotations with the last one that was trained on, None where there is none.

    ``forced`` replaces the thresholds, but not what a training needs: photos to train on, and enough held-out
    ones to judge by. ``seen``: photos that the champion was trained on, which cannot cross-validate.
    """
    tasks = {manifest.groups[entry.photo] for entry in manifest.labelled("train")}
    held_out = len(manifest.judging("held_out"))
    missing = settings.min_held_out - held_out
    least = FEWEST_CROSS_VALIDATED if missing > 0 else FEWEST
    if len(tasks) < least:
        labelled = manifest.judging("train") | manifest.judging("held_out")
        blank = len({entry.task for entry in manifest.entries} - labelled)
        more = f"; {blank} more show none of the labels" if blank else ""
        return Reason(False, f"{len(tasks)} annotated tasks to train on: {least} are needed at least{more}")
    if missing > 0 and settings.few_held_out == "wait":
        return Reason(
            False,
            f"waits for held-out tasks: {held_out} of {settings.min_held_out} are annotated, "
            f"{missing} more {'is' if missing == 1 else 'are'} needed",
            missing,
        )
    unseen = len(tasks - {group for photo, group in manifest.groups.items() if photo in seen})
    if missing > 0 and (not unseen or held_out + unseen < FEWEST_CROSS_VALIDATED):
        return Reason(
            False,
            f"cross-validation has {held_out} held-out tasks and {unseen} that the champion was not trained "
            f"on: {FEWEST_CROSS_VALIDATED} are needed, or {settings.min_held_out} held-out ones",
        )
    # Other labels in the label config change all label maps, but no annotation.
    known = (
        {each for entry in trained.entries for each in (entry.content, _made(entry))} if trained else set()
    )
    new = len(
        {entry.annotation for entry in manifest.entries if known.isdisjoint((entry.content, _made(entry)))}
    )
    if forced:
        return Reason(True, f"asked for, with {new} new annotations")
    if new >= settings.min_new_annotations:
        return Reason(True, f"{new} new annotations")
    labels = _new_labels(manifest, trained) if trained else []
    if new and len(labels) >= settings.min_new_labels:
        return Reason(True, f"{len(labels)} new labels: {', '.join(labels[:5])}")
    return Reason(False, f"{new} new annotations, {settings.min_new_annotations} start a training")


def _made(entry: Entry) -> tuple[str, int, str]:
    return entry.photo, entry.annotation, entry.time


def _new_labels(manifest: Manifest, trained: Manifest) -> list[str]:
    """List the labels that the new annotations show and the old ones did not."""
    return sorted(manifest.shown_labels - trained.shown_labels)
