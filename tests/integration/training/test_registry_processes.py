import os
import subprocess
import sys

from ebseg.runs.mlflow_store import ENVIRONMENT
from tests.integration.training.test_registry import champion_of, model_file
from training.registry.registry import Registry
from training.settings import Settings

__all__ = ["model_file"]

AT_ONCE = """
import gc, os, sys
from pathlib import Path
import ebseg.loading, mlflow.tracking
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
from ebseg.runs.mlflow_store import connect, disconnect
from training.registry.registry import Registry
from training.settings import load_settings

file, *keys = sys.argv[1:]
gc.freeze()  # so that the copies need not copy what they share
for key in keys:
    if os.fork():
        continue
    disconnect(connect(load_settings().tracking_uri))
    registry = Registry(load_settings())
    base = registry.ensure_base()
    own = registry.register(Path(file), key=key, run_id=None, tags={})
    for number in range(5):
        registry.promote(own, f"{key} {number}")
    print(base.number, own.number, flush=True)
    break
else:
    for _ in keys:
        os.wait()
gc.collect()  # what was left open is told
os._exit(0)
"""


def test_processes_that_start_at_once_share_one_database(tmp_path, model_file):
    """They start as copies of one, which has imported what takes longest."""
    environment = {**os.environ, **ENVIRONMENT, "EBSEG_HOME": str(tmp_path / "home")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", AT_ONCE, str(model_file()), "one", "two"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stderr == ""
    assert sorted(line.split() for line in done.stdout.splitlines()) == [["1", "2"], ["1", "3"]]
    registry = Registry(Settings(home=tmp_path / "home"))
    assert [version.number for version in registry.versions()] == [1, 2, 3]
    history = registry.history()
    assert history[-1]["version"] == champion_of(registry)
    for one, other in zip(history, history[1:], strict=False):
        assert one["version"] != other["version"] and other["before"] == [*one["before"], one["version"]]
