import json
import shutil
from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ebseg.cli import main
from training.annotations.corrections import Live
from training.queue.embedded_redis import stop_embedded_redis
from training.registry.decision import Decision, Verdict
from training.registry.registry import Registry
from training.settings import Settings

DECISION = Decision(
    Verdict.REJECT,
    ("label '[red]road' falls", "too little gain"),
    {
        "miou": {"champion": 61.25, "candidate": 64.0},
        "gain": 2.75,
        "lower_bound": None,
        "labels": [
            {"name": "[red]road", "champion": 50.0, "candidate": 40.0, "pixels": 12345},
            {"name": "kerb", "champion": None, "candidate": None, "pixels": 0},
        ],
        "forgetting": [{"name": "drawn-scenes", "before": 80.0, "after": 78.0, "lost": 0.025}],
        "held_out_tasks": [3, 5],
    },
)


@pytest.fixture
def home(mlflow_database, mlflow_environment, tmp_path, monkeypatch):
    monkeypatch.setenv("EBSEG_HOME", str(tmp_path / "my home"))
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "my home").mkdir()
    shutil.copy(mlflow_database, tmp_path / "my home")
    yield tmp_path / "my home"
    stop_embedded_redis(tmp_path / "my home" / "redis")  # pytest-xdist's processes end without leaving it


@pytest.fixture
def registry(home, tmp_path, random_checkpoint):
    """Register the base, which is the champion, and a candidate that was rejected."""
    registry = Registry(Settings())
    registry.ensure_base()
    with safe_open(random_checkpoint, "pt") as model:
        header = {**model.metadata(), "version": "street-2"}
    save_file(load_file(random_checkpoint), tmp_path / "model.safetensors", metadata=header)
    candidate = registry.register(tmp_path / "model.safetensors", key="train-2", run_id=None, tags={})
    registry.record_decision(candidate, DECISION, champion=1)
    registry.record_live("street-2", Live(4, 0.715, 0.04, 0.25).numbers())
    return registry


@pytest.fixture
def run(capsys):
    def run(*arguments, status=0):
        with pytest.raises(SystemExit) as ended:
            main(["models", *arguments])
        told = capsys.readouterr()
        assert ended.value.code == status, told.err
        return told.err if status else told.out

    return run


def test_versions_are_listed_with_their_numbers(registry, run):
    base, candidate = run("list").splitlines()[3:5]
    assert "champion" in base and "ebseg-tiny" in base
    assert [cell.strip() for cell in candidate.split("│")[1:4]] == ["2", "street-2", "candidate"]
    assert [cell.strip() for cell in candidate.split("│")[5:9]] == ["64.0", "+2.8", "reject", "71.5"]
    told = json.loads(run("list", "--json"))
    assert [(each["number"], each["aliases"]) for each in told] == [(1, ["champion"]), (2, ["candidate"])]
    assert told[1]["tags"]["verdict"] == "reject" and told[1]["name"] == "street-2"


def test_nothing_is_cut_in_a_narrow_terminal(registry, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    listed = run("list")
    for part in ("version", "verdict", registry.champion().name, "candidate", "64.0", "+2.8", "reject"):
        assert part in listed
    assert "…" not in listed


def test_a_home_that_cannot_be_used_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EBSEG_HOME", str(tmp_path / "file"))
    (line,) = run("list", status=1).splitlines()
    assert line.startswith(f"ebseg: EBSEG_HOME: {tmp_path / 'file'} cannot be used")


def test_before_the_first_training_there_is_nothing(home, run):
    assert "no versions yet" in run("list")
    assert json.loads(run("list", "--json")) == []
    for command in (("show", "champion"), ("promote", "1")):
        (line,) = run(*command, status=1).splitlines()
        assert "nothing is registered as 'ebseg' yet" in line
    assert "no version of 'ebseg' was champion before" in run("rollback", status=1)


def test_a_version_is_shown_with_the_decision_and_its_reasons(registry, run, home):
    shown = run("show", "candidate")
    for part in (
        "version 2 (candidate): street-2\n",
        f"by MLflow's run {registry.version('2').run_id}\n",
        "live: predictions that people went over: 4, mean IoU with what they made of them 71.5%, 4.0% of "
        "the pixels changed, 25.0% of the predictions left as they were\n",
        "reject, compared with version 1:\n  label '[red]road' falls\n  too little gain\n",
        "held-out mIoU 61.2 -> 64.0 on 2 tasks, gain +2.8, at least -\n",
        "drawn-scenes: mIoU 80.0 -> 78.0, 2.5% lost\n",
        f"in MLflow: mlflow ui --backend-store-uri 'sqlite:///{home}/mlflow.db', then "
        "http://127.0.0.1:5000/#/models/ebseg/versions/2\n",
    ):
        assert part in shown
    (row,) = [line for line in shown.splitlines() if line.startswith("│")]  # kerb is in no held-out task
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["[red]road", "12345", "50.0", "40.0", "-10.0"]

    told = json.loads(run("show", "2", "--json"))
    assert told["decision"] == {**DECISION.to_dict(), "compared_with": 1}
    assert told["champion"] == [] and told["look"].startswith("mlflow ui")
    base = run("show", "1")
    assert "the gate has not looked at it\n" in base
    assert ": the model to start from\n" in base


def test_a_cross_validated_decision_says_so(registry, run):
    assert "cross-validated" not in run("show", "2")
    crossed = replace(DECISION, numbers={**DECISION.numbers, "cross_validated": True})
    registry.record_decision(registry.version("2"), crossed, champion=1)
    assert "\ncross-validated: each task was predicted by a model that was not trained on it\n" in run(
        "show", "2"
    )


def test_tasks_are_counted_once_and_in_the_same_words(registry, run):
    told = replace(DECISION, numbers={**DECISION.numbers, "labelled_tasks": 1})
    registry.record_decision(registry.version("2"), told, champion=1)
    assert "held-out mIoU 61.2 -> 64.0 on 1 task (1 more without labels), gain +2.8" in run("show", "2")
    gain = "held-out mIoU 61.2 -> 64.0 on 1 held-out task: +2.8 points, by the bootstrap at least +1.0"
    promoted = replace(told, verdict=Verdict.PROMOTE, reasons=(gain, "drawn-scenes: mIoU 80.0 -> 78.0"))
    registry.record_decision(registry.version("2"), promoted, champion=1)
    shown = run("show", "2")
    assert shown.count("held-out mIoU") == shown.count("drawn-scenes") == 1


def test_the_page_of_a_server_is_named_without_secrets(registry, run, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example/")
    monkeypatch.setattr("training.commands.models._registry", lambda: registry)
    look = json.loads(run("show", "2", "--json"))["look"]
    assert look == "https://mlflow.example/#/models/ebseg/versions/2"


def test_promotion_and_rollback_by_hand(registry, run):
    base = registry.champion().name
    assert run("promote", "2") == f"the champion is version 2 (street-2); it was version 1 ({base})\n"
    assert registry.champion().number == 2
    assert "champion since" in run("show", "champion")
    assert run("rollback", "--reason", "shadows") == (
        f"the champion is version 1 ({base}); it was version 2 (street-2)\n"
    )
    assert [entry["reason"] for entry in registry.history()][1:] == ["by hand", "shadows"]
    change = {"project": None, "from": 1, "to": 2, "name": "street-2"}
    assert json.loads(run("promote", "candidate", "--json")) == change
    assert json.loads(run("rollback", "--json")) == {"project": None, "from": 2, "to": 1, "name": base}
    (line,) = run("promote", "9", status=1).splitlines()
    assert line == "ebseg: 'ebseg' has no version '9'; known: 1 champion, 2 candidate"


def test_a_project_has_a_champion_of_its_own(registry, run, tmp_path):
    base = registry.champion().name
    assert run("promote", "2", "--project", "7", "--reason", "night") == (
        f"the champion of project 7 is version 2 (street-2); it was version 1 ({base})\n"
    )
    told = [(each["number"], each["aliases"]) for each in json.loads(run("list", "--json"))]
    assert told == [(1, ["champion"]), (2, ["candidate", "champion-7"])]
    assert "\nproject 7, last decision: version 2 (street-2): promoted: night (" in run(
        "show", "2", "--project", "7"
    )
    numbers = [
        [each["number"] for each in json.loads(run("list", "--project", project, "--json"))]
        for project in ("7", "8")
    ]
    assert numbers == [[2], [1]]
    for arguments in (("champion", "--project", "7"), ("champion-7",), ("2", "--project", "7")):
        shown = run("show", *arguments)
        assert shown.startswith("version 2 (candidate, champion-7): street-2\n")
        assert "\nchampion of project 7 since " in shown and ": night\n" in shown
    assert run("show", "champion", "--project", "8").startswith("version 1 (champion)")
    assert "champion of project" not in run("show", "2", "--project", "8")
    told = json.loads(run("show", "2", "--json"))["champion"]
    assert [(reign["project"], reign["reason"]) for reign in told] == [(7, "night")]
    assert run("rollback", "--project", "7").startswith("the champion of project 7 is version 1 (")
    assert "was champion of project 8 before this one" in run("rollback", "--project", "8", status=1)


DAMAGES = {
    "missing": (lambda file: file.unlink(), "model.safetensors"),
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "cannot be read"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_version_whose_file_does_not_load_is_not_promoted(registry, run, damage, reason):
    run("promote", "2")
    run("promote", "1")
    damage(registry.checkpoint(registry.version("2")))
    for command in (("promote", "2"), ("rollback",)):
        (line,) = run(*command, status=1).splitlines()
        assert line.startswith("ebseg: version 2 (street-2) cannot be served, as ") and reason in line
        assert line.endswith("promote another version (`ebseg models list`), or put the file back")
    assert registry.champion().number == 1


def test_every_command_has_an_example(run):
    for command in ("list", "show", "promote", "rollback"):
        assert f"Example: ebseg models {command}" in run(command, "--help")
