import json
from pathlib import Path

import pytest

from ebseg.errors import DataError, VocabularyError
from ebseg.label_lists import read_argument, read_file, write_file
from ebseg.vocabulary import Vocabulary

SKY_ROAD_CAR = Vocabulary(["sky", "road", ["car", "automobile"]])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "sky\n\nroad \ncar|automobile\n"),
        ("labels.txt", "\ufeffsky\r\nroad\r\ncar|automobile"),
        ("labels.json", '["sky", "road", ["car", "automobile"]]'),
        ("LABELS.JSON", '\ufeff["sky", "road", ["car", "automobile"]]'),
    ],
)
def test_files_and_the_argument_that_names_them(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_file(path) == read_argument(f"@{path}") == SKY_ROAD_CAR


def test_an_argument_lists_names() -> None:
    assert read_argument("sky,road ,car|automobile") == SKY_ROAD_CAR


def test_a_forgotten_at_sign_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("sky")
    for name in ("labels.txt", str(tmp_path / "labels.txt")):
        with pytest.raises(
            VocabularyError, match=f"{name} is a file: write @{name} to read the labels in it"
        ):
            read_argument(name)
    assert read_argument("other.txt").names == ("other.txt",)
    assert read_argument("x" * 5000).names == ("x" * 5000,)  # no file can have such a name


@pytest.mark.parametrize(
    "vocabulary", [SKY_ROAD_CAR, Vocabulary(["a|b", "道路", " \u00fc,\n"]), Vocabulary(["one"])]
)
def test_what_is_written_is_read_again(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "labels.json"
    write_file(path, vocabulary)
    assert read_file(path) == vocabulary


def test_names_without_synonyms_are_written_plainly(tmp_path: Path) -> None:
    write_file(tmp_path / "labels.json", SKY_ROAD_CAR)
    assert json.loads((tmp_path / "labels.json").read_text()) == ["sky", "road", ["car", "automobile"]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.txt", "sky\nSky\n", "repeats"),
        ("labels.txt", "sky||\n", "empty name"),
        ("labels.txt", "", "0 labels"),
        ("labels.json", "[1, 2]", "not a name"),
        ("labels.json", '{"labels": []}', "not a JSON list"),
        ("labels.json", "[", "not JSON"),
        ("labels.json", "[" * 100_000, "not JSON"),
    ],
)
def test_faulty_lists_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(VocabularyError, match=f"{path}: .*{message}"):
        read_file(path)


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "labels.txt"
    binary.write_bytes(b"\xff\xfe\xfa")
    for path in (binary, tmp_path / "missing.txt", tmp_path):
        with pytest.raises(DataError, match=f"{path} cannot be read"):
            read_file(path)
