"""Compare a candidate with the champion, decide, and act on it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ebseg.data.samples import Source
from ebseg.errors import TrainingError
from ebseg.loading import load as load_model
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary
from training.annotations.manifest import Manifest, latest, load
from training.annotations.snapshot import SnapshotSource
from training.finetuning.finetune import General
from training.finetuning.general_data import general_data
from training.finetuning.own_answers import own_answers
from training.judging import measuring
from training.judging.cross_validation import folds_measured, only, pool
from training.judging.gate import Measured, Retention, Rules, decide
from training.judging.seen import seen_photos
from training.loop import Loop
from training.queue.projects import known_projects
from training.registry.decision import Decision, Verdict
from training.registry.registry import ChampionChanged
from training.registry.version import Version

TRIES = 5
"""Champions that a candidate is compared with, where others are promoted meanwhile."""


def judge(loop: Loop, candidate: Version, project: int, fingerprint: str) -> Decision:
    """Measure both on the project's held-out tasks and on what they should not forget; promote or not.

    The decision is stored with the candidate. Where another version becomes the champion meanwhile, the
    candidate is compared with that one.
    """
    registry, manifest = loop.registry, load(loop.storage, project, fingerprint)
    for _ in range(TRIES):
        champion = registry.champion(project)
        if champion is None:
            raise TrainingError("the registry has lost its champion: promote a version by hand")
        if champion.number == candidate.number:  # by this job, which was then killed, or by hand
            return Decision(Verdict.PROMOTE, ("it is the champion already",), {})
        decision = _decide(loop, champion, candidate, manifest)
        registry.record_decision(candidate, decision, champion=champion.number)
        if decision.verdict is not Verdict.PROMOTE:
            return decision
        try:
            reason, number = "; ".join(decision.reasons), champion.number
            registry.promote(candidate, reason, project=project, expected_champion=number)
        except ChampionChanged:
            continue
        return decision
    raise TrainingError(f"the champion changed {TRIES} times while version {candidate.number} was judged")


def _decide(loop: Loop, champion: Version, candidate: Version, manifest: Manifest) -> Decision:
    settings = loop.settings
    before = load_model(loop.registry.checkpoint(champion), device=settings.device)
    after = load_model(loop.registry.checkpoint(candidate), device=settings.device, beside=before)
    folds = folds_measured(loop.storage, candidate.tags["job"]) if "job" in candidate.tags else None
    held_out = SnapshotSource(loop.storage, manifest, "held_out")
    measured = [_measured(loop, before, held_out)], [_measured(loop, after, held_out)]
    if folds is not None:
        seen = seen_photos(loop.storage, loop.registry, champion)
        unseen = {entry.task for entry in manifest.part("train")}
        unseen -= {entry.task for entry in manifest.part("train") if entry.photo in seen}
        train = SnapshotSource(loop.storage, manifest, "train")
        measured[0].append(only(unseen, _measured(loop, before, train)))
        measured[1].append(only(unseen, folds))
    asked = partial(_answers, loop, champion, before, held_out)
    general = general_data(settings.general_data, settings.model, settings.data_root, asked)
    kept = list(_kept(loop, before, after, manifest, general))
    decision = decide(
        manifest.vocabulary.names,
        pool(measured[0]),
        pool(measured[1]),
        kept,
        Rules.of(settings),
        cross_validated=folds is not None,
    )
    return decision if kept else replace(decision, reasons=(*decision.reasons, _unmeasured(general)))


def _answers(loop: Loop, champion: Version, model: Predictor, photos: SnapshotSource) -> General | None:
    """Ask the version that the champion's line of trainings began with about held-out photos.

    The whole line is compared with that one, so that a champion that strayed from it is no measure of others.
    ``model``: the champion's.
    """
    settings = loop.settings
    origin = loop.registry.checkpoint(loop.registry.origin(champion))
    base = load_model(origin, device=settings.device, beside=model)
    done = loop.progress.stage("asking the base", min(settings.general_photos, len(photos)))
    answers = own_answers(base, photos, settings.general_photos, loop.storage, done)
    if answers is None:
        return None
    return General(None, answers if answers.measures() else None)


def _unmeasured(general: General | None) -> str:
    """Say why nothing is known of what a candidate forgets."""
    if general is None:
        return (
            "what it forgets was not measured: EBSEG_GENERAL_DATA names no data, and the base does not say "
            "what it was trained on"
        )
    if general.held_out is None:
        return (
            "what it forgets was not measured: the base is not sure enough of what the held-out photos show"
        )
    return (
        f"what it forgets was not measured: the photos of {general.held_out.name} show no label that the "
        "project does not use"
    )


def _measured(loop: Loop, model: Predictor, source: SnapshotSource) -> Measured:
    done = loop.progress.stage(f"measuring {model.version} on {source.name}", len(source))
    return measuring.measure(model, source, loop.storage, done)


def _kept(
    loop: Loop, champion: Predictor, candidate: Predictor, manifest: Manifest, general: General | None
) -> Iterator[Retention]:
    """Measure both on general data, on labels that the project does not use.

    Where projects share a champion, also on the others' tasks.
    """
    for source, photos, without in _not_to_forget(loop, manifest, general):
        before, after = (
            measuring.miou(
                model,
                source,
                photos,
                loop.storage,
                loop.progress.stage(f"measuring {model.version} on {source.name}", len(photos)),
                without=without,
            )
            for model in (champion, candidate)
        )
        if not math.isnan(before):
            yield Retention(source.name, before, after)


def _not_to_forget(
    loop: Loop, manifest: Manifest, general: General | None
) -> Iterator[tuple[Source, range, Vocabulary | None]]:
    """Give sources, which of their photos to look at, and labels to leave out."""
    settings = loop.settings
    if general is not None and general.held_out is not None:
        # Not those that the fine-tuning chose its weights by, where there are others.
        there, wanted = len(general.held_out), settings.general_photos
        first = wanted if there >= 2 * wanted else 0
        yield general.held_out, range(first, min(first + wanted, there)), manifest.vocabulary
    for number in known_projects(loop.connection, settings) if settings.share == "all" else ():
        other = latest(loop.storage, number) if number != manifest.project else None
        if other is not None and len(other.judging("held_out")) >= settings.min_held_out:
            source = SnapshotSource(loop.storage, other, "held_out")
            yield source, range(len(source)), None
