"""A pipe that nobody reads blocks the logger; signals are obeyed all the same."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from consumers import Make, owners
from helpers import BlockedHandler, Gate, eventually, start_program

from shared_sync import RedisStreamProducer

WORKER = """
    import fcntl, logging, os, sys, threading
    from shared_sync import RedisStreamConsumer
    from shared_sync.redis_consumer import at_exit

    at_exit.STUCK_SECONDS = 0.5

    def fill_the_pipe():
        flags = fcntl.fcntl(2, fcntl.F_GETFL)
        fcntl.fcntl(2, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        for size in (4096, 1):
            try:
                while True:
                    os.write(2, b"." * size)
            except BlockingIOError:
                pass
        fcntl.fcntl(2, fcntl.F_SETFL, flags)

    def processor(message_id, job):
        if job["act"] == "fill":
            fill_the_pipe()
        print(job["act"], flush=True)
        if job["act"] == "fail":
            raise ValueError
        if job["act"] == "run":
            while consumer.state != "draining":
                threading.Event().wait(0.01)
            print("drains", flush=True)
            threading.Event().wait()

    url, drain_seconds, begin = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    consumer = RedisStreamConsumer(
        url, "jobs", "workers", "w", None, processor,
        threads=2, prefetch=1, drain_seconds=float(drain_seconds), block_seconds=0.2,
    )
    if begin == "blocked":
        fill_the_pipe()
    consumer.start_consuming()
    print("returned", flush=True)
"""


@contextmanager
def worker(url: str, *, drain_seconds: float, begin: str = "") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(WORKER), url, str(drain_seconds), begin]
    with start_program(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        limit = threading.Timer(60, started.kill)  # so that a test which fails does not hang
        limit.start()
        try:
            yield started
        finally:
            limit.cancel()
            started.kill()


@pytest.mark.parametrize(
    ("begin", "acts"),
    [("blocked", []), ("", ["fill"]), ("", ["fill", "fail"])],
    ids=["from the start", "while it runs", "with a reader in the logger"],
)
def test_sigterm_drains_and_the_process_ends(
    begin: str,
    acts: list[str],
    redis_url: str,
    producer: RedisStreamProducer,
    client: redis.Redis,
) -> None:
    with worker(redis_url, drain_seconds=0.5, begin=begin) as blocked:
        assert blocked.stdout is not None
        for act in [*acts, "run"]:
            producer.publish({"act": act})
            assert blocked.stdout.readline() == f"{act}\n"
        blocked.send_signal(signal.SIGTERM)
        assert blocked.stdout.readline() == "drains\n"
        assert blocked.stdout.readline() == "returned\n"
        assert set(owners(client)) == {"~parked"}
        assert client.hlen("{jobs}:workers:holders") == 0
        blocked.wait(30)


def test_a_second_signal_hands_back_at_once(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    with worker(redis_url, drain_seconds=600) as blocked:
        assert blocked.stdout is not None
        for act in ("fill", "fail", "run"):
            producer.publish({"act": act})
            assert blocked.stdout.readline() == f"{act}\n"
        blocked.send_signal(signal.SIGTERM)
        assert blocked.stdout.readline() == "drains\n"
        blocked.send_signal(signal.SIGTERM)
        assert blocked.stdout.readline() == "returned\n"
        assert set(owners(client)) == {"~parked"}
        blocked.wait(30)


def test_heartbeats_go_on_while_logging_blocks(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """The heartbeat thread logs jobs that run past their deadline, for one."""
    handler, slow = BlockedHandler(), Gate()
    logger = logging.Logger("blocked", logging.ERROR)
    logger.addHandler(handler)
    consumer = make(slow, logger=logger, job_deadline_seconds=0.2, lease_seconds=1)
    producer.publish({"n": 1})
    consumer.start()
    try:
        assert handler.entered.wait(15)
        leases = {client.zscore("{jobs}:workers:presence", "consumer-1")}

        def has_renewed_its_lease_twice() -> bool:
            leases.add(client.zscore("{jobs}:workers:presence", "consumer-1"))
            return len(leases) >= 3

        eventually(has_renewed_its_lease_twice)
    finally:
        handler.opened.set()
        slow.opened.set()
