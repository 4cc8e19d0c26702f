"""Mutation testing of what decides a promotion: ``make mutants``, or ``python -m tests.mutation``.

Small faults are put into a copy of the tree, one at a time: a comparison or its boundary, a number, ``not``,
``and``, an argument, a statement, a returned value. The test files that belong to the module should then
fail. A mutant that survives is printed as a diff: it wants a test, or, where it is the same program in other
words or one whose difference nobody should rely on, an entry with its reason in explained.json.

The sample is the same for the same seed and source. Mutants run in forks of processes that have imported what
is slow to import.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutation.changes import Mutant, mutants
from tests.mutation.running import ROOT, Job, run_all

EXPLAINED = Path(__file__).with_name("explained.json")
FOLDERS = ("tests/unit/training", "tests/integration/loop", "tests/unit", "tests/integration/training")
"""Where a target's test files are looked for, by their names."""


@dataclass(frozen=True)
class Target:
    """A module, and the test files that should notice a fault in it, the fastest first.

    ``only``: the functions that are looked at; None for all. ``chosen``: which tests of the files are run.
    """

    file: str
    tests: tuple[str, ...]
    only: frozenset[str] | None = None
    chosen: str | None = None


def _target(file: str, *names: str, **more: Any) -> Target:
    return Target(file, tuple(_find(f"test_{name}.py") for name in names), **more)


def _find(name: str) -> str:
    return next(path for folder in FOLDERS if (ROOT / (path := f"{folder}/{name}")).is_file())


TARGETS = (
    _target("training/judging/gate.py", "gate", "judge"),
    _target("training/judging/judge.py", "judge", "cross_validation"),
    _target("training/judging/measuring.py", "measuring", "judge"),
    _target("training/judging/cross_validation.py", "parts", "job_finetuning", "cross_validation"),
    _target("training/judging/reasons.py", "reasons"),
    _target("training/judging/seen.py", "judge"),
    _target("ebseg/evaluation/metrics.py", "metrics"),
    _target("training/annotations/snapshot.py", "snapshot", "one_task"),
    _target("training/annotations/manifest.py", "reasons", "snapshot"),
    _target("training/annotations/parts.py", "parts"),
    _target("training/queue/orders.py", "orders", "plans"),
    _target("training/queue/plans.py", "plans", "job_planning"),
    _target("training/queue/projects.py", "projects", "job_reading"),
    _target("training/queue/triggers.py", "projects"),
    _target("training/jobs/reading.py", "job_reading"),
    _target("training/jobs/finetuning.py", "job_finetuning"),
    _target("training/jobs/judging.py", "judge"),
    _target("training/jobs/planning.py", "job_planning", "selecting", "job_remembering"),
    _target("training/jobs/labelling.py", "labelling", "job_planning", "one_task"),
    _target("training/jobs/sweeping.py", "job_planning", "job_remembering"),
    _target(
        "training/finetuning/finetune.py", "finetune",
        only=frozenset({"_choose", "_end_if_done", "interpolate"}),
        chosen="choice or mix or interpolation or ends_early or resuming",
    ),
)  # fmt: skip

LEAST = 0.9
"""Share of the mutants that must be killed."""

LIMIT_SECONDS = 60.0
"""For a mutant's tests beyond three times what they take without one: it runs in a circle then."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", help="parts of paths; all modules by default")
    parser.add_argument("--sample", type=int, default=12, help="mutants a module; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    targets = [
        each for each in TARGETS if not asked.modules or any(part in each.file for part in asked.modules)
    ]
    limits = _unchanged(targets, asked.processes)
    texts = {target.file: (ROOT / target.file).read_text() for target in targets}
    chosen: list[Mutant] = []
    jobs: list[Job] = []
    for target, limit in zip(targets, limits, strict=True):
        there = mutants(target.file, texts[target.file], target.only)
        size = min(asked.sample or len(there), len(there))
        for mutant in random.Random(f"{asked.seed} {target.file}").sample(there, size):
            jobs.append(Job(len(jobs), mutant, target.tests, target.chosen, limit))
            chosen.append(mutant)
    started = time.monotonic()
    told = Told(texts)
    for number, outcome, _ in run_all(jobs, asked.processes):
        told.add(chosen[number], outcome)
    print(f"\n{told.table()}\n\n{time.monotonic() - started:.0f} s for {len(chosen)} mutants")
    if told.share < LEAST or told.unexplained:
        sys.exit(f"{told.share:.1%} killed, {told.unexplained} survivors without an explanation")


def _unchanged(targets: list[Target], processes: int) -> list[float]:
    """Run all tests without a mutant, which they must survive; give the limits of those with one."""
    jobs = [Job(number, None, each.tests, each.chosen, 3600.0) for number, each in enumerate(targets)]
    limits = [0.0] * len(jobs)
    for number, outcome, seconds in run_all(jobs, processes):
        if outcome != "survived":
            sys.exit(f"the tests of {targets[number].file} fail without any mutant: mend them first")
        limits[number] = 3 * seconds + LIMIT_SECONDS
    return limits


class Told:
    """What came of the mutants; of survivors, whether they are explained."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts
        self._explained = {
            (each["file"], each["before"], each["after"]) for each in json.loads(EXPLAINED.read_text())
        }
        self._counts: dict[str, Counter[str]] = {file: Counter() for file in texts}
        self.unexplained = 0

    def add(self, mutant: Mutant, outcome: str) -> None:
        """Count a mutant, and print it where it has survived without an explanation."""
        kind = outcome
        if outcome == "survived":
            text = self._texts[mutant.file]
            before, after = mutant.diff(text)
            if (mutant.file, before, after) in self._explained:
                kind = "explained"
            else:
                self.unexplained += 1
                line = text.count("\n", 0, mutant.start) + 1
                print(f"\n{mutant.file}:{line}\n- {before}\n+ {after}", flush=True)
        self._counts[mutant.file][kind] += 1

    @property
    def share(self) -> float:
        """Share of the mutants that were killed."""
        total = sum(self._counts.values(), Counter())
        return total["killed"] / max(total.total(), 1)

    def table(self) -> str:
        """Write all numbers as a table."""
        rows = ["| module | mutants | killed | explained | survived |", "| --- | --- | --- | --- | --- |"]
        total = sum(self._counts.values(), Counter())
        for file, counts in (*self._counts.items(), ("all", total)):
            kinds = " | ".join(str(counts[kind]) for kind in ("killed", "explained", "survived"))
            rows.append(f"| {file} | {counts.total()} | {kinds} |")
        return "\n".join(rows)


if __name__ == "__main__":
    main()
