"""What the loop wrote before it was rebuilt is read and carried on: tests/fixtures/first_form/README.md."""

import base64
import hashlib
import json
import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from redis import Redis
from safetensors import safe_open

import ebseg
from ebseg.checkpoint import load_checkpoint
from ebseg.config import RECIPES
from ebseg.errors import ConfigError, FetchError
from ebseg.runs.mlflow_store import ENVIRONMENT
from ebseg.vocabulary import Vocabulary
from tests.unit.training.fake_label_studio import FakeLabelStudio
from training.annotations import snapshot
from training.annotations.label_studio import LabelStudioClient
from training.annotations.manifest import latest, load
from training.annotations.parts import training_and_validation
from training.annotations.snapshot import SnapshotSource
from training.finetuning import parent as finetune_job
from training.finetuning.finetune import FinetuneConfig, Snapshot, finetune
from training.judging import measuring as evaluation
from training.judging.cross_validation import folds_measured
from training.judging.seen import seen_photos
from training.queue.embedded_redis import embedded_redis, stop_embedded_redis
from training.queue.projects import Project, known_projects, require_the_services_model
from training.queue.queues import find
from training.registry.registry import Registry, resolve
from training.settings import Settings
from training.storage import Storage

WRITTEN = Path(__file__).parents[1] / "fixtures" / "first_form"
EXPECTED = json.loads((WRITTEN / "expected.json").read_text())
BASE, PROMOTED, REJECTED = EXPECTED["versions"]
FIRST, SECOND = EXPECTED["manifests"]
HALFWAY = FinetuneConfig(steps=6, batch=2, measure_every=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Unpack what was written, once; its paths now name the folder where it is."""
    root = tmp_path_factory.mktemp("first_form").resolve()
    with tarfile.open(WRITTEN / "files.tar.xz") as archive:
        archive.extractall(root, filter="data")
    with closing(sqlite3.connect(root / "home" / "mlflow.db")) as database, database:
        _move(database, EXPECTED["root"], str(root))
    return root


def _move(database, old, new):
    """Replace a path wherever MLflow's tables have it."""
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for _, column, kind, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
            if kind.startswith(("VARCHAR", "TEXT")):
                database.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)",
                    (old, new, old),
                )


@pytest.fixture
def first_form(written, tmp_path, monkeypatch):
    """Give a copy that a test may change, in whose home the process is."""
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    for variable in ("MLFLOW_TRACKING_URI", "EBSEG_STORAGE", "REDIS_URL"):
        monkeypatch.delenv(variable, raising=False)
    root = tmp_path.resolve() / "first_form"
    shutil.copytree(written, root)
    with closing(sqlite3.connect(root / "home" / "mlflow.db")) as database, database:
        _move(database, str(written), str(root))
    monkeypatch.setenv("EBSEG_HOME", str(root / "home"))
    return root


@pytest.fixture
def settings(first_form):
    return Settings(
        model=str(first_form / "base.safetensors"), label_studio_url="http://studio",
        label_studio_api_key="key", patience=0.0, held_out_share=0.001,
    )  # fmt: skip


@pytest.fixture
def storage(settings):
    return Storage(settings.storage_url, settings.home / "cache")


class _Named:
    """A model of which only the name is known: it must not be asked."""

    def __init__(self, version):
        self.version = version


def _ignore(_done):
    pass


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def _weights(path):
    return {name: p.detach() for name, p in load_checkpoint(path)[0].named_parameters()}


def _weights_digest(path):
    found = hashlib.sha256()
    for name, weight in _weights(path).items():
        found.update(f"{name} {tuple(weight.shape)}\n".encode() + weight.numpy().tobytes())
    return found.hexdigest()


def _header(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_versions_aliases_decisions_and_history_are_there(settings):
    registry = Registry(settings)
    versions = registry.versions()
    root = str(Path(settings.model).parent)
    for version, expected in zip(versions, EXPECTED["versions"], strict=True):
        assert (version.number, version.name) == (expected["number"], expected["name"])
        assert list(version.aliases) == expected["aliases"]
        assert (version.created, version.run_id) == (expected["created"], expected["run_id"])
        assert version.tags == {n: v.replace(EXPECTED["root"], root) for n, v in expected["tags"].items()}
        assert registry.decision(version) == expected["decision"]
        assert _weights_digest(registry.checkpoint(version)) == expected["weights"]
    assert registry.history() == EXPECTED["history"]
    assert [entry["version"] for entry in registry.history()] == [1, 2, 1, 2]
    champion = registry.champion()
    assert champion == registry.champion(1) == registry.version("champion") == versions[1]
    assert registry.version("candidate") == versions[2]
    assert registry.descends(champion)
    assert (PROMOTED["tags"]["verdict"], REJECTED["tags"]["verdict"]) == ("promote", "reject")
    assert champion.tags["live.corrections"] == "8"


def test_a_champion_is_found_by_its_name_and_its_file_in_the_store(settings, first_form):
    path = Registry(settings).named(PROMOTED["name"])
    assert path == resolve("models:/ebseg@champion") and first_form / "home" / "mlruns" in path.parents
    assert ebseg.load("models:/ebseg/1", device="cpu").version == BASE["name"]


def test_the_loop_goes_on_with_the_registry(settings, first_form):
    registry = Registry(settings)
    registry.start_over()
    again = registry.register(
        first_form / "base.safetensors", key=REJECTED["tags"]["job"], run_id=None, tags={}, project=1
    )
    assert again.number == 3, "a job that is repeated finds what it registered"
    file = first_form / "resumed.safetensors"
    added = registry.register(file, key="train-new", run_id=None, tags={}, project=1)
    assert (added.number, added.aliases) == (4, ("candidate-1",))
    registry.record_live(REJECTED["name"], {"corrections": 1.0})
    assert registry.rollback("back", project=1).number == 1
    registry.promote(added, "better", project=1, expected_champion=1)
    assert registry.rollback("back again", project=1).number == 1
    assert [entry["version"] for entry in registry.history(1)] == [2, 1, 4, 1]


def test_the_champion_of_all_becomes_that_of_the_project_that_it_was_trained_for(settings):
    registry = Registry(settings)
    assert registry.champion(7).number == 2, "as long as nobody has parted them"
    assert [registry.ensure_base(project).number for project in (1, 7)] == [2, 1]
    assert registry.champion().number == 1
    assert [version.aliases for version in registry.versions()] == [
        ("champion",), ("champion-1",), ("candidate-1",)
    ]  # fmt: skip
    assert [entry["version"] for entry in registry.history()] == [1, 2, 1, 2, 1]
    [entry] = registry.history(1)
    assert (entry["reason"], entry["before"]) == ("it was all projects' champion", [1])
    registry.promote(registry.version("2"), "to all, by hand")
    for again in (registry, Registry(settings)):
        assert again.ensure_base(7).number == again.start_over().number == 2, "it is done once"
    assert registry.history(1) == [entry]


def test_projects_that_share_a_champion_keep_it(settings):
    registry = Registry(settings.model_copy(update={"share": "all"}))
    assert registry.ensure_base(1) == registry.ensure_base(7) == registry.version("champion")
    assert registry.champion().number == 2 and registry.champions() == {None: registry.champion()}
    assert registry.history(1) == registry.history() == EXPECTED["history"]


def test_readings_of_annotations_are_there(storage):
    first, second = load(storage, 1, FIRST), load(storage, 1, SECOND)
    assert latest(storage, 1) == second
    for manifest, fingerprint in ((first, FIRST), (second, SECOND)):
        assert manifest.fingerprint == fingerprint
        assert manifest.vocabulary.names == ("sky", "Auto")
    assert (len(first.entries), len(second.entries)) == (12, 20)
    assert second.skipped == {21: "/data/gone.png: not found (404)"}
    corrected = [entry.correction for entry in second.entries if entry.correction is not None]
    assert {each.version for each in corrected} == {PROMOTED["name"]} and len(corrected) == 8
    held_out = {entry.photo for entry in first.part("held_out")}
    assert held_out and held_out <= {entry.photo for entry in second.part("held_out")}


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_photos_and_label_maps_are_what_they_were(storage, part):
    source = SnapshotSource(storage, load(storage, 1, SECOND), part)
    samples = map(source.__getitem__, range(len(source)))
    found = {
        str(task): [_sha256(sample.image.tobytes()), _sha256(sample.label_map.tobytes())]
        for task, sample in zip(source.tasks, samples, strict=True)
    }
    assert found == EXPECTED["samples"][part]


def test_the_next_reading_fetches_no_photo_again(settings, storage):
    """Nor does it decide anew what is held out, though the share is another now.

    It reads the annotations once more, as they are painted by other rules than then; and only once.
    """
    fake = FakeLabelStudio()
    for name, found in json.loads((WRITTEN / "studio.json").read_text()).items():
        setattr(fake, name, {int(number): each for number, each in found.items()})

    class NoPhotos:
        def fetch(self, url, *, task_id=None):
            raise FetchError(f"{url}: not found (404)")

    manifest = snapshot.take(LabelStudioClient(settings, http=fake.http), NoPhotos(), storage, 1, settings)
    assert manifest == load(storage, 1, SECOND)
    fake.seen.clear()
    assert manifest == snapshot.take(
        LabelStudioClient(settings, http=fake.http), NoPhotos(), storage, 1, settings
    )
    annotations = [path for _, path in fake.seen if path.endswith("/annotations/")]
    assert annotations == ["/api/tasks/21/annotations/"], "only the task whose photo was missing"


def test_what_was_measured_is_not_measured_again(settings, storage):
    model, expected = _Named(PROMOTED["name"]), EXPECTED["measured"]
    held_out = SnapshotSource(storage, load(storage, 1, SECOND), "held_out")
    measured = evaluation.measure(model, held_out, storage, _ignore)
    assert list(measured.tasks) == expected["tasks"]
    assert measured.counts.tolist() == expected["counts"]
    without = Vocabulary(["sky"])
    assert evaluation.miou(model, held_out, range(2), storage, _ignore, without=without) == expected["miou"]
    folds = folds_measured(storage, EXPECTED["folds"]["job"])
    assert list(folds.tasks) == EXPECTED["folds"]["tasks"]
    assert folds.counts.tolist() == EXPECTED["folds"]["counts"]
    registry = Registry(settings)
    assert folds_measured(storage, PROMOTED["tags"]["job"]) is None
    seen = seen_photos(storage, registry, registry.champion())
    assert seen == {entry.photo for entry in load(storage, 1, FIRST).part("train")}


def test_a_finished_training_is_not_done_again(settings):
    folder = settings.home / "runs" / PROMOTED["tags"]["job"]
    assert finetune_job.is_done(folder)
    outcome = finetune_job.outcome(folder)
    assert outcome["base"]["project"] < outcome["chosen"]["project"] and outcome["steps"] == 100
    assert finetune_job.mlflow_run(folder) == PROMOTED["run_id"]


@pytest.mark.parametrize(("name", "vocabulary"), [
    ("base", Vocabulary(["sky", ["car", "automobile"], "road"])),
    ("champion", Vocabulary(["sky", ["car", "automobile"], "road", "Auto"])),
])  # fmt: skip
def test_a_checkpoint_of_format_1_predicts_as_ever(settings, storage, name, vocabulary):
    registry, expected = Registry(settings), EXPECTED["predictions"][name]
    path = Path(settings.model) if name == "base" else registry.checkpoint(registry.champion())
    header = _header(path)
    assert header["ebseg_format"] == "1"
    unlabelled = json.loads(header["config"])["losses"]["unlabelled"]
    assert unlabelled == ("negative" if name == "base" else "ignored")
    net, _ = load_checkpoint(path)
    assert vocabulary.seen_in(net.training_vocabulary) == (True,) * len(vocabulary)
    assert not any(Vocabulary(["tree"]).seen_in(net.training_vocabulary))
    model, manifest = ebseg.load(path, device="cpu"), load(storage, 1, SECOND)
    assert model.version == expected["version"]
    image = SnapshotSource(storage, manifest, "held_out")[1].image
    found = model.predict(image, manifest.vocabulary, threshold=0.0)
    # Kernels of other processors sum in another order, by less than 1e-6 here.
    np.testing.assert_allclose(found.scores[::8, ::8], expected["scores"], rtol=0, atol=1e-5)
    assert _sha256(found.label_map.tobytes()) == expected["label_map"]


def test_a_training_that_was_stopped_ends_with_the_weights_that_it_would_have(
    first_form, storage, monkeypatch
):
    # The losses' numbers were the model's and are the recipe's; this model had fewer points than that.
    recipe = RECIPES["tiny"]
    fewer_points = recipe.losses.model_copy(update={"points": 256})
    monkeypatch.setitem(RECIPES, "tiny", recipe.model_copy(update={"losses": fewer_points}))
    halfway = first_form / "halfway"
    assert [path.name for path in (halfway / "training" / "checkpoints").iterdir()] == ["step-00000002.pt"]
    parts = training_and_validation(SnapshotSource(storage, load(storage, 1, FIRST), "train"))
    steps = []

    class Steps:
        def stepped(self, progress):
            steps.append(progress.step)

        def started(self, *_arguments):
            pass

        stored = finished = failed = started

    base = str(first_form / "base.safetensors")
    outcome = finetune(base, Snapshot(*parts), HALFWAY, halfway, watchers=[Steps()], workers=0)
    assert steps == [3, 4, 5, 6] and outcome.steps == 6
    recorded = first_form / "resumed.safetensors"
    assert _weights_digest(recorded) == EXPECTED["resumed"]
    # Kernels of other processors sum in another order: by 1.4e-6 here, where the run moves weights by up to
    # 4e-3. On the machine that wrote them the weights are the same bit for bit.
    ours, theirs = _weights(halfway / "training" / "model.safetensors"), _weights(recorded)
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-5, msg=name)


@pytest.fixture
def connection(first_form, tmp_path_factory):
    """Give a Redis that holds what the old one held."""
    folder = tmp_path_factory.mktemp("redis")  # a socket's path must be short
    redis = Redis.from_url(embedded_redis(folder))
    text = (WRITTEN / "redis.json").read_text().replace(EXPECTED["root"], str(first_form))
    for key, found in json.loads(text).items():
        _put(redis, key, found["type"], found["value"])
    yield redis
    redis.close()
    stop_embedded_redis(folder)


def _put(redis, key, kind, value):
    if kind == "string":
        redis.set(key, value)
    elif kind == "hash":
        redis.hset(key, mapping={name: _plain(each) for name, each in value.items()})
    elif kind == "zset":
        redis.zadd(key, dict(value))
    else:
        {"set": redis.sadd, "list": redis.rpush}[kind](key, *value)


def _plain(value):
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


def test_what_the_loop_remembers_of_projects_is_there(settings, connection):
    assert known_projects(connection, settings) == [1, 7]
    project = Project(connection, 1)
    assert project.trained == FIRST
    assert project.training in EXPECTED["jobs"] and project.training.startswith("train-1-")
    assert project.has_news
    assert project.seconds_until_quiet(settings) == 0.0, "a training was ordered"
    assert project.begin_reading() == (5, True)
    assert project.request_round(0.0) == "snapshot-1-1", "which waits already"
    project.covered(5, forced=True)
    assert not project.has_news and project.begin_reading() == (5, False)
    assert not Project(connection, 7).has_news
    require_the_services_model(connection, settings)
    with pytest.raises(ConfigError, match="the service serves .*base.safetensors"):
        require_the_services_model(connection, settings.model_copy(update={"model": "ebseg-tiny"}))


def test_jobs_that_wait_can_be_done(connection):
    for job_id, (function, arguments) in EXPECTED["jobs"].items():
        job = find(connection, job_id)
        assert (job.func_name, list(job.args)) == (function, arguments)
        assert callable(job.func)
