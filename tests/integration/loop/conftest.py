import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import redis

from tests.integration.loop.loop_world import World, put_in_place, write_model
from tests.unit.training.conftest import connection, redis_url
from training.registry.registry import Registry
from training.settings import Settings

__all__ = ["connection", "redis_url"]


@pytest.fixture(scope="session")
def home_with_base(mlflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home whose registry has ``base-0`` for its base, to be copied."""
    home = tmp_path_factory.mktemp("base") / "home"
    home.mkdir()
    shutil.copy(mlflow_database, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Registry(Settings(home=home, model=str(write_model(home / "files", "base-0")))).ensure_base()
    return home


@pytest.fixture
def world(
    connection: redis.Redis,
    home_with_base: Path,
    tmp_path: Path,
    mlflow_environment: None,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """Make the learning loop around a project of Label Studio's, in this process."""
    home = copy_home(home_with_base, tmp_path / "home")
    world = World(home, connection, home_with_base / "files" / "base-0.safetensors")
    put_in_place(world, monkeypatch)
    return world


def copy_home(made: Path, home: Path) -> Path:
    """Copy a home with what its registry holds: MLflow's database names files by their whole addresses."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # it remembers where a run's files are, in the home that was copied
    shutil.copytree(made, home)
    with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            database.execute(moved, (made.as_uri(), home.as_uri()))
    return home
