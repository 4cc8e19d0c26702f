import logging

import pytest
from PIL import Image

from ebseg.cli import main
from tests.unit.training.exchange_world import HEIGHT, WIDTH, ExchangeWorld, blocks
from training.annotations.label_studio import LabelStudioClient
from training.commands import exchange, export, import_masks
from training.settings import Settings


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Make a project of two annotated tasks, which the command reaches."""
    world = ExchangeWorld(tmp_path / "home")
    monkeypatch.setenv("EBSEG_HOME", str(world.settings.home))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    monkeypatch.setenv("EBSEG_PATIENCE", "0")
    studio = LabelStudioClient(world.settings, http=world.fake.http)
    for command in (export, import_masks):
        monkeypatch.setattr(command, "LabelStudioClient", lambda settings: studio)
        monkeypatch.setattr(command, "photos", lambda settings: world.photos)
        monkeypatch.setattr(command, "require_label_studio", lambda settings: None)
    for name, held_out in (("/a.png", False), ("/b.png", True)):
        world.annotate(world.add(name, held_out=held_out), blocks(1))
    return world


@pytest.fixture
def run(capsys):
    def run(*arguments, status=0):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        told = capsys.readouterr()
        assert ended.value.code == status, told.err
        return told.out, told.err

    return run


def test_label_studio_that_is_away_is_told_at_once(run, tmp_path, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    masks = tmp_path / "masks.json"
    masks.write_text("{}")
    out = tmp_path / "out"
    for arguments in (("export", 1, "--out", out), ("import", 1, masks)):
        _, err = run(*arguments, "--format", "coco", status=1)
        assert "cannot connect" in err and "is Label Studio running at http://127.0.0.1:9/?" in err


def test_what_was_written_is_told(world, run, tmp_path):
    out, err = run("export", 1, "--out", tmp_path / "out", "--format", "png")
    assert out == f"{tmp_path / 'out'}: 2 photos as png, 1 to train on and 1 held out (val)\n"
    assert err == ""
    assert (tmp_path / "out" / "data.toml").is_file()


def test_what_is_left_out_is_told_and_the_status_is_1(world, run, tmp_path):
    task = world.add("/gone.png")
    del world.photos.files["/gone.png"]
    world.annotate(task, blocks(2))
    out, err = run("export", 1, "--out", tmp_path / "out", "--format", "coco", status=1)
    assert "2 photos as coco" in out
    assert err == "ebseg: task 3 is left out: /gone.png: not found (404)\n"


def test_labels_that_the_project_does_not_have_are_told(world, run, tmp_path):
    world.fake.config = world.fake.config.replace('value="sky"', 'value="moon"')
    _, err = run("export", 1, "--out", tmp_path / "out", "--format", "coco")
    assert err == "ebseg: labels that the project does not have are left out: sky\n"
    world.fake.predict(1, next(iter(world.fake.annotations.values()))["result"], "model-1")
    world.fake.model_version = "model-1"
    _, err = run("export", 1, "--out", tmp_path / "predicted", "--format", "coco", "--predictions")
    assert err == "ebseg: labels that the project does not have are left out: sky\n"


def test_many_that_are_left_out_are_not_all_told(world, run, tmp_path):
    for number in range(22):
        world.fake.annotate(world.fake.add_task(image=f"/{number}.png"), [])
    _, err = run("export", 1, "--out", tmp_path / "out", "--format", "coco", status=1)
    assert len(err.splitlines()) == exchange.MOST_TOLD + 1
    assert err.endswith("ebseg: and 2 more\n")


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_read(world, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    _, err = run("export", 1, "--out", tmp_path / "out", "--format", "coco", status=1)
    assert "out is there and is no empty folder: give another path, or remove it" in err
    assert world.fake.seen == []


def test_options_that_contradict_each_other_are_told(world, run, tmp_path):
    _, err = run(
        "export",
        1,
        "--out",
        tmp_path / "out",
        "--format",
        "coco",
        "--predictions",
        "--reviewed-only",
        status=1,
    )
    assert "--reviewed-only is for annotations: leave it or --predictions out" in err


def test_predictions_are_exported(world, run, tmp_path):
    world.fake.predict(1, world.regions(blocks(3)), "model-1")
    world.fake.model_version = "model-1"
    out, _ = run("export", 1, "--out", tmp_path / "out", "--format", "voc", "--predictions")
    assert "1 photos as voc, 1 to train on and 0 held out (val)" in out


def test_a_project_that_is_not_there_is_told(world, run, tmp_path):
    _, err = run("export", 2, "--out", tmp_path / "out", "--format", "coco", status=1)
    assert "does not have project 2: was it deleted?" in err


def test_a_stopped_export_says_so(world, run, tmp_path, monkeypatch):
    def stopped(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "annotated", stopped)
    _, err = run("export", 1, "--out", tmp_path / "out", "--format", "coco", status=130)
    assert "stopped; nothing is in" in err


def test_what_was_exported_is_imported(world, run, tmp_path):
    for layout in ("coco", "png"):
        run("export", 1, "--out", tmp_path / layout, "--format", layout)
        out, err = run("import", 1, tmp_path / layout, "--format", layout)
        assert out.startswith("project 1: 2 predictions of the version import-") and err == ""
        out, _ = run("import", 1, tmp_path / layout, "--format", layout)
        assert "project 1: 0 predictions of the version" in out and "2 tasks had it" in out
    out, _ = run("import", 1, tmp_path / "png", "--format", "png", "--annotations")
    assert out == "project 1: 0 annotations stored, 2 tasks were annotated\n"
    assert len(world.fake.annotations) == 2


def test_what_is_not_imported_is_told(world, run, tmp_path):
    (tmp_path / "labels.txt").write_text("moon\ncar\ntree\n")
    for name, value in (("a", 1), ("b", 0), ("c", 1)):
        Image.new("L", (WIDTH, HEIGHT), value).save(tmp_path / f"{name}.png")
    out, err = run("import", 1, tmp_path, "--format", "png", status=1)
    assert "project 1: 1 predictions" in out
    assert out.endswith("stored, 1 photos without a mask of the project's labels\n")
    assert err == (
        "ebseg: labels that the project does not have are left out: moon, tree\n"
        "ebseg: photo c.png is left out: no task has a photo of this name\n"
    )


def test_a_stopped_import_says_so(world, run, tmp_path, monkeypatch):
    def stopped(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(import_masks, "open_masks", stopped)
    _, err = run("import", 1, tmp_path, "--format", "png", status=130)
    assert "stopped; what was stored stays" in err


def test_photos_are_fetched_by_the_name_that_label_studio_has(monkeypatch, tmp_path):
    settings = Settings(home=tmp_path, label_studio_url="http://inside:8080")
    monkeypatch.setattr(exchange, "connect", lambda settings: None)
    monkeypatch.setattr(exchange, "hostname", lambda connection: "https://labels.test")
    assert exchange.photos(settings).hostname == "https://labels.test"


def test_photos_are_fetched_without_a_redis(tmp_path):
    settings = Settings(home=tmp_path, redis_url="redis://127.0.0.1:1")
    assert exchange.photos(settings).hostname == ""


def test_help_says_how(run):
    for command, example in (
        ("export", "12 --out street --format coco"),
        ("import", "12 masks.json --format"),
    ):
        out, _ = run(command, "--help")
        assert f"Example: ebseg {command} {example}" in out


def test_only_its_own_work_is_kept_out_of_the_log():
    log = logging.getLogger("training.annotations.snapshot")
    before = log.getEffectiveLevel()
    with pytest.raises(KeyboardInterrupt), exchange.progress_bar():
        assert not log.isEnabledFor(logging.WARNING)
        raise KeyboardInterrupt
    assert log.getEffectiveLevel() == before
