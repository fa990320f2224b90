"""The dashboard of real workers on a real Redis, in a real browser."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("selenium")

import redis
from consumers import DEAD, GROUP, STREAM, Make
from dashboards import Page
from helpers import Gate, ask, eventually, free_port, health_command

from shared_sync import (
    HealthServer,
    RedisStreamConsumer,
    RedisStreamProducer,
    Reject,
    RetryPolicy,
    WorkerMetrics,
)
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.health_server import sampler
from shared_sync.health_server import state as health_server_state
from shared_sync.redis_consumer import job_budget

DUE = "{jobs}:workers:due"
TIMES = "\N{MULTIPLICATION SIGN}"
PATIENT = RetryPolicy(max_attempts=5, base_seconds=600, max_seconds=600)
"""What fails waits for longer than any test takes."""

ONCE = RetryPolicy(max_attempts=1)


@contextmanager
def server_of(consumer: RedisStreamConsumer, metrics: WorkerMetrics) -> Iterator[HealthServer]:
    """A health server as a worker has it. Its port stays the same from start to start."""
    server = HealthServer(
        "stt-1",
        free_port(),
        None,
        consumer.get_health_data,
        metrics.get_metrics_data,
        host="127.0.0.1",
    )
    with server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of this process take samples often, and ask for views whenever the page does."""
    monkeypatch.setattr(sampler, "PERIOD_SECONDS", 0.5)
    monkeypatch.setattr(health_server_state, "VIEW_PERIOD_SECONDS", 0.0)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A processor that stays inside until the end of the test."""
    made = Gate()
    yield made
    made.opened.set()


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics("stt-1")


def state(server: HealthServer) -> dict[str, Any]:
    return ask(f"{server.url}/api/state")[1]


def shown(page: Page, name: str) -> int:
    """A number of the table of all figures."""
    text = page.values().get(name, "0")
    return int(text.replace(",", ""))


def asked(page: Page, name: str) -> int:
    page.ask_now()
    return shown(page, name)


def causes(page: Page) -> dict[str, str]:
    """Each cause of dead letters by its fingerprint, as it is shown."""
    lines = page.run(
        """return [...document.querySelectorAll('#dead_letters .causes summary')]
             .map((line) => [line.querySelector('code').innerText, line.innerText])"""
    )
    return dict(lines)


def transcribe(_: str, message: dict[str, str]) -> None:
    """Most go well; one in ten waits for another attempt, one in ten is given up."""
    n = int(message["n"])
    if n % 10 == 3:
        raise TimeoutError(f"no answer of model {n}")
    if n % 20 == 7:
        raise Reject(f"no RIFF header in message {n}")
    if n % 20 == 17:
        raise Reject(f"only {n} samples")


# --- a worker at work ---------------------------------------------------------------------------


def test_under_load_the_page_shows_what_the_api_and_redis_say(
    page: Page,
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    metrics: WorkerMetrics,
) -> None:
    pause = threading.Event()

    def load() -> None:
        for first in range(0, 600, 20):
            producer.publish_many({"n": first + n} for n in range(20))
            pause.wait(0.05)

    consumer = make(transcribe, consumer_id="stt-1", threads=2, metrics=metrics, retry=PATIENT)
    consumer.start()
    publisher = threading.Thread(target=load)
    with server_of(consumer, metrics) as server:
        page.open(server.url)
        page.open_values()
        publisher.start()
        while publisher.is_alive():
            before = state(server)["metrics"].get("jobs_processed", 0)
            # What the page shows was true at some moment in between.
            assert before <= asked(page, "jobs_processed")
            assert shown(page, "jobs_processed") <= metrics.get_metrics_data()["jobs_processed"]
        publisher.join()

        parked, dead, done = 60, 60, 480
        eventually(lambda: client.zcard(DUE) == client.xlen(STREAM) == parked)
        assert client.xlen(DEAD) == dead
        eventually(lambda: asked(page, "jobs_processed") == done)
        eventually(lambda: asked(page, "queue_depth") == shown(page, "jobs_parked") == parked)
        eventually(lambda: asked(page, "dead_letters") == dead)
        page.asks_until("/s", ".chart[aria-label^=Throughput] .legend")
        health = state(server)["health"]
        assert health["queue_depth"] == health["jobs_parked"] == parked

        page.asks_until("50 of 60 shown · 2 causes", "#dead_letters")
        page.asks_until("50 of 60 shown", "#parked")
        group = state(server)["views"]["group"]["data"]
        assert set(causes(page)) == {letter["fingerprint"] for letter in group["dead_letters"]}
        assert all(f"{TIMES} {dead // 2}" in text for text in causes(page).values())
        newest = client.xrevrange(DEAD, count=50)
        assert [row["id"] for row in group["dead_letters"]] == [key.decode() for key, _ in newest]
        soonest = client.zrange(DUE, 0, 0)[0].decode()
        row = page.rows("#parked")[0]
        assert [row[0], *row[2:]] == [soonest, "1", "0", "TimeoutError"]
        (row,) = page.rows("#consumers")
        (consumer_in_redis,) = client.zrange("{jobs}:workers:presence", 0, -1)
        assert row[:2] == [consumer_in_redis.decode(), "alive"]
        assert row[3] == "0"
        page.picture("live")


def test_a_job_that_takes_longer_than_the_others_is_late_with_its_reader_age_and_budget(
    page: Page,
    make: Make,
    producer: RedisStreamProducer,
    gate: Gate,
    metrics: WorkerMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_budget, "SHORTEST_BUDGET_SECONDS", 0.3)
    metrics.record_batch(durations={job_budget.DURATION: [0.002] * job_budget.FEWEST_JOBS})
    message_id = producer.publish({"n": 1})
    consumer = make(gate, consumer_id="stt-1", threads=2, metrics=metrics, block_seconds=0.1)
    consumer.start()
    with server_of(consumer, metrics) as server:
        page.open(server.url)
        page.asks_until("Degraded", "#status")
        page.asks_until(f"runs message {message_id} for", "#reasons")
        page.asks_until("its budget is 0.3 s", "#reasons")
        page.asks_until("late", "#jobs .badge")
        ((badge, message, reader, attempt, age, budget),) = page.rows("#jobs")
        assert (badge, message, attempt, budget) == ("late", message_id, "1", "300 ms")
        assert reader in page.text("#reasons")
        assert age.endswith("s")
        page.asks_until("1 late", "#readers")
        assert f"{reader}\nlate" in page.text("#readers")
        assert page.text("#probes").count("yes") == 3, "a job that is only late breaks nothing"
        gate.opened.set()
        page.asks_until("Healthy", "#status")
        page.asks_until("No job is running", "#jobs")


def test_a_job_past_its_deadline_is_stuck_and_past_its_limit_the_worker_is_not_live(
    page: Page, make: Make, producer: RedisStreamProducer, gate: Gate, metrics: WorkerMetrics
) -> None:
    message_id = producer.publish({"n": 1})
    consumer = make(gate, threads=2, metrics=metrics, job_deadline_seconds=0.5, retry=ONCE)
    consumer.start()
    with server_of(consumer, metrics) as server:
        page.open(server.url)
        page.asks_until("Unhealthy", "#status")
        page.asks_until(f"runs message {message_id} for", "#reasons")
        page.asks_until("its limit is 0.8 s", "#reasons")
        page.asks_until("stuck", "#jobs .badge")
        page.asks_until("failed 1 times", "#dead_letters")
        live, ready, started = page.text("#probes dd").splitlines()
        assert ("no" in live, "no" in ready, "yes" in started) == (True, True, True)
        gate.opened.set()
        page.asks_until("Healthy", "#status")


# --- what goes away, and comes back -------------------------------------------------------------


def test_a_server_that_stops_is_gone_and_comes_back_on_the_same_port(
    page: Page, make: Make, producer: RedisStreamProducer, metrics: WorkerMetrics
) -> None:
    consumer = make(lambda *_: None, consumer_id="stt-1", metrics=metrics)
    consumer.start()
    with server_of(consumer, metrics) as server:
        page.open(server.url)
        page.asks_until("stt-1-reader-1", "#readers")
        assert server.stop_server()
        page.shows("The worker does not answer", "#gone")
        assert "Last known: healthy" in page.text("#status")
        assert "stt-1-reader-1" in page.text("#readers")
        server.start_server()
        page.shows("Healthy", "#status", within=30)
        assert page.text("#gone") == ""


def test_while_redis_is_away_the_page_keeps_what_it_knew_of_the_group(
    page: Page, make: Make, own_server: EmbeddedRedis, metrics: WorkerMetrics
) -> None:
    consumer = make(lambda *_: None, url=own_server.url, consumer_id="stt-1", metrics=metrics)
    consumer.start()
    with server_of(consumer, metrics) as server:
        page.open(server.url)
        page.asks_until("stt-1", "#consumers")
        own_server.kill()
        page.asks_until("Unhealthy", "#status")
        page.asks_until("Redis ", "#reasons")
        page.asks_until("ago: the view failed", "#consumers")
        assert [row[0] for row in page.rows("#consumers")] == ["stt-1"]
        page.picture("redis-gone")
        own_server.start()
        page.asks_until("Healthy", "#status", within=30)
        eventually(lambda: "the view failed" not in page.text("#consumers"))


def test_a_right_that_is_missing_is_named_and_once_granted_the_table_is_there(
    page: Page, make: Make, own_server: EmbeddedRedis, metrics: WorkerMetrics
) -> None:
    consumer = make(lambda *_: None, url=own_server.url, consumer_id="stt-1", metrics=metrics)
    consumer.start()
    with (
        redis.Redis.from_url(own_server.url, protocol=2) as admin,
        server_of(consumer, metrics) as server,
    ):
        admin.execute_command("ACL", "SETUSER", "default", "-xrevrange")
        page.open(server.url)
        grant = "Dead letters are not shown: grant this Redis user +xrevrange."
        page.asks_until(grant, "#missing")
        assert page.text("#dead_letters") == ""
        assert [row[0] for row in page.rows("#consumers")] == ["stt-1"]
        admin.execute_command("ACL", "SETUSER", "default", "+xrevrange")
        page.asks_until("No dead letters", "#dead_letters")
        assert page.text("#missing") == ""


# --- a group from outside -----------------------------------------------------------------------


def test_the_health_command_shows_the_group_from_outside(
    page: Page, make: Make, producer: RedisStreamProducer, client: redis.Redis, redis_url: str
) -> None:
    workers = [make(transcribe, consumer_id=f"stt-{n}", retry=PATIENT) for n in (1, 2)]
    for worker in workers:
        worker.start()
    where = ("--port", "0", "--redis-url", redis_url, "--stream", STREAM, "--group", GROUP)
    with health_command(*where) as url:
        page.open(url)
        page.asks_until("Healthy", "#status")
        producer.publish_many({"n": n} for n in range(100))
        eventually(lambda: client.zcard(DUE) == client.xlen(STREAM) == client.xlen(DEAD) == 10)
        page.asks_until("10 · 2 causes", "#dead_letters")
        page.asks_until("10", "#parked .note")
        rows = {row[0]: row for row in page.rows("#consumers")}
        assert set(rows) == {"stt-1", "stt-2"}
        assert {row[1] for row in rows.values()} == {"alive"}
        assert f"pid {os.getpid()}" in rows["stt-1"][5]
        assert f"{STREAM} · {GROUP}" in page.text("#queues")
        assert "Jobs and readers are on the worker's own page" in page.text("#missing")
        page.asks_until("10", ".chart[aria-label^=Queue] .legend")
        if not str(client.info("server")["redis_version"]).startswith("6."):
            page.asks_until("finished", ".chart[aria-label^=Throughput] .legend")
            page.asks_until("added", ".chart[aria-label^=Throughput] .legend")
        page.picture("outside")
