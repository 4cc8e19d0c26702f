"""The job that compares a candidate with the champion, and acts on what is decided."""

from training.jobs.job import job
from training.judging.judge import judge
from training.loop import Loop, Result
from training.queue.outcomes import Topic, tell
from training.queue.plans import refresh
from training.queue.projects import Project
from training.registry.decision import Verdict


def judge_and_follow(loop: Loop, project: int, fingerprint: str, number: int) -> Result:
    """Compare a candidate with the champion on held-out tasks, promote it only if it is better."""
    candidate = loop.registry.version(str(number))
    decision = judge(loop, candidate, project, fingerprint)
    champion = loop.registry.ensure_base(project)
    state = Project(loop.connection, project, loop.clock)
    words = decision.in_words()
    tell(loop.connection, project, Topic.DECISION, f"version {number} ({candidate.name}): {words}")
    promoted = decision.verdict is Verdict.PROMOTE
    if promoted or candidate.tags.get("base") == str(champion.number):
        state.trained = fingerprint
    # Else it was rejected for what a champion knows that came between: it is trained anew, from that one.
    if promoted:
        refresh(loop.connection, loop.settings, champion.name, project)
    state.train_with()
    state.request_round(loop.settings.debounce)  # annotations that came meanwhile
    return {"outcome": words, "version": number}


judge_candidate = job(judge_and_follow)
