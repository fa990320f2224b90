"""python -m shared_sync.health serve, alone in its own process, on a Redis that comes and goes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import ENVIRONMENT, Gate, ask, eventually, free_port, health_command, start_program

from shared_sync import RedisStreamConsumer, RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.health import main

Serve = Callable[..., str]


def where(redis_url: str) -> tuple[str, ...]:
    return ("--port", "0", "--redis-url", redis_url, "--stream", "jobs", "--group", "workers")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "shared_sync.health", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=ENVIRONMENT,
    )


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts the command and returns its address."""
    with ExitStack() as stack:

        def start(*arguments: str, env: dict[str, str] | None = None) -> str:
            return stack.enter_context(health_command(*arguments, env=env))

        yield start


def test_it_shows_the_metrics_of_a_stream_and_group(
    serve: Serve, redis_url: str, client: redis.Redis
) -> None:
    hold = Gate()
    with RedisStreamProducer(redis_url, "jobs") as producer:
        producer.publish_many({"n": n} for n in range(5))
    with RedisStreamConsumer(redis_url, "jobs", "workers", "w1", None, hold):
        assert hold.entered.wait(10)
        url = serve(*where(redis_url))
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


def test_the_page_acts_only_if_it_is_told_so_and_with_a_token(
    serve: Serve, redis_url: str, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    client.xadd("{jobs}:workers:dead", {"n": 1, "dead.id": "1-1"})
    url = serve(*where(redis_url), "--actions", env={"HEALTH_TOKEN": "f8a1"})
    headers = {"Authorization": "Bearer f8a1", "Content-Type": "application/json", "Origin": url}
    request = urllib.request.Request(f"{url}/actions/causes", b"{}", headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["total"] == 1
    assert main([*where(redis_url), "--actions"]) == 2
    assert "--actions needs a token, or everybody" in capsys.readouterr().err
    assert main(["serve", "--port", "0", "--actions"]) == 2
    assert "--actions needs --stream and --group" in capsys.readouterr().err


def test_a_group_that_does_not_exist_is_degraded_and_says_what_creates_it(
    serve: Serve, redis_url: str
) -> None:
    url = serve(*where(redis_url))
    status, health = ask(f"{url}/health")
    assert (status, health["status"]) == (200, "degraded")
    assert health["checks"]["group"]["status"] == "degraded"
    assert any("the first worker creates it" in reason for reason in health["reasons"])
    assert ask(f"{url}/health/ready")[0] == 200
    with RedisStreamConsumer(redis_url, "jobs", "workers", "w1", None, print):
        eventually(lambda: ask(f"{url}/health")[1]["status"] == "healthy")


def test_a_group_without_a_live_consumer_is_unhealthy_while_messages_wait(
    serve: Serve, redis_url: str, client: redis.Redis
) -> None:
    client.xgroup_create("jobs", "workers", id="0", mkstream=True)
    for n in range(3):
        client.xadd("jobs", {"n": n})
    url = serve(*where(redis_url))
    status, health = ask(f"{url}/health")
    assert (status, health["status"]) == (500, "unhealthy")
    (reason,) = health["reasons"]
    assert reason.startswith("group: no consumer of group workers is alive, and 3 messages wait")
    assert ask(f"{url}/health/ready")[0] == 200
    answer = command("check", url)
    assert answer.returncode == 1
    assert "unhealthy" in answer.stdout
    assert "start a worker" in answer.stdout
    with RedisStreamConsumer(redis_url, "jobs", "workers", "w1", None, lambda *_: None):
        eventually(lambda: ask(f"{url}/health")[1]["status"] == "healthy")


@pytest.mark.parametrize("option", ["--max-wait-seconds", "--growth-seconds", "--max-dead-share"])
def test_a_limit_that_is_no_number_is_refused_and_named(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", option, "-1"]) == 2
    assert f"{option} must be a number from 0 to" in capsys.readouterr().err


def test_it_notices_redis_go_and_come_back_and_lives_through_it(
    serve: Serve, own_server: EmbeddedRedis
) -> None:
    url = serve(*where(own_server.url))
    eventually(lambda: ask(f"{url}/health/ready")[0] == 200)
    own_server.kill()
    eventually(lambda: ask(f"{url}/health")[0] == 500)
    eventually(lambda: ask(f"{url}/health/ready")[0] == 503)
    eventually(lambda: "redis: Redis does not answer" in ask(f"{url}/health")[1]["reasons"])
    health = ask(f"{url}/health")[1]
    assert health["redis_connected"] is False
    assert health["queue_depth"] is health["consumers_alive"] is None
    assert str(own_server.port) not in str(health)
    assert ask(f"{url}/health/live")[0] == 200
    own_server.start()
    eventually(lambda: ask(f"{url}/health/ready")[0] == 200)


def test_it_starts_beside_a_redis_that_is_away(serve: Serve) -> None:
    url = serve(*where(f"redis://127.0.0.1:{free_port()}/0"))
    eventually(lambda: "Redis has never answered" in str(ask(f"{url}/health")[1]))
    assert ask(f"{url}/health/live")[0] == 200


def test_the_log_can_be_json(redis_url: str) -> None:
    process = start_program(
        [sys.executable, "-m", "shared_sync", "health", "serve", "--json", *where(redis_url)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    messages = (json.loads(line)["message"] for line in process.stderr)
    assert any(message.startswith("serving http://") for message in messages)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_the_environment_gives_redis_and_port(serve: Serve, redis_url: str) -> None:
    url = serve("--instance-id", "h1", env={"REDIS_URL": redis_url, "HEALTH_PORT": "0"})
    status, health = ask(f"{url}/health")
    assert status == 200
    assert health["instance_id"] == "h1"
    assert "group" not in health["checks"]


def test_the_dashboard_has_the_whole_group(
    serve: Serve, redis_url: str, client: redis.Redis
) -> None:
    hold = Gate()
    with (
        RedisStreamProducer(redis_url, "jobs") as producer,
        RedisStreamConsumer(redis_url, "jobs", "workers", "w1", None, hold),
    ):
        producer.publish({"n": 1})
        assert hold.entered.wait(10)
        url = serve("serve", *where(redis_url))

        def group() -> dict[str, Any]:
            return ask(f"{url}/api/state")[1]["views"]["group"]["data"] or {}

        eventually(lambda: group().get("consumers_total") == 1)
        (consumer,) = group()["consumers"]
        assert (consumer["name"], consumer["present"], consumer["pending"]) == ("w1", True, 1)
        assert group()["dead_letters"] == group()["parked"] == []
        assert group()["status"]["health"] == "healthy"
        assert [one["state"] for one in group()["status"]["consumers"]] == ["live"]
        hold.opened.set()


def test_a_user_that_is_refused_is_not_mistaken_for_a_redis_that_is_away(
    own_server: EmbeddedRedis, serve: Serve
) -> None:
    url = serve(*where(own_server.url.replace("redis://", "redis://viewer:s3cret@")))
    health = ask(f"{url}/health")[1]
    assert "Redis refuses this user" in str(health["reasons"])
    assert "s3cret" not in str(health)


def test_the_token_guards_the_page_and_is_taken_from_the_environment_or_a_file(
    serve: Serve, redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    for url in (
        serve(*where(redis_url), "--token-file", str(file)),
        serve(*where(redis_url), env=os.environ | {"HEALTH_TOKEN": "s3cret"}),
    ):
        assert ask(f"{url}/health")[0] == 401
        assert ask(f"{url}/health/live")[0] == 200
        assert main(["check", url, "--token-file", str(file)]) == 0
        assert main(["check", url, "--ready"]) == 0


def test_who_may_read_the_answers_from_elsewhere_can_be_chosen(
    serve: Serve, redis_url: str
) -> None:
    def allowed(*options: str) -> str | None:
        with urllib.request.urlopen(f"{serve(*where(redis_url), *options)}/health") as answer:
            return str(answer.headers["Access-Control-Allow-Origin"])

    assert allowed("--cors", "https://a.example") == "https://a.example"
    assert allowed("--cors", "*, https://a.example") == "*"
    assert allowed("--cors", "none") == "None"


def test_the_page_is_served_under_the_names_of_an_option_or_of_the_environment(
    serve: Serve, redis_url: str
) -> None:
    for url in (
        serve(*where(redis_url), "--allowed-hosts", "a.example, stt.example"),
        serve(*where(redis_url), env=os.environ | {"HEALTH_ALLOWED_HOSTS": "*.example"}),
    ):
        assert answered_under("stt.example", url) == 200
        assert answered_under("stt.example.org", url) == 421


def answered_under(name: str, url: str) -> int:
    address = url.removeprefix("http://")
    with closing(http.client.HTTPConnection(address, timeout=10)) as client:
        client.request("GET", "/api/state", headers={"Host": name})
        return client.getresponse().status


# --- mistakes -----------------------------------------------------------------------------------


MISTAKES = [
    (["--port", "70000"], "0 to 65535"),
    (["serve", "--port", "many"], "from 0 to 65535"),
    (["--port", "tcp://10.0.0.1:80"], "address of the Service"),
    (["--port", "0", "--stream", "jobs"], "--group"),
    (["--port", "0", "--group", "workers"], "--stream"),
    (["--port", "0", "--redis-url", "http://x"], "redis://host:port/db"),
    (["--port", "0", "--token-file", "/nowhere/x"], "No such file"),
    (["--port", "0", "--cors", ""], "origin"),
    (["--port", "0", "--allowed-hosts", "https://a.example"], "without scheme and port"),
    (["chek"], "did you mean check?"),
    (["probe"], "serve, check and advise"),
    (["--token", "s3cret"], "HEALTH_TOKEN or --token-file"),
    (["--redis", "redis://localhost"], "--help"),
]


@pytest.mark.parametrize(("arguments", "remedy"), MISTAKES)
def test_what_cannot_work_is_one_line_with_the_remedy(
    arguments: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    _, error = capsys.readouterr()
    assert remedy in error
    assert len(error.splitlines()) == 1
    assert "s3cret" not in error


def test_a_port_that_is_taken_is_reported_with_the_remedy(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = command("--host", "127.0.0.1", "--port", port, "--redis-url", redis_url)
    assert done.returncode == 1
    assert "the port is taken" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["serve", "check", "advise"])
def test_each_command_lists_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main([name, "--help"])
    text, _ = capsys.readouterr()
    assert "--port" in text or "--timeout" in text
    assert name in text


FROZEN_SECONDS = 7.0
"""Longer than values count as those of now."""


def test_after_it_was_frozen_no_value_grows_faster_than_it_did(
    redis_url: str, client: redis.Redis
) -> None:
    client.xgroup_create("jobs", "workers", id="0", mkstream=True)
    process = start_program(
        [sys.executable, "-m", "shared_sync.health", *where(redis_url), "--host", "127.0.0.1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        found = (re.search(r"serving (http://\S+)/health", line) for line in process.stderr)
        url = next(filter(None, found))[1]

        def samples() -> list[tuple[float, float | None]]:
            read = ask(f"{url}/api/history?figure=dead_letters")[1]
            return list(zip(read["times"], read["figures"].get("dead_letters", ()), strict=False))

        eventually(lambda: len(samples()) >= 1)
        process.send_signal(signal.SIGSTOP)
        for n in range(1000):
            client.xadd("{jobs}:workers:dead", {"n": n})
        threading.Event().wait(FROZEN_SECONDS)
        process.send_signal(signal.SIGCONT)
        eventually(lambda: samples()[-1][1] == 1000, within=30)
        growths = [
            (after - before, at - earlier)
            for (earlier, before), (at, after) in pairwise(samples())
            if before is not None and after is not None
        ]
        assert all(grown == 0 or seconds >= FROZEN_SECONDS for grown, seconds in growths), growths
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.communicate(timeout=20)
