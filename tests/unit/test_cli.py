import ast
import json
import os
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import typer
from PIL import Image
from typer.main import get_command

from backend.commands import COMMANDS as backend_commands
from ebseg import cli
from ebseg.commands import COMMANDS, Command
from ebseg.commands.predict import plan_outputs
from ebseg.errors import TrainingError
from training.commands import COMMANDS as training_commands

ROOMS = ("ebseg", "training", "backend")
MOST_INNER_IMPORTS = 25
"""Of our own modules, inside functions: each says why it is there."""

plugin = typer.Typer()


@plugin.command()
def greet(name: str) -> None:
    """Greet somebody."""
    typer.echo(f"hello {name}")


group = typer.Typer(help="Look after models.")


@group.command("list")
def list_models() -> None:
    """List models."""
    typer.echo("none")


@group.command()
def fail() -> None:
    """Fail as training may."""
    raise TrainingError("the loss is\nnot finite")


TABLE = {
    "models": Command(f"{__name__}:group", "Look after models."),
    "moved": Command("ebseg.no_such_module:app", "Do what cannot be done."),
    "predict": Command(f"{__name__}:group", "Stand in the way of the library's own."),
}

SCRAWL = {"scrawl": "no command"}


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {
        "broken": "ebseg.no_such_module:COMMANDS",
        "greet": f"{__name__}:plugin",  # one command
        "scrawl": f"{__name__}:SCRAWL",
        "table": f"{__name__}:TABLE",
    }
    points = [EntryPoint(name, value, "ebseg.commands") for name, value in installed.items()]
    monkeypatch.setattr(cli, "_plugins", lambda: points)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> "Runner":
    monkeypatch.chdir(tmp_path)
    return Runner(capsys)


class Runner:
    """Runs the command line in this process; gives status, standard output and standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(argument) for argument in arguments])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, *self.capsys.readouterr()


def write_photo(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_predict_writes_label_map_overlay_and_table(run: Runner, random_checkpoint: Path) -> None:
    write_photo(Path("street.one.jpg"))
    labels = "sky, road,car|automobile"
    status, out, _ = run("predict", "street.one.jpg", "--labels", labels, "--model", random_checkpoint,
                         "--threshold", 0)  # fmt: skip
    assert status == 0
    assert sorted(os.listdir("ebseg-out")) == ["street.one.json", "street.one.png", "street.one_overlay.jpg"]
    record = json.loads(Path("ebseg-out/street.one.json").read_text())
    assert record["photo"] == "street.one.jpg"
    assert (record["width"], record["height"], record["threshold"]) == (40, 30, 0)
    assert record["model"].startswith("ebseg-tiny-")
    assert sorted(row["label"] for row in record["labels"]) == ["car", "road", "sky"]
    assert sum(row["area"] for row in record["labels"]) == pytest.approx(1)
    with Image.open(record["label_map"]) as image:
        label_map = np.array(image)
    assert label_map.shape == (30, 40)
    for row in record["labels"]:
        assert (label_map == row["index"]).mean() == pytest.approx(row["area"])
    with Image.open(record["overlay"]) as image:
        assert image.width > 40
    best = record["labels"][0]
    assert f"{best['area']:.1%}" in out
    assert f"{best['confidence']:.2f}" in out


def test_threshold_leaves_pixels_unlabelled(run: Runner, random_checkpoint: Path) -> None:
    write_photo(Path("a.png"))
    status, out, _ = run("predict", "a.png", "--labels", "sky,road", "--model", random_checkpoint,
                         "--threshold", 1, "--json")  # fmt: skip
    assert status == 0
    (record,) = json.loads(out)
    assert record["unlabelled"] == 1
    with Image.open("ebseg-out/a.png") as image:
        assert (np.array(image) == 255).all()


def test_a_bad_photo_does_not_stop_the_others(run: Runner, random_checkpoint: Path) -> None:
    first, last = write_photo(Path("a.jpg")), write_photo(Path("z.jpg"))
    Path("broken.jpg").write_bytes(first.read_bytes()[:300])
    status, out, err = run("predict", first, "broken.jpg", "missing.jpg", last, "--labels", "sky",
                           "--model", random_checkpoint, "--json")  # fmt: skip
    assert status == 1
    records = json.loads(out)
    assert [record["photo"] for record in records] == ["a.jpg", "broken.jpg", "missing.jpg", "z.jpg"]
    assert ["error" in record for record in records] == [False, True, True, False]
    assert Path("ebseg-out/z.png").exists()
    assert "broken.jpg: the file is damaged" in err
    assert "missing.jpg: cannot be opened" in err
    assert err.splitlines()[-1] == "ebseg: 2 of 4 photos could not be labelled"


def test_folders_are_searched_and_names_kept_apart(run: Runner, random_checkpoint: Path) -> None:
    for name in ("in/x.jpg", "in/x.PNG", "in/sub/x.jpg", "in/.hidden/y.jpg", "in/._z.jpg", "other/X.jpg"):
        write_photo(Path(name))
    Path("in/notes.txt").write_text("no photo")
    options = ("--labels", "sky", "--model", random_checkpoint, "--out", "in/results")
    for _ in range(2):  # the second run must not take the first one's results for photos
        status, _, _ = run("predict", "in", "other/X.jpg", *options)
        assert status == 0
        tables = {str(path.relative_to("in/results")): path for path in Path("in/results").rglob("*.json")}
        sources = {name: json.loads(path.read_text())["photo"] for name, path in tables.items()}
        assert sources == {
            "sub/x.json": "in/sub/x.jpg",
            "x.json": "in/x.PNG",
            "x-2.json": "in/x.jpg",
            "X-3.json": "other/X.jpg",
        }


def test_pictures_that_cannot_be_read_are_counted_and_named(run: Runner, random_checkpoint: Path) -> None:
    write_photo(Path("in/x.jpg"))
    Image.new("RGB", (40, 30)).save("in/y.jfif", "JPEG")
    others = [f"{letter}.heic" for letter in "abcdefg"]
    for name in others:
        Path("in", name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    options = ("--labels", "sky", "--model", random_checkpoint, "--json")
    status, out, err = run("predict", "in", *options)
    assert status == 0
    assert [record["photo"] for record in json.loads(out)] == ["in/x.jpg", "in/y.jfif"]
    assert (
        "passed over, 7: a.heic, b.heic, c.heic, d.heic, e.heic and 2 more; convert them to JPEG or PNG"
        in err
    )
    status, _, err = run("predict", "in/a.heic", *options)
    assert (
        status == 1 and "in/a.heic: HEIC and what is like it cannot be read; convert it to JPEG or PNG" in err
    )
    for name in ("in/x.jpg", "in/y.jfif"):
        Path(name).unlink()
    status, _, err = run("predict", "in", *options)
    assert status == 2 and "7: a.heic" in " ".join(err.replace("│", " ").split())


def test_the_limit_of_pixels_can_be_raised(run: Runner, random_checkpoint: Path) -> None:
    photo = write_photo(Path("a.png"))
    options = ("--labels", "sky", "--model", random_checkpoint, "--max-pixels")
    status, _, err = run("predict", photo, *options, 1199)
    assert status == 1
    assert "a.png: 40 x 30 pixels" in err and "; make it smaller or raise --max-pixels" in err
    assert run("predict", photo, *options, 1200)[0] == 0


def test_two_unicode_forms_of_a_name_are_kept_apart(tmp_path: Path) -> None:
    for name in ("\u00e4.jpg", "a\u0308.jpg"):
        write_photo(tmp_path / "in" / name)
    first, second = plan_outputs([tmp_path / "in"], tmp_path / "out")
    assert not first.stem.name.endswith("-2") and second.stem.name.endswith("-2")


def test_labels_from_a_file(run: Runner, random_checkpoint: Path) -> None:
    write_photo(Path("a.jpg"))
    Path("labels.txt").write_text("\ufeffsky\nbuilding, edifice|house\n\n道路\n", encoding="utf-8")
    status, out, _ = run(
        "predict", "a.jpg", "--labels", "@labels.txt", "--model", random_checkpoint, "--json"
    )
    assert status == 0
    labels = sorted(json.loads(out)[0]["labels"], key=lambda row: row["index"])
    assert [row["label"] for row in labels] == ["sky", "building, edifice", "道路"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jpg"], "Missing option '--labels'"),
        (["--labels", "sky"], "Missing argument 'PHOTO'"),
        (["a.jpg", "--labels", "sky,,road"], "label 2 has an empty name"),
        (["a.jpg", "--labels", "sky,road|Sky"], "label 2 'Sky' repeats 'sky' of label 1"),
        (["a.jpg", "--labels", "@none.txt"], "the list of labels none.txt cannot be read"),
        (["a.jpg", "--labels", "a.png"], "a.png is a file: write @a.png to read the labels in it"),
        (["a.jpg", "--labels", "sky", "--threshold", "2"], "Invalid value for '--threshold'"),
        (["a.jpg", "--labels", "sky", "--model", "ebseg-huge"], "no model named 'ebseg-huge'"),
        (["a.jpg", "--labels", "sky", "--out", "a.jpg"], "Invalid value for '--out'"),
        (["empty", "--labels", "sky"], "no photos in folder empty"),
        (["a.png", "--labels", "sky", "--out", "."], "a.png would overwrite a photo"),
        (["photos", "--labels", "sky", "--out", "photos"], "would fall among the photos of photos"),
        (["a.jpg", "--labels", "sky", "--no-such-option"], "No such option"),
    ],
)
def test_bad_usage_has_status_two(run: Runner, arguments: list[str], message: str) -> None:
    for name in ("a.jpg", "a.png", "photos/b.jpg"):
        write_photo(Path(name))
    Path("empty").mkdir()
    status, out, err = run("predict", *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("Usage: ebseg predict")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_failures_have_status_one_and_one_line(run: Runner) -> None:
    Path("weights.safetensors").write_bytes(b"nonsense")
    write_photo(Path("a.jpg"))
    status, out, err = run("predict", "a.jpg", "--labels", "sky", "--model", "weights.safetensors")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("ebseg: weights.safetensors cannot be read")


def test_disk_that_cannot_be_written_to_is_one_line(run: Runner, random_checkpoint: Path) -> None:
    write_photo(Path("a.jpg"))
    Path("file").write_text("in the way")
    status, _, err = run("predict", "a.jpg", "--labels", "sky", "--model", random_checkpoint,
                         "--out", "file/results")  # fmt: skip
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "file/results" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["greet", "Ada"], (0, "hello Ada\n", "")),
        (["models", "list"], (0, "none\n", "")),
        (["models", "fail"], (1, "", "ebseg: the loss is not finite\n")),
    ],
)
def test_plugins_add_commands(run: Runner, arguments: list[str], expected: tuple[int, str, str]) -> None:
    assert run(*arguments) == expected


def test_help_lists_all_tables(run: Runner) -> None:
    status, out, _ = run("--help")
    assert status == 0
    listed = dict(re.findall(r"^  ([a-z-]+) +(.*)$", out.partition("Commands:")[2], re.MULTILINE))
    assert list(listed) == [*COMMANDS, "broken", "greet", "models", "moved", "scrawl"]
    assert listed["predict"] == COMMANDS["predict"].help
    assert listed["greet"] == "Greet somebody."
    assert listed["models"] == "Look after models."


@pytest.mark.parametrize("name", ["broken", "moved"])
def test_a_broken_plugin_fails_alone(run: Runner, name: str) -> None:
    status, out, err = run(name, "--anything", "else")
    assert (status, out) == (1, "")
    assert "no_such_module" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["broken", "scrawl"])
def test_a_table_that_is_none_is_listed_as_such(run: Runner, name: str) -> None:
    _, out, _ = run("--help")
    assert re.search(rf"^  {name} +\(not available: ", out, re.MULTILINE)


def test_unknown_command_is_bad_usage(run: Runner) -> None:
    status, _, err = run("predct")
    assert status == 2
    assert "No such command 'predct'" in err


@pytest.mark.parametrize(
    ("name", "command"), [*COMMANDS.items(), *training_commands.items(), *backend_commands.items()]
)
def test_tables_say_what_the_commands_do(name: str, command: Command) -> None:
    help_ = get_command(resolve_name(command.app)).help
    assert help_ is not None
    assert command.help == help_.partition("\n")[0]


def test_few_functions_import_modules_of_ours() -> None:
    root = Path(cli.__file__).parent.parent
    found = [
        f"{path.relative_to(root)}:{line}"
        for room in ROOMS
        for path in sorted((root / room).rglob("*.py"))
        for line in _inner_imports(path)
    ]
    assert len(found) <= MOST_INNER_IMPORTS, "\n".join(found)


def _inner_imports(path: Path) -> list[int]:
    """List the lines inside functions that import modules of ours."""
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return sorted({node.lineno for function in functions for node in ast.walk(function) if _is_ours(node)})


def _is_ours(node: ast.AST) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    return any(name.partition(".")[0] in ROOMS for name in names)


def test_help_has_an_example(run: Runner) -> None:
    status, out, _ = run("predict", "--help")
    assert status == 0
    assert "Example: ebseg predict" in out


def test_version(run: Runner) -> None:
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("ebseg 0.")
