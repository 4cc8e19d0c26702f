import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebseg import cli
from ebseg.clip import TextClassifier
from ebseg.data.coco_writers import StuffWriter
from ebseg.errors import ConfigError
from ebseg.files import require_writable, write_whole

LABELS = ["sky", "water", "road"]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the command line in an empty folder; give status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(argument) for argument in arguments])
        return exit_.value.code, *capsys.readouterr()

    return call


def write_pairs(photos, label_maps, names, labels=3, ending=".png"):
    random = np.random.default_rng(0)
    for name in names:
        for folder in (photos, label_maps):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        size = tuple(random.integers(40, 70, 2))
        photo = random.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(photo).save(Path(photos) / f"{name}{ending}")
        truth = random.integers(0, labels, size, dtype=np.uint8)
        truth[:5] = 255
        Image.fromarray(truth).save(Path(label_maps) / f"{name}.png")


@pytest.fixture
def street(run):
    """Describe a folder of photos, some in subfolders that repeat a name."""
    write_pairs("photos", "labels", ["one", "north/two", "south/two", "three"])
    Path("street.toml").write_text(
        f"labels = {json.dumps(LABELS)}\n[val]\nphotos = 'photos'\nlabel_maps = 'labels'\n"
    )


def read(path):
    return json.loads(Path(path).read_text())


def test_a_folder_of_ones_own(run, street, random_checkpoint):
    command = ["evaluate", random_checkpoint, "--dataset", "street.toml", "--limit", "3"]
    status, out, _ = run(*command, "--json", "r.json", "--html", "r.html", "--out", "state")
    assert status == 0
    content = read("r.json")
    assert content["photos"] == {"measured": 3, "asked": 3, "broken": 0, "official": None}
    assert "on street val: 3 photos" in out and f"{content['metrics']['miou']:.1f}" in out
    assert "boundary IoU" in out and "photos/s; busy: read" in out and "paper" not in out
    html = Path("r.html").read_text()
    assert html.count("data:image/") == 6 and "worst: " in html
    assert Path("state/street/process-0.npz").exists()
    status, _, err = run(*command[:-1], "4", "--out", "state")
    assert status == 1 and "differs in: photos. Choose another folder" in err


def test_predictions_that_predict_saved_measure_as_the_model_does(run, street, random_checkpoint):
    run("evaluate", random_checkpoint, "--dataset", "street.toml", "--json", "model.json")
    arguments = ("--labels", ",".join(LABELS), "--model", random_checkpoint, "--threshold", "0", "--coco")
    assert run("predict", "photos", *arguments, "--out", "found")[0] == 0
    expected = read("model.json")
    for saved in ("found", "found/coco/stuff.json"):
        arguments = ("--dataset", "street.toml", "--predictions", saved, "--json", "saved.json")
        status, out, _ = run("evaluate", *arguments)
        content = read("saved.json")
        assert status == 0 and f"predictions in {saved} on street val: 4 photos" in out
        for key in ("photos", "confusion", "best", "worst"):
            assert content[key] == expected[key]
        for metric in ("miou", "fwiou", "macc", "pacc", "boundary_iou"):
            assert content["metrics"][metric] == expected["metrics"][metric]
        assert content["config"] is None and content["published"] is None


@pytest.mark.parametrize("saved", ["found", "found/north", "found.json"])
def test_predictions_are_found_whatever_their_names_unicode_form(run, saved):
    write_pairs("photos", "labels", ["north/a\u0308"])
    Path("street.toml").write_text(
        f"labels = {json.dumps(LABELS)}\n[val]\nphotos = 'photos'\nlabel_maps = 'labels'\n"
    )
    truth = np.asarray(Image.open("labels/north/a\u0308.png"))
    Path("found/north").mkdir(parents=True)
    Image.fromarray(truth).save("found/north/\u00e4.png")
    writer = StuffWriter(Path("found.json"), LABELS)
    writer.add("north/\u00e4.jpg", np.where(truth == 255, -1, truth.astype(np.int16)))
    writer.close()
    status, _, err = run("evaluate", "--dataset", "street.toml", "--predictions", saved, "--json", "r.json")
    assert status == 0, err
    assert read("r.json")["metrics"]["pacc"] == 100


def test_predictions_that_do_not_fit_are_named(run, street):
    Path("found/north").mkdir(parents=True)
    for name, (width, height) in {"one": (3, 4), "north/two": (0, 0), "three": (0, 0)}.items():
        if not width:
            height, width = np.asarray(Image.open(f"photos/{name}.png")).shape[:2]
        value = 3 if name == "three" else 255
        Image.fromarray(np.full((height, width), value, np.uint8)).save(f"found/{name}.png")
    Path("found/two.png").write_bytes(Path("found/north/two.png").read_bytes())  # whose is it?
    arguments = ("--dataset", "street.toml", "--predictions", "found", "--json", "r.json")
    status, out, err = run("evaluate", *arguments)
    assert status == 1 and "1 of 4 photos" in out
    assert "one.png: 3 x 4 pixels, but its photo" in err
    assert "three.png: value 3 is none of the 3 labels" in err
    assert "found has no prediction for photos/south/two.png" in err
    assert "3 of 4 photos could not be measured" in err
    assert read("r.json")["metrics"]["pacc"] == 0  # 255: no label
    status, _, err = run("evaluate", "--dataset", "street.toml", "--predictions", "nowhere")
    assert status == 1 and "nowhere is neither a folder of label maps nor a COCO JSON file" in err


@pytest.mark.parametrize("saved", [True, False])
def test_label_maps_without_any_label_are_told(run, street, random_checkpoint, saved):
    for path in Path("labels").rglob("*.png"):
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    measured = ("--predictions", "labels") if saved else (random_checkpoint, "--html", "r.html")
    status, out, err = run("evaluate", *measured, "--dataset", "street.toml", "--json", "r.json")
    assert status == 1
    assert "no pixel of street val is labelled, so nothing is measured: all values of its label maps" in err
    assert "nan" not in out + err
    assert read("r.json")["metrics"]["miou"] is None


def test_16_bit_predictions_by_name_alone(run):
    write_pairs("photos", "labels", ["north/one"])
    names = [f"label {number}" for number in range(300)]
    Path("many.toml").write_text(
        f"labels = {json.dumps(names)}\n[val]\nphotos = 'photos'\nlabel_maps = 'labels'\n"
    )
    truth = np.asarray(Image.open("labels/north/one.png")).astype(np.uint16)
    truth[truth == 255] = 299
    truth[-1] = 65535
    Path("found").mkdir()
    Image.fromarray(truth).save("found/one.tif")
    arguments = ("--dataset", "many.toml", "--predictions", "found", "--json", "r.json")
    assert run("evaluate", *arguments)[0] == 0
    # Values of the last row are "none"; rows that are 299 there are ignored in the truth.
    rows = len(truth) - 5
    assert read("r.json")["metrics"]["pacc"] == pytest.approx(100 * (rows - 1) / rows)
    assert {pair["predicted"] for pair in read("r.json")["confusion"]} == {None}


def test_broken_photos_are_reported_and_the_others_measured(run, street, random_checkpoint):
    Path("photos/one.png").write_bytes(b"not a picture")
    status, out, err = run("evaluate", random_checkpoint, "--dataset", "street.toml", "--json", "r.json")
    assert status == 1 and "3 of 4 photos" in out
    assert "photos/one.png: not an image" in err and "1 of 4 photos could not be measured" in err
    assert read("r.json")["photos"]["broken"] == 1


def test_all_benchmarks_that_are_there(run, random_checkpoint, monkeypatch):
    write_pairs("data/pcontext/val/image", "data/pcontext/val/label", "ab", 59, ending=".jpg")
    write_pairs("data/VOC2012/JPEGImages", "data/VOC2012/annotations_detectron2/val", "c", 20, ending=".jpg")
    command = ["evaluate", random_checkpoint, "--dataset", "all", "--data-root", "data"]
    status, out, err = run(*command, "--json", "r.json", "--html", "r.html")
    assert status == 0
    assert "on pascal-context-59 val: 2 of 5104 photos" in out and "on voc-20 val: 1 of 1449 photos" in out
    assert err.count("not measured: ") == 4 and "not measured: ade20k-847 (val) " in err
    assert {content["dataset"] for content in read("r.json")} == {"pascal-context-59 val", "voc-20 val"}
    assert "pascal-context-59 val" in Path("r.html").read_text()

    def encode(*_):
        raise AssertionError("text embeddings are on disk")

    monkeypatch.setattr(TextClassifier, "encode_names", encode)
    assert run(*command)[0] == 0
    status, _, err = run("evaluate", random_checkpoint, "--dataset", "all", "--data-root", "nowhere")
    assert status == 1 and "no benchmark is in nowhere" in err


def test_drawn_scenes_with_and_without_a_report(run, random_checkpoint):
    status, out, _ = run("evaluate", random_checkpoint, "--scenes", "2", "--json", "short.json")
    assert status == 0 and "on 2 drawn scenes" in out
    arguments = ("--dataset", "drawn-scenes", "--scenes", "2", "--json", "long.json")
    assert run("evaluate", random_checkpoint, *arguments)[0] == 0
    short, long = read("short.json"), read("long.json")
    assert long["metrics"]["miou"] == pytest.approx(short["miou"])
    assert long["metrics"]["unseen"] == pytest.approx(short["unseen"])
    assert "new_names" in short


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tta"], "say on which --dataset"),
        (["--limit", "3"], "say on which --dataset"),
        (["ebseg-tiny", "--predictions", "x", "--dataset", "voc-20"], "leave MODEL and --tta out"),
        (["--predictions", "x", "--out", "y", "--dataset", "voc-20"], "leave --out out"),
        (["--predictions", "x", "--dataset", "all"], "name it"),
    ],
)
def test_what_does_not_go_together(run, arguments, reason):
    status, _, err = run("evaluate", *arguments)
    assert status == 2 and reason in " ".join(err.split())


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("path", ["file/r", "/proc/none/r", "n" * 250])
def test_a_result_that_cannot_be_written_is_told_before_anything_is_measured(run, street, option, path):
    Path("file").touch()
    before = sorted(Path().rglob("*"))
    status, out, err = run("evaluate", "no model", "--dataset", "street.toml", option, path)
    assert (status, out) == (1, "")
    assert err.startswith(f"ebseg: {path} cannot be written (") and err.endswith("): give another path\n")
    assert sorted(Path().rglob("*")) == before
    if option == "--json":
        assert run("evaluate", "no model", option, path) == (status, out, err)


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_result_is_no_folder(run, street, option):
    status, _, err = run("evaluate", "no model", "--dataset", "street.toml", option, "photos")
    assert status == 2 and f"invalid value for '{option}': file 'photos' is a directory." in err.lower()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "r").mkdir()
    with pytest.raises(OSError, match="r"):
        write_whole(tmp_path / "r", "text")
    with pytest.raises(ConfigError, match="r cannot be written .*: give another path"):
        require_writable(tmp_path / "r")
    require_writable(tmp_path / "new" / "s.json")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "r"]


def test_ctrl_c_ends_with_one_line_that_says_how_to_go_on(run, street, random_checkpoint, monkeypatch):
    command = ["evaluate", random_checkpoint, "--dataset", "street.toml"]
    assert run(*command, "--out", "state")[0] == 0

    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ebseg.commands.evaluate_work.run_benchmark", interrupted)
    for options, told in {
        ("--out", "state"): "the same command goes on from what was counted in state",
        ("--out", "new"): "before anything was kept; the same command starts from the beginning",
        (): "nothing is kept (--dataset with --out keeps what was counted)",
    }.items():
        status, out, err = run(*command, *options)
        assert (status, out) == (130, "")
        assert err.startswith("ebseg: stopped") and err.endswith(f"{told}\n") and err.count("\n") == 1
