"""Closing the terminal drains a worker, unless its program has another use for SIGHUP."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest
import redis
from consumers import owners
from helpers import eventually, start_program

from shared_sync import RedisStreamProducer
from shared_sync.redis_consumer import signals

WORKER = """
    import sys, threading
    from shared_sync import RedisStreamConsumer

    def processor(message_id, job):
        print("runs", flush=True)
        threading.Event().wait()

    RedisStreamConsumer(
        sys.argv[1], "jobs", "workers", "w", None, processor, drain_seconds=0.2
    ).start_consuming()
"""


def test_closing_the_terminal_drains(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    command = [sys.executable, "-c", textwrap.dedent(WORKER), redis_url]
    with start_program(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "runs\n"
        worker.send_signal(signal.SIGHUP)
        try:
            assert worker.wait(30) == 0
        finally:
            worker.kill()
    assert owners(client) == {"~parked": 1}


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_a_hangup_that_the_program_ignores_or_handles_is_left_to_it(handler: object) -> None:
    before = signal.signal(signal.SIGHUP, handler)  # type: ignore[arg-type]
    try:
        with signals.caught() as received:
            signal.raise_signal(signal.SIGHUP)
            assert received.empty()
            assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def _hangup_counts() -> Iterator[None]:
    """Also where pytest was started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_hangup_counts")
def test_the_handlers_of_before_are_there_again_afterwards() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with signals.caught() as received:
        for number in numbers:
            signal.raise_signal(number)
        eventually(lambda: received.qsize() == len(numbers))
    assert [signal.getsignal(number) for number in numbers] == before


def test_outside_of_the_main_thread_no_signal_is_caught() -> None:
    seen: list[object] = []

    def look() -> None:
        with signals.caught():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)
    assert seen == [before]
