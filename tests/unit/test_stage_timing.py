import math
from itertools import chain

import pytest

from ebseg.config import TINY
from ebseg.errors import ConfigError
from ebseg.machine import Machine
from ebseg.photo_sizes import photo_size
from ebseg.stage_timing import (
    ALL_LABELS,
    ENCODER,
    ONE_MORE,
    OTHER,
    PHOTO,
    Comparison,
    Report,
    StageMeter,
    Table,
    measure_photo,
    measure_regions,
    measure_text,
    plan,
    some_labels,
)
from ebseg.stages import Stage, observed, stage
from tests.unit.shallow import SHALLOW

SMALL = SHALLOW.model_copy(update={"test_size": 64, "test_max_size": 160})
MACHINE = Machine(cpu="a", cores=2, threads=2, instructions="", torch="2", gpu=None)


def report(**seconds):
    tables = {"text": Table(seconds=seconds, peak_bytes=int(1000 * max(map(max, seconds.values()))))}
    return Report(variant="tiny", device="cpu", machine=MACHINE, tables=tables)


def test_a_stage_within_another_is_not_counted_twice():
    now = iter([0, 1, 3, 7, 15, 31])
    meter = StageMeter(lambda: next(now))
    with observed(meter), stage(Stage.SCORES), stage(Stage.TEXT):
        pass
    gained = {name: seconds for name, seconds in meter.gained().items() if seconds}
    assert gained == {OTHER: 1 + 16, Stage.SCORES: 2 + 8, Stage.TEXT: 4}


def test_the_meter_goes_on_after_a_failure():
    now = iter([0, 1, 3, 7])
    meter = StageMeter(lambda: next(now))
    with pytest.raises(ValueError), meter(Stage.SAM):
        raise ValueError
    assert meter.gained()[OTHER] == 1 + 4


def test_the_stages_of_a_photo_make_up_the_whole():
    [table, fewer] = measure_photo(SMALL, 0.05, [3, 2], rounds=2)
    assert list(table.seconds) == [*Stage, OTHER, PHOTO, ENCODER]
    for number in range(2):
        parts = [table.seconds[step][number] for step in (*Stage, OTHER)]
        assert all(part > 0 for part in parts)
        assert math.isclose(sum(parts), table.seconds[PHOTO][number])
    assert {len(values) for values in table.seconds.values()} == {2}
    assert 0 < fewer.peak_bytes <= table.peak_bytes


def test_the_flops_of_a_photo_are_those_of_its_products():
    [table] = measure_photo(SMALL, 0.05, [3], rounds=1)
    flops = table.flops
    assert list(flops) == [*Stage, OTHER]
    queries, width = SMALL.decoder.queries, SMALL.clip.embed_dim
    # A, B and C by three labels and the background; texts were encoded before, from the cache they come free.
    assert flops[Stage.BALANCING] == 3 * 2 * queries * width * 4
    assert flops[Stage.TEXT] == flops[Stage.PREPROCESSING] == flops[OTHER] == 0
    assert flops[Stage.SAM] > flops[Stage.BALANCING]


def test_texts_are_measured_round_by_round():
    [table] = measure_text(SMALL, 2, rounds=3)
    seconds = table.seconds
    assert list(seconds) == [ALL_LABELS, ONE_MORE]
    assert all(len(values) == 3 and min(values) > 0 for values in seconds.values())


def test_regions_of_each_kind_are_measured():
    [table] = measure_regions(0.05, rounds=1)
    seconds = table.seconds
    assert set(seconds) == {"brush", "bitmask", "polygon", "ellipse", "rectangle"}
    assert all(len(values) == 1 and values[0] > 0 for values in seconds.values())


@pytest.mark.parametrize("megapixels", [0.05, 0.4, 1, 12, 16])
def test_a_photo_is_four_by_three(megapixels):
    height, width = photo_size(megapixels)
    assert height * width == pytest.approx(megapixels * 1e6, rel=0.01)
    assert width / height == pytest.approx(4 / 3, rel=0.01)


def test_there_are_as_many_labels_as_a_vocabulary_may_have():
    assert [len(some_labels(number)) for number in (1, 19, 1000)] == [1, 19, 1000]


def test_each_size_and_number_has_its_table_once():
    assert list(chain(*plan(TINY, [0.4, 12, 0.4], [1, 19], 5))) == [
        "photo of 0.4 megapixels, 1 label",
        "photo of 0.4 megapixels, 19 labels",
        "photo of 12 megapixels, 1 label",
        "photo of 12 megapixels, 19 labels",
        "text of 1 label",
        "text of 19 labels",
        "regions at 0.4 megapixels",
        "regions at 12 megapixels",
    ]


@pytest.mark.parametrize("megapixels", [0, 0.04, 16.1, math.nan, math.inf, -1])
def test_photos_that_are_too_small_or_too_large_are_refused(megapixels):
    with pytest.raises(ConfigError, match=r"megapixels are not measured; choose from 0\.05 to 16"):
        plan(TINY, [0.4, megapixels], [19], 5)


@pytest.mark.parametrize("labels", [0, -1, 1001])
def test_too_few_or_too_many_labels_are_refused(labels):
    with pytest.raises(ConfigError, match=rf"{labels} labels are not measured; choose from 1 to 1000"):
        plan(TINY, [0.4], [19, labels], 5)


def test_reports_of_turns_are_joined():
    joined = Report.joined([report(a=[1.0, 5.0], b=[3.0]), report(a=[2.0], b=[4.0])])
    assert joined.tables["text"].seconds == {"a": [1.0, 5.0, 2.0], "b": [3.0, 4.0]}
    assert joined.tables["text"].medians == {"a": 2.0, "b": 3.5}
    assert joined.tables["text"].peak_bytes == 5000


def test_turns_without_a_peak_are_joined_into_none():
    table = Table(seconds={"brush": [1.0]})
    turn = report(a=[1.0]).model_copy(update={"tables": {"regions": table}})
    assert Report.joined([turn, turn]).tables["regions"].peak_bytes is None


def test_medians_are_compared_step_by_step():
    before, after = (
        report(same=[2.0, 4.0], old=[1.0], nothing=[0.0]),
        report(same=[1.5], new=[1.0], nothing=[1.0]),
    )
    changes = Comparison.of(before, after, in_turns=False).changes["text"]
    assert {step: (each.before, each.after, each.ratio) for step, each in changes.items()} == {
        "same": (3.0, 1.5, 0.5),
        "new": (None, 1.0, None),
        "nothing": (0.0, 1.0, None),
        "old": (1.0, None, None),
    }


def test_a_report_comes_back_from_its_json():
    written = report(a=[1.0])
    assert Report.read(written.model_dump_json(), "it", "tiny", ["text"]) == written


@pytest.mark.parametrize(
    ("content", "variant", "titles", "message"),
    [
        ("no JSON", "tiny", [], "it is no report that `ebseg bench stages --json` printed"),
        ('{"photo": 1}', "tiny", [], "it is no report"),
        (report(a=[1.0]).model_dump_json().replace("[1.0]", "[]"), "tiny", [], "it is no report"),
        (report(a=[1.0]).model_dump_json(), "base", [], "it is a report of tiny: give --variant tiny"),
        (
            report(a=[1.0]).model_dump_json(),
            "tiny",
            ["text", "photo"],
            "it has no table of photo; it has: text",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(content, variant, titles, message):
    with pytest.raises(ConfigError, match=message):
        Report.read(content, "it", variant, titles)
