import json
import os
from pathlib import Path

import pytest

from ebseg import cli
from ebseg.data.catalogue import open_dataset
from ebseg.vocabulary import DATASETS
from tests.unit.data import raw_trees
from tests.unit.data.raw_trees import TREES


class Runner:
    """Runs the command line in this process; gives status, standard output and standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["data", *map(str, arguments)])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, *self.capsys.readouterr()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.mark.parametrize("name", TREES)
def test_prepare_then_open_then_check(tmp_path: Path, run: Runner, name: str) -> None:
    truth = TREES[name](tmp_path)
    official = {"voc-20": "1,449", "pascal-context-59": "5,104", "pascal-context-459": "5,104"}
    number = official.get(name, "5,000" if name == "coco-stuff-171" else "2,000")
    status, out, err = run("prepare", name, "--root", tmp_path, "--workers", 1)
    assert status == 0
    assert f"{name} val: {len(truth)} label maps written to {tmp_path}" in out
    assert f"{name} val: INCOMPLETE: {len(truth)} of {number} photos with label maps" in out
    assert f"but the official split has {number}" in err
    source = open_dataset(name, tmp_path, "val")
    for index, photo in enumerate(source.names):
        assert (source[index].label_map == truth[Path(photo).stem]).all()
    status, out, _ = run("prepare", name, "--root", tmp_path)
    assert status == 0 and out.startswith(f"{name} val: already prepared\n")
    status, out, _ = run("check", name, "--root", tmp_path, "--json")
    assert status == 1  # a table of so few photos is not the paper's
    (found,) = json.loads(out)
    assert found["photos"] == found["read"] == len(truth)
    assert found["smallest"] == 0 and found["largest"] == max(int(row.max()) for row in truth.values())
    assert found["faults"] == [] and found["miscount"].endswith(number)


def test_what_others_prepared_needs_no_raw_files(tmp_path: Path, run: Runner) -> None:
    raw_trees.ade(tmp_path)
    run("prepare", "ade20k-150", "--root", tmp_path)
    os.rename(tmp_path / "ADEChallengeData2016/annotations", tmp_path / "elsewhere")
    status, out, _ = run("prepare", "ade20k-150", "--root", tmp_path)
    assert status == 0
    assert out.startswith("ade20k-150 val: already prepared; the raw files are not here\n")
    assert "INCOMPLETE: 2 of 2,000 photos" in out


def test_a_broken_file_is_reported_and_the_others_are_done(tmp_path: Path, run: Runner) -> None:
    raw_trees.ade(tmp_path)
    broken = tmp_path / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"
    broken.write_bytes(b"nonsense")
    status, out, err = run("prepare", "ade20k-150", "--root", tmp_path, "--workers", 1)
    assert status == 1
    assert f"ebseg: {broken}: cannot be converted" in err
    assert "ebseg: 1 of 2 photos could not be prepared" in err
    assert "1 label maps written" in out and "INCOMPLETE: 1 of 2,000" in out


def test_left_out_maps_are_counted(tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebseg.data.catalogue.Benchmark.images", lambda *_: 3)
    raw_trees.coco_stuff(tmp_path)
    status, out, err = run("prepare", "coco-stuff-171", "--root", tmp_path, "--workers", 1)
    assert status == 0 and err == ""
    assert ", 1 left out that have no label" in out
    status, out, err = run("check", "all", "--root", tmp_path)
    assert status == 0 and err == ""
    assert out.count("\n") == 1 and out.startswith("coco-stuff-171 val: fine: 2 of 3 photos with label maps")


def test_faults_of_prepared_data_are_reported(tmp_path: Path, run: Runner) -> None:
    raw_trees.ade(tmp_path)
    run("prepare", "ade20k-150", "--root", tmp_path)
    file = tmp_path / "ADEChallengeData2016/annotations_detectron2/validation/ADE_val_00000001.png"
    raw_trees.save_png(file, raw_trees.np.full((2, 151), 200, raw_trees.np.uint8))
    for command in ("prepare", "check"):
        status, out, err = run(command, "ade20k-150", "--root", tmp_path)
        assert status == 1
        assert "ade20k-150 val: WRONG" in out
        assert f"ebseg: {file}: value 200 is neither one of the 150 labels" in err


def test_missing_parts_end_the_command(tmp_path: Path, run: Runner) -> None:
    status, _, err = run("prepare", "ade20k-150", "--root", tmp_path)
    assert status == 1 and err.count("\n") == 1
    assert err.startswith(
        f"ebseg: ade20k-150 (val) cannot be prepared below {tmp_path}: no photos: looked for "
    )
    assert "get ADEChallengeData2016.zip" in err
    status, _, err = run("check", "all", "--root", tmp_path)
    assert status == 1 and "no benchmark is prepared in" in err
    status, _, err = run("prepare", "cityscapes", "--root", tmp_path)
    assert status == 1 and "no data set named 'cityscapes'; known: coco-stuff-171" in err


def test_both_splits(tmp_path: Path, run: Runner) -> None:
    raw_trees.detail(tmp_path)
    status, out, _ = run("prepare", "pascal-context-59", "--root", tmp_path, "--split", "all", "--workers", 1)
    assert status == 0
    assert "pascal-context-59 val: 2 label maps written" in out
    assert "pascal-context-59 train: fine: 1 photos with label maps" in out
    status, out, _ = run("check", "pascal-context-59", "--root", tmp_path, "--split", "train")
    assert status == 0 and out.startswith("pascal-context-59 train: fine")


def test_ctrl_c_ends_with_a_line(tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    raw_trees.ade(tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ebseg.data.prepare.to_label_map", interrupted)
        status, _, err = run("prepare", "ade20k-150", "--root", tmp_path, "--workers", 1)
    assert (status, err) == (130, "ebseg: stopped; the same command goes on from here\n")
    assert run("prepare", "ade20k-150", "--root", tmp_path, "--workers", 1)[0] == 0


def test_list_shows_all_and_what_is_there(tmp_path: Path, run: Runner) -> None:
    raw_trees.ade(tmp_path)
    raw_trees.voc(tmp_path)
    run("prepare", "voc-20", "--root", tmp_path, "--workers", 1)
    status, out, _ = run("list", "--root", tmp_path, "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0 and set(rows) == set(DATASETS)
    states = {name: row["state"] for name, row in rows.items() if row["state"] != "missing"}
    assert states == {"voc-20": "prepared", "ade20k-150": "raw"}
    assert (rows["ade20k-847"]["labels"], rows["ade20k-847"]["validation_images"]) == (847, 2000)
    assert "research" in rows["ade20k-847"]["terms"]
    status, out, _ = run("list", "--root", tmp_path)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == list(rows)
    assert "20 labels  1,449 photos (val)  prepared" in out


def test_the_root_may_come_from_the_environment(
    tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBSEG_DATA_ROOT", str(tmp_path))
    raw_trees.voc(tmp_path)
    assert run("prepare", "voc-20", "--workers", 1)[0] == 0
