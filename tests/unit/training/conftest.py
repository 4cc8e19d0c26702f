from collections.abc import Iterator

import pytest
import redis

from training.queue.embedded_redis import embedded_redis, stop_embedded_redis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start one embedded Redis for all tests; each begins with an empty one (see ``connection``)."""
    folder = tmp_path_factory.mktemp("redis")
    yield embedded_redis(folder)
    stop_embedded_redis(folder)


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    connection = redis.Redis.from_url(redis_url)
    connection.flushall()
    yield connection
    connection.close()
