"""Stopping waits for what runs, hands back the rest uncharged, and keeps its limit."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import redis
from consumers import GROUP, STREAM, Make, owners
from helpers import Gate, eventually, start_program

from shared_sync import RedisStreamProducer, current_message
from shared_sync.connection import connection as redis_connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConsumerBroken, ConsumerStateError
from shared_sync.redis_consumer import draining, lifecycle, timeouts


def test_stop_waits_for_what_runs_and_leaves_nothing_behind(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    slow = Gate("done")
    producer.publish({"n": 1})
    consumer = make(slow, result_stream="results")
    consumer.start()
    assert slow.entered.wait(10)
    ended: list[bool] = []
    stopper = threading.Thread(target=lambda: ended.append(consumer.stop()))
    stopper.start()
    eventually(lambda: consumer.state == "draining")
    assert not ended
    slow.opened.set()
    stopper.join(10)
    assert ended == [True]
    assert client.xlen("results") == 1
    assert client.xlen(STREAM) == 0
    assert client.xinfo_consumers(STREAM, GROUP) == []
    assert client.zcard("{jobs}:workers:presence") == 0


def test_the_line_that_says_so_is_written_before_the_consumer_has_stopped(make: Make) -> None:
    """Otherwise the program may end first, and the line is lost."""
    seen: dict[str, bool] = {}

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "has stopped" in record.getMessage():
                seen["already stopped"] = consumer.join(0)

    logger = logging.Logger("watched")
    logger.addHandler(Watching())
    consumer = make(lambda *_: None, logger=logger)
    consumer.start()
    assert consumer.stop()
    assert seen == {"already stopped": False}


def test_prefetched_messages_go_back_at_once_and_uncharged_while_the_running_one_goes_on(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timeouts, "LONGEST_WAIT_SECONDS", 600.0)  # not because the job takes long
    slow = Gate()
    ids = producer.publish_many({"n": n} for n in range(5))
    first = make(slow, prefetch=5)
    first.start()
    assert slow.entered.wait(10)
    assert owners(client) == {"consumer-1": 5}
    stopper = threading.Thread(target=first.stop)
    stopper.start()
    eventually(lambda: owners(client) == {"consumer-1": 1, "~parked": 4})
    attempts: dict[str, int] = {}
    second = make(lambda message_id, _: attempts.update({message_id: current_message().attempt}))
    second.start()
    eventually(lambda: len(attempts) == 4)
    assert attempts == dict.fromkeys(ids[1:], 1)
    slow.opened.set()
    stopper.join(10)
    eventually(lambda: client.xlen(STREAM) == 0)
    assert len(attempts) == 4


def test_what_still_runs_after_the_drain_is_handed_back_uncharged(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    stuck = Gate()
    message_id = producer.publish({"n": 1})
    first = make(stuck, drain_seconds=0.1)
    first.start()
    assert stuck.entered.wait(10)
    assert first.stop() is False
    assert owners(client) == {"~parked": 1}
    (entry,) = client.xpending_range(STREAM, GROUP, "-", "+", 1)
    assert entry["times_delivered"] == 0
    done: list[tuple[str, int]] = []
    make(lambda found, _: done.append((found, current_message().attempt))).start()
    eventually(lambda: done == [(message_id, 1)])
    stuck.opened.set()


def test_stop_is_quick_when_idle_and_harmless_twice_and_before_start(make: Make) -> None:
    never_started = make(lambda *_: None)
    assert never_started.stop() is True
    for act in (never_started.start, never_started.connect):
        with pytest.raises(ConsumerStateError, match=r"stopped.*make a new RedisStreamConsumer"):
            act()
    consumer = make(lambda *_: None, threads=4, block_seconds=2)
    consumer.start()
    threads = threading.active_count()
    assert consumer.stop(timeout=1.5) is True
    assert consumer.stop() is True
    eventually(lambda: threading.active_count() == threads - 5)
    assert consumer.state == "stopped"


def test_a_processor_may_stop_its_own_consumer(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    said: list[bool] = []
    producer.publish({"n": 1})
    consumer = make(lambda *_: said.append(consumer.stop()))
    consumer.start()
    assert consumer.join(15)
    assert said == [False]
    assert client.xlen(STREAM) == 0


def test_stop_ends_during_an_outage(own_server: EmbeddedRedis, make: Make) -> None:
    consumer = make(lambda *_: None, url=own_server.url, threads=2)
    consumer.start()
    own_server.kill()
    eventually(lambda: not consumer.redis_connected)
    begun = time.monotonic()
    consumer.stop(timeout=2)
    assert time.monotonic() - begun < 8
    assert consumer.state == "stopped"


def test_stop_keeps_its_limit_while_redis_hangs(
    own_server: EmbeddedRedis, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a job that does not end, and prefetched ones to hand back."""
    grace = 1.0
    for module in (lifecycle, draining):
        monkeypatch.setattr(module, "SHUTDOWN_GRACE_SECONDS", grace)
    stuck = Gate()
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish_many({"n": n} for n in range(5))
    consumer = make(stuck, url=own_server.url, prefetch=5)
    consumer.start()
    assert stuck.entered.wait(10)
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert consumer.stop(timeout=1) is False
        assert time.monotonic() - begun < 1 + grace + 1
        eventually(lambda: consumer.state == "stopped")
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
        stuck.opened.set()


def test_many_may_stop_it_at_once_and_the_shortest_limit_counts(
    make: Make, producer: RedisStreamProducer
) -> None:
    stuck = Gate()
    producer.publish({"n": 1})
    consumer = make(stuck)
    consumer.start()
    assert stuck.entered.wait(10)
    said: list[bool] = []
    limits = (600, 600, 0.2)
    stoppers = [
        threading.Thread(target=lambda limit=limit: said.append(consumer.stop(limit)))
        for limit in limits
    ]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(20)
    assert said == [False] * 3
    stuck.opened.set()


def test_start_consuming_ends_when_another_thread_stops_it(make: Make) -> None:
    consumer = make(lambda *_: None)
    ended: list[bool] = []
    runner = threading.Thread(target=lambda: ended.append(consumer.start_consuming()))
    runner.start()
    eventually(lambda: consumer.state == "running")
    consumer.stop()
    runner.join(10)
    assert ended == [True]


def test_a_consumer_that_is_stopped_while_it_starts_starts_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, also while it waits for a server that does not answer, for a minute here."""
    monkeypatch.setattr(redis_connection, "REPLY_MARGIN_SECONDS", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        consumer = make(lambda *_: None, url=f"redis://127.0.0.1:{silent.getsockname()[1]}")
        starter = threading.Thread(target=consumer.start)
        starter.start()
        eventually(lambda: consumer.state == "starting")
        assert consumer.stop() is True
        starter.join(20)
        assert not starter.is_alive()
    assert consumer.state == "stopped"
    assert consumer.get_health_data()["readers_alive"] == 0


FORKING_WORKER = """
    import logging, multiprocessing, sys, threading
    from shared_sync import RedisStreamConsumer

    def sleep(ready):
        ready.set()
        threading.Event().wait(600)

    def processor(message_id, job):
        fork = multiprocessing.get_context("fork")
        ready = fork.Event()
        child = fork.Process(target=sleep, args=(ready,), daemon=True)
        child.start()
        assert ready.wait(10)
        child.terminate()
        child.join(10)
        print(child.exitcode, flush=True)

    RedisStreamConsumer(sys.argv[1], "jobs", "workers", "w", None, processor).start_consuming()
"""


def test_sigterm_ends_what_a_processor_has_forked(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    with start_program(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKING_WORKER), redis_url],
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        printed = worker.stdout.readline()
        worker.terminate()
        assert worker.wait(30) == 0
    assert printed == f"{-signal.SIGTERM}\n"


def test_without_a_thread_to_drain_in_the_caller_drains(
    make: Make, producer: RedisStreamProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the interpreter shuts down."""
    consumer = make(lambda *_: None)
    consumer.start()
    monkeypatch.setattr(threading.Thread, "start", refuse_to_start)
    assert consumer.stop() is True
    assert consumer.state == "stopped"


def test_a_start_without_threads_leaves_no_name_behind(
    make: Make, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = make(lambda *_: None)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse_to_start)
        with pytest.raises(ConsumerBroken, match="threads"):
            consumer.start()
    assert consumer.state == "stopped"
    assert not client.exists("{jobs}:workers:holders")


def refuse_to_start(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_server_that_takes_no_more_clients_gets_the_messages_back_all_the_same(
    own_server: EmbeddedRedis, make: Make
) -> None:
    slow = Gate()
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish_many({"n": n} for n in range(5))
    consumer = make(slow, url=own_server.url, prefetch=5, drain_seconds=600)
    consumer.start()
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        assert slow.entered.wait(10)
        eventually(lambda: consumer.get_health_data()["queue_depth"] is not None)
        admin.config_set("maxclients", len(admin.client_list()))
        with pytest.raises(redis.ConnectionError, match="max number of clients"):
            redis.Redis.from_url(own_server.url).ping()
        stopper = threading.Thread(target=consumer.stop)
        stopper.start()
        eventually(lambda: owners(admin) == {"consumer-1": 1, "~parked": 4})
        assert consumer.stop(0.1) is False
        stopper.join(20)
        assert owners(admin) == {"~parked": 5}
        assert not admin.exists("{jobs}:workers:presence", "{jobs}:workers:holders")
        rows = admin.xpending_range(STREAM, GROUP, "-", "+", 9)
        assert {row["times_delivered"] for row in rows} == {0}
    slow.opened.set()
