"""Programs whose processors run in children: where the processor is defined, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import psutil
import pytest
import redis
from consumers import pending, results
from helpers import eventually, start_program

from shared_sync import RedisStreamProducer

WORKER = """
    import sys
    from shared_sync import RedisStreamConsumer, current_message

    FACTOR = 2

    def process(message_id, job):
        assert current_message().id == message_id
        return str(int(job["n"]) * FACTOR) + __name__

    consumer = RedisStreamConsumer(
        sys.argv[1], "jobs", "workers", "w", None, process,
        isolation="process", result_stream="results",
    )
    {start}
"""
GUARDED = 'if __name__ == "__main__":\n        consumer.start_consuming()'


def write(folder: Path, name: str, start: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(WORKER).replace("{start}", textwrap.dedent(start)))
    return path


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["worker.py"], "__mp_main__"),
        (["-m", "speech.worker"], "speech.worker"),
        (["worker.zip"], "__mp_main__"),
    ],
)
def test_a_processor_may_be_defined_in_the_main_module(
    redis_url: str,
    producer: RedisStreamProducer,
    client: redis.Redis,
    tmp_path: Path,
    command: list[str],
    name: str,
) -> None:
    write(tmp_path, "worker.py", GUARDED.replace("        ", "    "))
    write(tmp_path, "speech/worker.py", GUARDED.replace("        ", "    "))
    with ZipFile(tmp_path / "worker.zip", "w") as packed:
        packed.write(tmp_path / "worker.py", "__main__.py")
    producer.publish({"n": 21})
    with start_program([sys.executable, *command, redis_url], cwd=tmp_path) as program:
        eventually(lambda: client.xlen("results") == 1)
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
    assert results(client)[0]["result"] == f"42{name}"


def test_a_program_that_starts_when_it_is_imported_is_told_what_to_do(
    redis_url: str, tmp_path: Path
) -> None:
    """Each child would import it, and start another consumer with a child of its own."""
    path = write(tmp_path, "worker.py", "consumer.start_consuming()")
    ended = subprocess.run(
        [sys.executable, path, redis_url], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert 'put the start below if __name__ == "__main__":' in ended.stderr.replace("\n", " ")
    assert "ConsumerStateError" in ended.stderr


EXITING = """
    import sys, threading
    import child_processors
    from shared_sync import RedisStreamConsumer

    if __name__ == "__main__":
        consumer = RedisStreamConsumer(
            sys.argv[1], "jobs", "workers", "w", None, None,
            processor_factory=child_processors.closing, isolation="process", threads=2,
            result_stream="results",
        )
        consumer.start()
        print("started", flush=True)
        sys.stdin.readline()
        {end}
"""


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "import os; os._exit(4)"])
def test_no_child_outlives_a_program_however_it_ends(
    redis_url: str, tmp_path: Path, end: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with start_program(
        [sys.executable, "-c", textwrap.dedent(EXITING).replace("{end}", end), redis_url],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "started\n"
        children = psutil.Process(program.pid).children()
        assert len(children) == 2
        program.communicate("\n", timeout=20)
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == []
    assert program.returncode == (3 if "SystemExit" in end else 4)


def test_processors_are_closed_when_a_program_ends(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "CLOSED": str(closed),
    }
    producer.publish({"n": 1})
    with start_program(
        [sys.executable, "-c", textwrap.dedent(EXITING).replace("{end}", "pass"), redis_url],
        env=environment,
        stdin=subprocess.PIPE,
        text=True,
    ) as program:
        eventually(lambda: client.xlen("results") == 1)
        program.communicate("\n", timeout=20)
    assert closed.exists()
    assert pending(client) == 0


FOUR = """
import sys
import child_processors
from shared_sync import RedisStreamConsumer
if __name__ == "__main__":
    url, name = sys.argv[1:]
    RedisStreamConsumer(
        url, "jobs", "workers", name, None, child_processors.act,
        isolation="process", threads=4, result_stream="results", lease_seconds=1,
    ).start_consuming()
"""


@contextmanager
def worker(redis_url: str, name: str) -> Iterator[Any]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", FOUR, redis_url, name]
    with start_program(command, env=environment) as program:
        try:
            yield program
        finally:
            program.kill()


def test_a_parent_that_is_killed_takes_its_children_along(
    redis_url: str,
    producer: RedisStreamProducer,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    end = tmp_path / "end"
    started = [tmp_path / str(number) for number in range(4)]
    with worker(redis_url, "killed") as program:
        producer.publish_many(
            [{"do": "hold for ever", "started": str(one)} for one in started[:2]]
            + [{"do": "wait", "started": str(one), "end": str(end)} for one in started[2:]]
        )
        eventually(lambda: all(one.exists() for one in started))
        left = psutil.Process(program.pid).children()
        assert len(left) == 4
        program.kill()
        _, alive = psutil.wait_procs(left, timeout=5)
        assert alive == []


def test_a_signal_to_everything_of_a_worker_lets_what_runs_finish(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis, tmp_path: Path
) -> None:
    started, end = tmp_path / "started", tmp_path / "end"
    with worker(redis_url, "drained") as program:
        producer.publish({"do": "wait", "started": str(started), "end": str(end)})
        eventually(started.exists)
        for child in psutil.Process(program.pid).children():
            child.send_signal(signal.SIGTERM)
            child.send_signal(signal.SIGINT)
        program.send_signal(signal.SIGTERM)
        end.touch()
        assert program.wait(20) == 0
    assert [one["result"] for one in results(client)] == ["waited"]
    assert pending(client) == 0
