"""Compare a candidate with the champion, decide, and act on it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import ebseg
from ebseg.data.samples import Source
from ebseg.errors import TrainingError
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary
from training.annotations.manifest import Manifest, latest, load
from training.annotations.snapshot import SnapshotSource
from training.finetuning.general_data import general_data
from training.judging import measuring
from training.judging.cross_validation import folds_measured, only, pool
from training.judging.gate import Decision, Kept, Measured, Rules, Verdict, decide
from training.queue.triggers import known_projects
from training.registry.registry import ChampionChanged, Registry, Version
from training.storage import Storage

if TYPE_CHECKING:
    from training.queue.job_context import Context

TRIES = 5
"""Champions that a candidate is compared with, where others are promoted meanwhile."""


def judge(
    context: "Context", registry: Registry, candidate: Version, project: int, fingerprint: str
) -> Decision:
    """Measure both on the project's held-out tasks and on what they should not forget; promote or not.

    The decision is stored with the candidate. Where another version becomes the champion meanwhile, the
    candidate is compared with that one.
    """
    manifest = load(context.storage, project, fingerprint)
    for _ in range(TRIES):
        champion = registry.champion()
        if champion is None:
            raise TrainingError("the registry has lost its champion: promote a version by hand")
        if champion.number == candidate.number:  # by this job, which was then killed, or by hand
            return Decision(Verdict.PROMOTE, ("it is the champion already",), {})
        decision = _decide(context, registry, champion, candidate, manifest)
        registry.record_decision(candidate, decision, champion=champion.number)
        if decision.verdict is not Verdict.PROMOTE:
            return decision
        try:
            registry.promote(candidate, "; ".join(decision.reasons), expected_champion=champion.number)
        except ChampionChanged:
            continue
        return decision
    raise TrainingError(f"the champion changed {TRIES} times while version {candidate.number} was judged")


def _decide(
    context: "Context", registry: Registry, champion: Version, candidate: Version, manifest: Manifest
) -> Decision:
    before, after = (
        ebseg.load(registry.checkpoint(version), device=context.settings.device)
        for version in (champion, candidate)
    )
    folds = folds_measured(context.storage, candidate.tags.get("job", ""))
    held_out = SnapshotSource(context.storage, manifest, "held_out")
    measured = [_measured(context, before, held_out)], [_measured(context, after, held_out)]
    if folds is not None:
        seen = seen_photos(context.storage, registry, champion)
        unseen = {entry.task for entry in manifest.part("train") if entry.photo not in seen}
        train = SnapshotSource(context.storage, manifest, "train")
        measured[0].append(only(unseen, _measured(context, before, train)))
        measured[1].append(only(unseen, folds))
    kept = list(_kept(context, before, after, manifest))
    decision = decide(
        manifest.vocabulary.names,
        pool(measured[0]),
        pool(measured[1]),
        kept,
        Rules.of(context.settings),
        cross_validated=folds is not None,
    )
    if kept:
        return decision
    blind = "what it forgets was not measured: EBSEG_GENERAL_DATA names no data"
    return replace(decision, reasons=(*decision.reasons, blind))


def seen_photos(storage: Storage, registry: Registry, version: Version) -> set[str]:
    """Give the photos that a version, or one that it comes from, was trained on."""
    seen = set[str]()
    while "base" in version.tags:
        project, fingerprint = int(version.tags["project"]), version.tags["fingerprint"]
        seen |= {entry.photo for entry in load(storage, project, fingerprint).part("train")}
        version = registry.version(version.tags["base"])
    return seen


def _measured(context: "Context", model: Predictor, source: SnapshotSource) -> Measured:
    done = context.stage(f"measuring {model.version} on {source.name}", len(source))
    return measuring.measure(model, source, context.storage, done)


def _kept(
    context: "Context", champion: Predictor, candidate: Predictor, manifest: Manifest
) -> Iterator[Kept]:
    """Measure both on general data, on labels that the project does not use, and on other projects' tasks."""
    for source, photos, without in _not_to_forget(context, manifest):
        before, after = (
            measuring.miou(
                model,
                source,
                photos,
                context.storage,
                context.stage(f"measuring {model.version} on {source.name}", len(photos)),
                without=without,
            )
            for model in (champion, candidate)
        )
        if not math.isnan(before):
            yield Kept(source.name, before, after)


def _not_to_forget(
    context: "Context", manifest: Manifest
) -> Iterator[tuple[Source, range, Vocabulary | None]]:
    """Give sources, which of their photos to look at, and labels to leave out."""
    settings = context.settings
    general = general_data(settings.general_data, settings.model, settings.data_root)
    if general is not None:
        # Not those that the fine-tuning chose its weights by, where there are others.
        there, wanted = len(general.held_out), settings.general_photos
        first = wanted if there >= 2 * wanted else 0
        yield general.held_out, range(first, min(first + wanted, there)), manifest.vocabulary
    for number in known_projects(context.connection, settings):
        other = latest(context.storage, number) if number != manifest.project else None
        if other is not None and len(other.part("held_out")) >= settings.min_held_out:
            source = SnapshotSource(context.storage, other, "held_out")
            yield source, range(len(source)), None
