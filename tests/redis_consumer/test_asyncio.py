"""The programs in docs/configuration.md that embed a consumer in asyncio end at a signal."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from consumers import Make, owners, results
from helpers import eventually, start_program

from shared_sync import RedisStreamProducer

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
(SECTION,) = re.findall(r"^#### In asyncio\n(.*?)^#### ", PAGE, re.MULTILINE | re.DOTALL)
RUNNING, LIFESPAN = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
CONSUMER = textwrap.dedent("""
    import sys, threading
    from shared_sync import RedisStreamConsumer

    def processor(message_id, job):
        print("runs", flush=True)
        while consumer.state != "draining":
            threading.Event().wait(0.01)
        print("drains", flush=True)
        if job["act"] == "finish":
            return {"done": 1}
        threading.Event().wait()

    consumer = RedisStreamConsumer(
        sys.argv[1], "jobs", "workers", "w", None, processor,
        result_stream="results", drain_seconds=600,
    )
""")
SERVER = """
async def serve():
    async with lifespan(None):
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(serve())
"""


@contextmanager
def program(text: str, url: str) -> Iterator[subprocess.Popen[str]]:
    with start_program(
        [sys.executable, "-c", text, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        limit = threading.Timer(60, started.kill)  # so that a test which fails does not hang
        limit.start()
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "runs\n"
            yield started
        finally:
            limit.cancel()
            started.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_ends_the_documented_program(
    number: signal.Signals, redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"act": "finish"})
    with program(CONSUMER + RUNNING, redis_url) as embedded:
        embedded.send_signal(number)
        _, errors = embedded.communicate(timeout=30)
    assert (embedded.returncode, errors) == (0, "")
    assert [result["done"] for result in results(client)] == ["1"]
    assert not client.exists("{jobs}:workers:holders")


def test_a_second_signal_hands_back_at_once(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"act": "hang"})
    with program(CONSUMER + RUNNING, redis_url) as embedded:
        assert embedded.stdout is not None
        embedded.send_signal(signal.SIGINT)
        assert embedded.stdout.readline() == "drains\n"
        embedded.send_signal(signal.SIGINT)
        _, errors = embedded.communicate(timeout=30)
    assert (embedded.returncode, errors) == (0, "")
    assert owners(client) == {"~parked": 1}


def test_the_documented_lifespan_drains_at_its_end(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"act": "finish"})
    text = f"import asyncio, contextlib\n{CONSUMER}{LIFESPAN}{SERVER}"
    with program(text, redis_url) as embedded:
        _, errors = embedded.communicate("end\n", timeout=30)
    assert (embedded.returncode, errors) == (0, "")
    assert [result["done"] for result in results(client)] == ["1"]


def test_the_log_says_that_no_signal_stops_a_consumer_outside_of_the_main_thread(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    consumer = make(lambda *_: None)
    runner = threading.Thread(target=consumer.start_consuming)
    runner.start()
    eventually(lambda: consumer.state == "running")
    consumer.stop()
    runner.join(10)
    assert "no signal stops this consumer" in caplog.text
    assert "no signal stops this consumer" in " ".join(SECTION.split())
