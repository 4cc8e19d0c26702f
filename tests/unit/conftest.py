"""For the unit tests. PyTorch and MLflow are imported by the tests that want them: it takes seconds."""

import atexit
import functools
import gc
import itertools
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebseg.config import RECIPES
from ebseg.vocabulary import Vocabulary
from tests.unit.shallow import SHALLOW

if TYPE_CHECKING:
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
