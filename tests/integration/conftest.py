import functools
import gc
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebseg.runs.mlflow_store import ENVIRONMENT, connect, default_tracking_uri, disconnect
from tests.unit.conftest import random_checkpoint, random_tiny, small_crops

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["random_checkpoint", "random_tiny", "small_crops"]


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests, and what they start, away from the text embeddings of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EBSEG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the registry in its home, and MLflow quiet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)


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
    gc.freeze()  # MLflow's modules last as long as the tests: the collector need not go through them
    # For each database that it opens, MLflow would read all its migrations anew to know the newest.
    from mlflow.store.db import utils
    from mlflow.tracking import MlflowClient

    # Before each tag and alias it reads the whole model, to find that ours is no prompt.
    MlflowClient._raise_if_prompt = lambda self, name: None
    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    utils.create_sqlalchemy_engine = _quicker(utils.create_sqlalchemy_engine)
    return root / "mlflow.db"
