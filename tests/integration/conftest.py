from collections.abc import Iterator

import pytest

from tests.unit.conftest import mlflow_database, random_checkpoint, random_tiny, small_crops

__all__ = ["mlflow_database", "random_checkpoint", "random_tiny", "small_crops"]


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests, and what they start, away from the text embeddings of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EBSEG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
