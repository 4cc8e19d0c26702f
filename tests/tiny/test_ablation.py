import json
import signal
import subprocess
import sys

import pytest
import torch

from ebseg.config import RECIPES, TINY, LossConfig
from ebseg.data.drawn.scenes import SceneSource, training_vocabulary
from ebseg.errors import ConfigError
from ebseg.model import EBSeg
from ebseg.sam import SpatialEncoder
from training.tiny import ablation
from training.tiny.ablation import ROWS, AblatedEBSeg, NoSpatialEncoder, Plan, claimed, run_missing
from training.tiny.ablation_report import Spread, gains, read_runs, results_table, write_report

NAMES = [row.name for row in ROWS]


def built(row):
    torch.manual_seed(0)
    return AblatedEBSeg(TINY, row)


def losses_of(net):
    sample = SceneSource(0, 1, (64, 64))[0]
    images = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float()
    torch.manual_seed(1)
    with torch.no_grad():
        label_maps = torch.from_numpy(sample.label_map)[None].long()
        return net.losses(images, label_maps, training_vocabulary(), config=LossConfig(points=64))


def kinds(terms):
    return {name.rstrip("0123456789_") for name in terms}


def test_rows_add_one_part_each():
    parts = [(row.adab, row.ssc, row.spatial) for row in ROWS]
    assert parts == [
        (False, False, False), (True, False, False), (True, True, False), (True, True, True)
    ]  # fmt: skip


def test_dropped_terms_are_absent_and_the_others_are_the_models_own():
    torch.manual_seed(0)
    full = EBSeg(TINY)
    rows = {row.name: built(row) for row in ROWS}
    everything = losses_of(full)
    assert losses_of(rows["spatial"]) == everything
    full.sam.forward = rows["ssc"].sam.forward
    without_sam = losses_of(full)
    assert without_sam["mask"] != everything["mask"]
    assert losses_of(rows["ssc"]) == without_sam
    dropped = {"adab": {"ssc"}, "mask-decoder": {"ssc", "class_b"}}
    for name, kind in dropped.items():
        found = losses_of(rows[name])
        assert kinds(found) == kinds(without_sam) - kind
        assert found == {term: value for term, value in without_sam.items() if kinds([term]) - kind}


def test_zero_maps_have_the_spatial_encoders_shapes():
    images = torch.randn(2, 3, 64, 96)
    real, zero = SpatialEncoder(TINY.sam), NoSpatialEncoder(TINY.sam)
    with torch.no_grad():
        maps = zero(images)
        assert [x.shape for x in maps] == [x.shape for x in real(images)]
    assert not any(x.any() for x in maps)
    assert real.state_dict().keys() == zero.state_dict().keys()


def test_rows_start_alike_and_train_the_same_parameters():
    first, *others = (built(row) for row in ROWS)
    frozen = {name: p.requires_grad for name, p in first.named_parameters()}
    assert frozen["sam.encoder.pos_embed"] and not frozen["sam.encoder.patch_embed.proj.weight"]
    for net in others:
        assert {name: p.requires_grad for name, p in net.named_parameters()} == frozen
        assert not net.training
        for (name, one), other in zip(first.named_parameters(), net.parameters(), strict=True):
            assert name.startswith("sam.") or torch.equal(one, other), name


def test_what_is_there_is_not_run_again(tmp_path, monkeypatch):
    done = []

    def run(row, seed, plan, out):
        done.append((row.name, seed))
        return ablation._described(plan)

    monkeypatch.setattr(ablation, "run", run)
    assert len(run_missing(tmp_path, ROWS[:2], [0], Plan())) == 2
    written = run_missing(tmp_path, ROWS[:2], [0, 1], Plan())
    assert done == [("mask-decoder", 0), ("adab", 0), ("mask-decoder", 1), ("adab", 1)]
    assert [path.name for path in written] == ["mask-decoder-1.json", "adab-1.json"]
    with pytest.raises(ConfigError, match="benchmark_scenes"):
        run_missing(tmp_path, ROWS[:1], [0], Plan(scenes=7))


def test_a_run_that_failed_is_run_again(tmp_path, monkeypatch):
    def run(row, seed, plan, out):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "run", run)
    with pytest.raises(KeyboardInterrupt):
        run_missing(tmp_path, ROWS[:1], [0], Plan())
    assert not list(tmp_path.glob("*.json"))
    monkeypatch.setattr(ablation, "run", lambda *_: {})
    assert len(run_missing(tmp_path, ROWS[:1], [0], Plan())) == 1


def test_a_claim_dies_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "run", lambda *_: {})
    lock = tmp_path / "mask-decoder-0.lock"
    script = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX)"
    command = [sys.executable, "-c", script + "; print('held', flush=True); time.sleep(60)", str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert run_missing(tmp_path, ROWS[:1], [0], Plan()) == []
        holder.send_signal(signal.SIGKILL)
    with claimed(lock) as free:
        assert free
    assert len(run_missing(tmp_path, ROWS[:1], [0], Plan())) == 1


def result(row, seed, seen, unseen, **others):
    plan = {
        "training": Plan().training.model_dump(mode="json", exclude={"seed"}),
        "encoders": "ebseg-tiny", "encoders_sha256": "0f", "validation_scenes": 60, "benchmark_scenes": 150,
    }  # fmt: skip
    return {
        "row": row, "seed": seed, **plan, "seen": seen, "unseen": unseen, "harmonic": (seen + unseen) / 2,
        "new_names": 10.0 + seed, "exponents": {"alpha": 0.1, "beta": 0.2, "gamma": 0.3},
        "training_seconds": 60.0, "threads": 2, "code": "abc", **others,
    }  # fmt: skip


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    runs = [
        *(result("mask-decoder", seed, 50 + seed, 20) for seed in (2, 0, 1)),
        *(result("adab", seed, 60, 30 + 2 * seed) for seed in (0, 1)),
        result("ssc", 5, 61, 31),
    ]
    for run in runs:
        (folder / f"{run['row']}-{run['seed']}.json").write_text(json.dumps(run))
    return folder


def test_spread_by_hand():
    assert Spread.of([1.0, 2.0, 6.0]) == Spread(mean=3.0, std=pytest.approx(7**0.5), least=1.0, largest=6.0)
    assert str(Spread.of([50, 51, 52])) == "51.0 ± 1.0 (50.0–52.0)"
    assert str(Spread.of([42.04])) == "42.0"


def test_table_by_hand(results):
    runs = read_runs(results, NAMES)
    lines = results_table(runs)
    assert lines[2] == (
        "| mask decoder, classes by A alone | 51.0 ± 1.0 (50.0–52.0) | 20.0 ± 0.0 (20.0–20.0) "
        "| 35.5 ± 0.5 (35.0–36.0) | 11.0 ± 1.0 (10.0–12.0) | 3 |"
    )
    assert lines[3].startswith(
        "| + AdaB balancing of A, B, C | 60.0 ± 0.0 (60.0–60.0) | 31.0 ± 1.4 (30.0–32.0)"
    )
    assert lines[4].endswith("| 61.0 | 31.0 | 46.0 | 15.0 | 1 |")
    assert len(lines) == 5  # no line for a row without runs
    assert gains(runs)[2:] == [
        "- + AdaB balancing of A, B, C: +10.0, +10.5; +0.0, +0.0",
        "- + SSC loss: no seed in common",
    ]


def test_report_and_plot_are_written(results, tmp_path):
    table, plot = write_report(results, NAMES, tmp_path / "docs")
    text = table.read_text()
    assert "150 held-out scenes" in text and "steps of 4 scenes" in text and "{" not in text
    assert (table.parent / "../images/ablation.png").resolve() == plot.resolve()
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_results_of_different_plans_are_not_mixed(results):
    (results / "spatial-0.json").write_text(json.dumps(result("spatial", 0, 1, 1, benchmark_scenes=9)))
    with pytest.raises(ConfigError, match="benchmark_scenes"):
        read_runs(results, NAMES)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no results"):
        read_runs(tmp_path, NAMES)


def test_a_small_run_from_its_first_step_to_its_result(tmp_path):
    training = RECIPES["tiny"].model_copy(update={"steps": 1, "batch": 1, "crop": 64, "short_edges": (64,)})
    plan = Plan(training=training, validation=1, scenes=1)
    (path,) = run_missing(tmp_path, ROWS[:1], [3], plan)
    found = json.loads(path.read_text())
    assert (found["row"], found["seed"], found["photos"]) == ("mask-decoder", 3, 1)
    assert found["exponents"] == {"alpha": 0, "beta": 0, "gamma": 0}
    assert {"seen", "unseen", "harmonic", "new_names"} <= found.keys() and found["training_seconds"] > 0
    assert (tmp_path / "mask-decoder-3" / "model.safetensors").exists()
