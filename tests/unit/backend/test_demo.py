from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.commands.demo import only_demo_in
from backend.demo.label_studio_server import LabelStudioError, LabelStudioServer
from backend.demo.project import choose_pictures, label_config, pre_annotate
from ebseg.data.drawn.synthetic import PHRASES
from ebseg.errors import ConfigError, EBSegError, ImageError, VocabularyError
from ebseg.images import read_image
from ebseg.label_lists import read_argument
from ebseg.label_studio.label_config import parse
from ebseg.label_studio.tasks import read_label_config


@pytest.fixture
def street(tmp_path: Path) -> Path:
    folder = tmp_path / "street"
    (folder / "monday").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "monday/c.webp"):
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_drawn_scenes_come_with_the_labels_that_occur_in_them(tmp_path: Path) -> None:
    pictures, labels = choose_pictures(None, None, tmp_path / "scenes")
    assert len(pictures) == 12
    assert {read_image(picture).shape for picture in pictures} == {(384, 512, 3)}
    names = [name for [name] in labels]
    assert set(names) < set(PHRASES)
    assert len(names) == len(set(names)) > 10


def test_labels_can_be_chosen_for_drawn_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.demo.project.SCENE_COUNT", 1)
    assert choose_pictures(None, "sky,road", tmp_path / "scenes")[1] == (("sky",), ("road",))


def test_own_photos_are_found_in_subfolders_and_whatever_the_case(street: Path, tmp_path: Path) -> None:
    pictures, labels = choose_pictures(street, "sky, car|automobile", tmp_path)
    assert [picture.relative_to(street).as_posix() for picture in pictures] == [
        "a.png",
        "b.JPG",
        "monday/c.webp",
    ]
    assert labels == (("sky",), ("car", "automobile"))


def test_pictures_that_cannot_be_shown_are_named(street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("d.heic", "monday/e.tif"):
        (street / name).touch()
    assert len(choose_pictures(street, "sky", street)[0]) == 3
    assert "passed over, 2: d.heic, monday/e.tif; convert them to JPEG or PNG" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keep_photos", "labels", "error", "message"),
    [
        (True, None, ConfigError, 'your own photos need labels: add LABELS="sky,road,car"'),
        (
            False,
            "sky",
            ImageError,
            "street holds no photos: give a folder with files ending in .bmp, .gif, .jpeg",
        ),
        (True, "sky,,road", VocabularyError, "empty"),
        (True, "sky,road,sky", VocabularyError, "sky"),
    ],
)
def test_what_is_missing_or_wrong_is_said(
    street: Path, keep_photos: bool, labels: str | None, error: type[EBSegError], message: str
) -> None:
    if not keep_photos:
        for photo in [*street.glob("*.*"), *street.glob("*/*.*")]:
            photo.unlink()
    with pytest.raises(error, match=message):
        choose_pictures(street, labels, street / "scenes")


@pytest.mark.parametrize("text", ["sky", "sky,car|automobile|auto", 'a "b" <c> & d,straße,空'])
def test_the_label_config_asks_the_model_for_the_labels(text: str) -> None:
    labels = read_argument(text).prompts
    [question] = read_label_config(label_config(labels)).questions
    assert [label.prompts for label in question.labels] == [list(label) for label in labels]
    assert question.image.data_key == "image"


def test_labels_have_colours_of_their_own() -> None:
    control = parse(label_config([[str(number)] for number in range(40)])).controls[0]
    colours = [
        [int(label.attributes["background"][start : start + 2], 16) for start in (1, 3, 5)]
        for label in control.labels
    ]
    apart = np.abs(np.subtract.outer(np.array(colours), np.array(colours))).max()
    assert len({tuple(colour) for colour in colours}) == 40
    assert apart > 100


def test_two_demos_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with only_demo_in(folder):
        assert folder.stat().st_mode & 0o077 == 0
        with (
            pytest.raises(ConfigError, match="a demo already runs in .*demo: end it with Ctrl-C"),
            only_demo_in(folder),
        ):
            pass
    with only_demo_in(folder):
        pass


def test_a_missing_label_studio_is_said_with_the_remedy(tmp_path: Path) -> None:
    server = LabelStudioServer(tmp_path / "label-studio", tmp_path / "demo")
    with pytest.raises(LabelStudioError, match="not installed at .*: run `make demo`"), server.running():
        pass


def test_the_password_is_kept_for_our_eyes_only(tmp_path: Path) -> None:
    executable = tmp_path / "label-studio"
    executable.write_text("#!/bin/sh\nexit 1\n")
    executable.chmod(0o700)
    first = LabelStudioServer(executable, tmp_path / "demo")
    with pytest.raises(EBSegError, match="Label Studio ended with status 1"), first.running():
        pass
    assert LabelStudioServer(executable, tmp_path / "demo").password == first.password
    assert (tmp_path / "demo" / "secrets.json").stat().st_mode & 0o077 == 0
    assert first.password not in repr(first.__dict__)


class Project:
    """Retrieves predictions by script: ``calls`` says how many of each call's tasks get masks."""

    def __init__(self, calls: list[int]) -> None:
        self.calls = iter(calls)

    def retrieve_predictions(self, task_ids: list[int]) -> list[int]:
        return task_ids[: next(self.calls)]


@pytest.mark.parametrize(
    ("calls", "missing"),
    [
        ([4, 2], []),  # six tasks: a call of four, then one of two
        ([1, 0, 1, 1, 3], []),  # slow: four, two, then four and one, then three
        ([0, 0, 4, 2], []),  # the first round went into loading
        ([0, 0, 0, 0], [1, 2, 3, 4, 5, 6]),
        ([4, 0, 0, 0], [5, 6]),
    ],
)
def test_pictures_are_asked_for_again_until_nothing_more_comes(calls: list[int], missing: list[int]) -> None:
    project = Project(calls)
    assert pre_annotate(project, range(1, 7)) == missing
    assert list(project.calls) == []
