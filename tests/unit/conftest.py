from pathlib import Path

import pytest
import torch

from ebseg.checkpoint import save_checkpoint
from ebseg.config import TINY
from ebseg.model import EBSeg
from ebseg.vocabulary import Vocabulary

# Threads gain nothing on models this small, and wait for each other for seconds on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the text embeddings of the person who runs them."""
    monkeypatch.setenv("EBSEG_CACHE_DIR", str(tmp_path / "cache"))


def _random_tiny() -> EBSeg:
    torch.manual_seed(0)
    net = EBSeg(TINY.model_copy(update={"test_size": 64, "test_max_size": 160}))
    net.training_vocabulary = Vocabulary(["sky", "road"])
    return net


@pytest.fixture
def random_tiny() -> EBSeg:
    """Make TINY with random weights, for small photos; by its own account it knows sky and road."""
    return _random_tiny()


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save such a model; return the file."""
    path = tmp_path_factory.mktemp("checkpoints") / "random.safetensors"
    save_checkpoint(_random_tiny(), path, dtype=torch.float16)
    return path
