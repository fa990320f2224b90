"""The Redis users of the deployment have the rights that their programs need, and no others."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from helpers import eventually

from shared_sync import RedisStreamConsumer, RedisStreamProducer, WorkerMetrics, current_message
from shared_sync.cli.monitor import Monitor
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.protocol.keys import Keys

DEPLOY = Path(__file__).parents[2] / "deploy"
LOGGER = logging.getLogger("deploy")
SPEECH, TEXTS = "{speech}:audio", "{speech}:texts"


@pytest.fixture
def urls(redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The address of a Redis with these users, for each of them."""
    folder = tmp_path / "secrets"
    subprocess.run(["sh", DEPLOY / "make_secrets.sh", folder], capture_output=True, check=True)
    with EmbeddedRedis(redis_server.binary) as server:
        with redis.Redis.from_url(server.url, protocol=2) as admin:
            for line in reversed((folder / "users.acl").read_text().splitlines()):
                admin.execute_command("ACL", "SETUSER", *line.split()[1:])
        yield {
            name: (folder / f"{name}.env")
            .read_text()
            .strip()
            .removeprefix("REDIS_URL=")
            .replace("redis:6379", f"127.0.0.1:{server.port}")
            for name in ("gateway", "worker", "monitor")
        }


def transcribe(_: str, job: dict[str, str]) -> None:
    if job["audio"] == "broken":
        raise ValueError("broken")
    current_message().report_progress(0.5)
    current_message().emit(TEXTS, {"text": "hello"}, forward_reply=True)


def translate(_: str, job: dict[str, str]) -> dict[str, str]:
    return {"text": {"hello": "hola"}[job["text"]]}


def test_each_program_does_its_work_and_misses_no_right(
    urls: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with (
        RedisStreamConsumer(urls["worker"], SPEECH, "stt-workers", None, LOGGER, transcribe),
        RedisStreamConsumer(urls["worker"], TEXTS, "translators", None, LOGGER, translate),
        RedisStreamProducer(
            urls["gateway"], SPEECH, logger=LOGGER, max_queue_depth=100
        ) as producer,
    ):
        result = producer.request({"audio": "good"}, timeout=20)
        assert result.fields["text"] == "hola"
        producer.publish({"audio": "broken"})
        handle = producer.submit({"audio": "good"}, delay_seconds=60)
        assert str(handle.cancel()) == "scheduled"
        monitor = Monitor(
            urls["monitor"], Keys.of(SPEECH, "stt-workers"), WorkerMetrics("health"), LOGGER
        )
        eventually(lambda: monitor.inspect() or monitor.get_metrics_data()["consumers_alive"] == 1)
        assert monitor.group_view is not None
        assert "reasons" not in monitor.group_view.read()
    warnings = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert [
        text for text in warnings if "right" in text or "grant" in text or "NOPERM" in text
    ] == []


def test_a_user_of_one_kind_cannot_do_what_another_does(urls: dict[str, str]) -> None:
    forbidden = {
        "gateway": [("XREADGROUP", "GROUP", "g", "c", "STREAMS", SPEECH, ">"), ("FLUSHALL",)],
        "worker": [("CONFIG", "GET", "*"), ("KEYS", "*"), ("XADD", "other", "*", "a", "b")],
        "monitor": [("XADD", SPEECH, "*", "a", "b"), ("DEL", SPEECH), ("ACL", "LIST")],
    }
    for name, commands in forbidden.items():
        with redis.Redis.from_url(urls[name], protocol=2) as client:
            assert client.ping()
            for command in commands:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)
