from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.backend.conftest import checkpoint, label_studio, make_client, predictor, scenes, successor
from training.queue.embedded_redis import stop_embedded_redis

__all__ = ["checkpoint", "label_studio", "make_client", "predictor", "scenes", "successor"]


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of the learning loop, whose Redis ends with the test."""
    folder = tmp_path_factory.mktemp("home")
    yield folder
    stop_embedded_redis(folder / "redis")
