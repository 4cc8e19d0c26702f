"""For the unit tests. PyTorch and MLflow are imported by the tests that want them: it takes seconds."""

import atexit
import functools
import gc
import itertools
import os
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebseg.config import RECIPES
from ebseg.runs.mlflow_store import ENVIRONMENT, connect, default_tracking_uri, disconnect
from ebseg.vocabulary import Vocabulary
from tests.unit.shallow import SHALLOW

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ebseg.model import EBSeg

# Threads gain nothing on models this small, and wait for each other for seconds on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"

# Each client of HTTP reads all certificates of the machine's: 20 ms, some hundreds of times.
ssl.create_default_context = functools.cache(ssl.create_default_context)


# By default it looks after every 700 new objects, among which tests leave little garbage.
gc.set_threshold(100_000, 20, 20)
# What is frozen below: after pytest's own five collections, and before libraries tell what was never freed.
atexit.register(gc.unfreeze)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Spare the collector what lasts as long as the tests: it would go through all of it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Name a folder for whoever asks; most are never made."""
    root = tmp_path_factory.mktemp("tests")
    return (root / str(number) for number in itertools.count())


@pytest.fixture
def tmp_path(folders: Iterator[Path]) -> Path:
    """Make a folder; pytest's own fixture reads the names of all others first."""
    path = next(folders)
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def own_cache_folder(folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the text embeddings of the person who runs them."""
    monkeypatch.setenv("EBSEG_CACHE_DIR", str(next(folders)))


def _random_tiny() -> "EBSeg":
    import torch

    from ebseg.model import EBSeg

    torch.manual_seed(0)
    config = SHALLOW.model_copy(update={"test_size": 64, "test_max_size": 160})
    return EBSeg(config, training_vocabulary=Vocabulary(["sky", "road"]))


@pytest.fixture
def random_tiny() -> "EBSeg":
    """Make a small TINY with random weights, for small photos; by its own account it knows sky and road."""
    return _random_tiny()


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save such a model; return the file."""
    import torch

    from ebseg.checkpoint import save_checkpoint

    path = tmp_path_factory.mktemp("checkpoints") / "random.safetensors"
    save_checkpoint(_random_tiny(), path, dtype=torch.float16)
    return path


@pytest.fixture
def small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train TINY on crops that are a ninth of its recipe's."""
    small = RECIPES["tiny"].model_copy(update={"crop": 64, "short_edges": (64,)})
    monkeypatch.setitem(RECIPES, "tiny", small)


def _quicker(create: Callable[[str], "Engine"]) -> Callable[[str], "Engine"]:
    """Spare MLflow's SQLite databases what each would do anew; ``create`` is MLflow's own way to open one."""
    from sqlalchemy import event

    model = create("sqlite://")
    model.connect().close()  # it asks SQLite what it can do

    def opened(uri: str) -> "Engine":
        engine = create(uri)
        # A sixth of the time went to compiling the same statements for each.
        engine.dialect, engine._compiled_cache = model.dialect, model._compiled_cache
        event.listen(engine, "connect", _wait_for_no_disk)
        return engine

    return opened


def _wait_for_no_disk(connection: sqlite3.Connection, _record: object) -> None:
    """Forgo what keeps a database whole through a power failure, at each commit."""
    with suppress(sqlite3.DatabaseError):  # of a file that is none, which MLflow is to find out
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make MLflow's tables once, to be copied: it takes seconds."""
    root = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in ENVIRONMENT.items():
            patch.setenv(variable, value)
        disconnect(connect(default_tracking_uri(root)))
    gc.freeze()  # MLflow's modules, as above
    # For each database that it opens, MLflow would read all its migrations anew to know the newest.
    from mlflow.store.db import utils
    from mlflow.tracking import MlflowClient

    # Before each tag and alias it reads the whole model, to find that ours is no prompt.
    MlflowClient._raise_if_prompt = lambda self, name: None
    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    utils.create_sqlalchemy_engine = _quicker(utils.create_sqlalchemy_engine)
    return root / "mlflow.db"
