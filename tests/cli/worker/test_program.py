"""`shared-sync worker` as a program: it processes messages, serves its health, and drains."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from helpers import eventually, start_program

from shared_sync import RedisStreamProducer

PROCESSOR = """
import time

def upper(message_id, job):
    time.sleep(0.002)
    return {"text": job["text"].upper()}

class Exclaim:
    def __init__(self, context):
        context.metrics.set_gauge("model_replicas", 1)

    def process_batch(self, messages):
        return [{"text": message.fields["text"] + "!"} for message in messages]
"""


@contextmanager
def worker(folder: Path, url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command, started in a folder with the processor; its log is in `worker.log` there."""
    (folder / "app.py").write_text(PROCESSOR)
    command = [sys.executable, "-m", "shared_sync", "worker", *options, "--redis-url", url]
    names = ["--stream", "jobs", "--group", "app", "--host", "127.0.0.1"]
    with open(folder / "worker.log", "a") as log:
        process = start_program([*command, *names], cwd=folder, stderr=log, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def address(folder: Path) -> str:
    """Where the newest health server in the log listens."""
    found: list[str] = []

    def is_there() -> bool:
        log = (folder / "worker.log").read_text()
        found[:] = re.findall(r"dashboard at (http\S+)", log)
        return bool(found)

    eventually(is_there, within=30)
    return found[-1]


def test_a_worker_drains_at_sigterm_and_another_goes_on(
    tmp_path: Path, redis_url: str, client: redis.Redis
) -> None:
    with RedisStreamProducer(redis_url, "jobs") as producer:
        producer.publish_many({"text": f"n{number}"} for number in range(1000))
    options = ("app:upper", "--result-stream", "results", "--threads", "2", "--health-port", "0")
    with worker(tmp_path, redis_url, *options) as process:
        eventually(lambda: client.xlen("results") > 0, within=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert {one["name"] for one in client.xinfo_consumers("jobs", "app")} <= {b"~parked"}
    assert client.xlen("results") < 1000
    with worker(tmp_path, redis_url, *options) as process:
        eventually(lambda: client.xlen("results") == 1000, within=60)
        with urllib.request.urlopen(f"{address(tmp_path)}/health") as answer:
            health = json.load(answer)
        assert health["status"] == "healthy"
        assert health["instance_id"].startswith("app-")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    texts = {fields[b"text"] for _, fields in client.xrange("results")}
    assert texts == {b"N%d" % number for number in range(1000)}


def test_a_class_runs_batches_in_child_processes(
    tmp_path: Path, redis_url: str, client: redis.Redis
) -> None:
    with RedisStreamProducer(redis_url, "jobs") as producer:
        producer.publish_many({"text": f"n{number}"} for number in range(20))
    options = ("--batch", "8", "--isolation", "process", "--log-format", "json")
    with worker(
        tmp_path, redis_url, "app:Exclaim", "--result-stream", "results", *options
    ) as process:
        eventually(lambda: client.xlen("results") == 20, within=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    lines = (tmp_path / "worker.log").read_text().splitlines()
    assert "isolation=process (--isolation)" in json.loads(lines[0])["message"]


def test_a_name_that_only_a_child_finds_missing_is_a_mistake_of_the_configuration(
    tmp_path: Path, redis_url: str
) -> None:
    options = ("--isolation", "process", "--health-port", "none")
    with worker(tmp_path, redis_url, "app:uper", *options) as process:
        assert process.wait(30) == 2
    assert "has no attribute 'uper'" in (tmp_path / "worker.log").read_text()
