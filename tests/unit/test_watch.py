from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from ebseg.config import TINY, TrainConfig
from ebseg.runs.watch import ProgressBar, StepReport

NET = SimpleNamespace(config=TINY)
TERMS = {
    "class_a": 1.0,
    "class_b": 2.0,
    "mask": 0.5,
    "dice": 0.25,
    "ssc": 0.125,
    "class_a_0": 4.0,
    "dice_1": 8.0,
}


def progress(step, **changed):
    values = dict(
        step=step, steps=100, terms=TERMS, learning_rate=1e-4, gradient_norm=1.5,
        photos=4, seconds=2.0, memory=3 * 2**30, broken=0,
    )  # fmt: skip
    return StepReport(**{**values, **changed})


def shown(*, terminal, run):
    """Run with a bar on a console of 100 columns; return all that was written."""
    written = StringIO()
    console = Console(file=written, width=100, force_terminal=terminal, force_interactive=terminal)
    run(ProgressBar(console, line_every=10.0))
    return written.getvalue()


def test_the_loss_is_the_sum_of_the_main_and_the_earlier_terms():
    step = progress(1)
    assert step.loss == 15.875
    assert step.main == {name: TERMS[name] for name in ("class_a", "class_b", "mask", "dice", "ssc")}
    assert step.earlier == 12.0


def test_without_a_terminal_lines_are_few():
    def run(bar):
        bar.started(NET, TrainConfig(steps=100), [], 88)
        for step in range(89, 101):
            bar.stepped(progress(step))
        bar.finished(None)

    lines = shown(terminal=False, run=run).splitlines()
    assert lines[0] == "training EBSeg tiny: 88 of 100 steps are done"
    assert [line.split()[1] for line in lines[1:]] == ["89/100", "94/100", "99/100", "100/100"]
    assert lines[1] == (
        "step 89/100  loss 15.88  class A 1.000  class B 2.000  mask 0.500  dice 0.250  ssc 0.125  "
        "2.00 photos/s  3.0 GiB  0:00:22 left"
    )


def test_a_slow_step_changes_the_pace_little_at_once():
    def run(bar):
        bar.started(NET, TrainConfig(steps=100), [], 0)
        for step in range(1, 40):
            bar.stepped(progress(step, seconds=0.1))
        bar.stepped(progress(40, seconds=10.0))

    last = shown(terminal=False, run=run).splitlines()[-1]
    photos = float(last.split(" photos/s")[0].split()[-1])
    assert 4 / 10 < photos < 40


def test_broken_files_are_told():
    def run(bar):
        bar.started(NET, TrainConfig(steps=100), [], 0)
        bar.stepped(progress(1, broken=3))

    assert "3 broken files" in shown(terminal=False, run=run)


@pytest.mark.parametrize("end", [lambda bar: bar.finished(None), lambda bar: bar.failed(ValueError())])
def test_a_terminal_has_a_bar_which_ends_with_the_run(end):
    def run(bar):
        bar.started(NET, TrainConfig(steps=100), [], 0)
        bar.stepped(progress(42))
        bar.stored(NET, 42)
        end(bar)

    text = shown(terminal=True, run=run)
    assert "42/100" in text and "ssc 0.125" in text and "2.00 photos/s" in text and "0:01:56 left" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


def test_a_bar_that_never_started_may_be_told_of_a_failure():
    assert shown(terminal=True, run=lambda bar: bar.failed(ValueError())) == ""
