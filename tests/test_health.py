"""python -m shared_sync.health, alone in its own process, on a Redis that comes and goes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis
from helpers import Gate, ask, eventually, health_command

from shared_sync import RedisStreamConsumer, RedisStreamProducer
from shared_sync._embedded import EmbeddedRedis

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts the command and returns its address."""
    with ExitStack() as stack:

        def start(*arguments: str, env: dict[str, str] | None = None) -> str:
            return stack.enter_context(health_command(*arguments, env=env))

        yield start


def test_it_tells_the_figures_of_a_stream_and_group(
    serve: Serve, redis_url: str, client: redis.Redis
) -> None:
    hold = Gate()
    with RedisStreamProducer(redis_url, "jobs") as producer:
        producer.publish_many({"n": n} for n in range(5))
    with RedisStreamConsumer(redis_url, "jobs", "workers", "w1", None, hold):
        assert hold.entered.wait(10)
        url = serve(
            "--port", "0", "--redis-url", redis_url, "--stream", "jobs", "--group", "workers"
        )
        status, health = ask(f"{url}/health")
        assert (status, health["status"]) == (200, "healthy")
        expected = {
            "redis_connected": True,
            "stream": "jobs",
            "group": "workers",
            "consumers_alive": 1,
            "queue_depth": 5,
            "queue_waiting": 4,
            "jobs_pending": 1,
            "jobs_parked": 0,
            "dead_letters": 0,
        }
        assert health.items() >= expected.items()
        _, metrics = ask(f"{url}/metrics")
        assert metrics["queue_depth"] == 5
        hold.opened.set()
        eventually(lambda: ask(f"{url}/health")[1]["queue_depth"] == 0)


def test_a_group_that_does_not_exist_is_degraded_and_says_what_creates_it(
    serve: Serve, redis_url: str
) -> None:
    url = serve("--port", "0", "--redis-url", redis_url, "--stream", "jobs", "--group", "none")
    status, health = ask(f"{url}/health")
    assert (status, health["status"]) == (200, "degraded")
    assert "the first worker creates it" in health["reasons"][0]


def test_it_sees_redis_go_and_come_back(serve: Serve, own_server: EmbeddedRedis) -> None:
    url = serve("--port", "0", "--redis-url", own_server.url)
    assert ask(f"{url}/health")[0] == 200
    own_server.kill()
    eventually(lambda: ask(f"{url}/health")[0] == 500)
    assert ask(f"{url}/health")[1]["redis_connected"] is False
    own_server.start()
    eventually(lambda: ask(f"{url}/health")[0] == 200)


def test_the_environment_gives_redis_and_port(serve: Serve, redis_url: str) -> None:
    url = serve("--instance-id", "h1", env={"REDIS_URL": redis_url, "HEALTH_PORT": "0"})
    status, health = ask(f"{url}/health")
    assert status == 200
    assert health["instance_id"] == "h1"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--port", "70000"], "0 to 65535"),
        (["--port", "0", "--stream", "jobs"], "--group"),
        (["--port", "0", "--redis-url", "http://x"], "redis://host:port/db"),
    ],
)
def test_what_cannot_work_is_one_line_with_the_remedy(arguments: list[str], remedy: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shared_sync.health", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert remedy in done.stderr
    assert len(done.stderr.splitlines()) == 1
