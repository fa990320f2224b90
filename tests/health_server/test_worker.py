"""A worker behind its health server, seen from outside by what an orchestrator asks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from consumers import GROUP, STREAM, Make
from helpers import Gate, ask, eventually, start_program
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from shared_sync import (
    HealthServer,
    RedisStreamConsumer,
    RedisStreamProducer,
    RetryPolicy,
    WorkerMetrics,
)
from shared_sync.connection.embedded import EmbeddedRedis

WITHIN_SECONDS = 5.0 + 3.0  # as promised, and what a busy machine may add
PROBES = ("live", "ready", "startup")


@contextmanager
def serving(consumer: RedisStreamConsumer, metrics: WorkerMetrics) -> Iterator[HealthServer]:
    with HealthServer("stt-1", 0, consumer=consumer, metrics=metrics, host="127.0.0.1") as server:
        yield server


def codes(server: HealthServer) -> dict[str, int]:
    told = {probe: ask(f"{server.url}/health/{probe}")[0] for probe in PROBES}
    return {**told, "health": ask(f"{server.url}/health")[0]}


WELL = {"live": 200, "ready": 200, "startup": 200, "health": 200}
CUT_OFF = {"live": 200, "ready": 503, "startup": 200, "health": 500}


class Watcher:
    """Asks for the probe of life all the time, and keeps every code that it was told."""

    def __init__(self, server: HealthServer) -> None:
        self.codes: list[int] = []
        self._url = f"{server.url}/health/live"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._done.wait(0.05):
            self.codes.append(ask(self._url)[0])

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(10)


def kill(server: EmbeddedRedis) -> None:
    server.kill()


def freeze(server: EmbeddedRedis) -> None:
    os.kill(server.pid, signal.SIGSTOP)


def start(server: EmbeddedRedis) -> None:
    server.start()


def thaw(server: EmbeddedRedis) -> None:
    os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("stop", "resume"), [(kill, start), (freeze, thaw)], ids=["killed", "frozen"]
)
def test_while_redis_is_away_the_worker_lives_and_is_not_ready_and_after_that_all_is_well(
    own_server: EmbeddedRedis,
    make: Make,
    stop: Callable[[EmbeddedRedis], None],
    resume: Callable[[EmbeddedRedis], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = WorkerMetrics("stt-1")
    done = threading.Semaphore(0)
    consumer = make(lambda *_: done.release(), url=own_server.url, metrics=metrics)
    consumer.start()
    with serving(consumer, metrics) as server, Watcher(server) as watcher:
        eventually(lambda: codes(server) == WELL)
        stop(own_server)
        try:
            stopped_at = time.monotonic()
            eventually(lambda: ask(f"{server.url}/health/ready")[0] == 503)
            not_ready_after = time.monotonic() - stopped_at
            eventually(lambda: codes(server) == CUT_OFF)
            code, body = ask(f"{server.url}/health")
            assert (code, body["status"], body["redis_connected"]) == (500, "unhealthy", False)
            assert any(reason.startswith("Redis ") for reason in body["reasons"])
            assert "127.0.0.1" not in str(body), "an address is a detail"
        finally:
            resume(own_server)
        back_at = time.monotonic()
        eventually(lambda: codes(server) == WELL)
        well_after = time.monotonic() - back_at
        with RedisStreamProducer(own_server.url, STREAM) as producer:
            producer.publish({"client_id": "c1"})
        assert done.acquire(timeout=10)
    with capsys.disabled():
        print(
            f"\nRedis {stop.__name__}: not ready after {not_ready_after:.2f} s, "
            f"well {well_after:.2f} s after it was back, live {len(watcher.codes)} times",
            end="",
        )
    assert set(watcher.codes) == {200}
    assert not_ready_after < WITHIN_SECONDS
    assert well_after < WITHIN_SECONDS


def test_a_late_job_is_told_by_every_answer_that_depends_on_it(
    make: Make, producer: RedisStreamProducer
) -> None:
    gate, metrics = Gate(), WorkerMetrics("stt-1")
    consumer = make(gate, metrics=metrics, job_deadline_seconds=0.3, job_limit_seconds=1.0)
    consumer.start()
    message_id = producer.publish({"client_id": "c1"})
    try:
        with serving(consumer, metrics) as server:
            eventually(lambda: ask(f"{server.url}/health/live")[0] == 503)
            reasons = ask(f"{server.url}/health/live")[1]["reasons"]
            (reason,) = (reason for reason in reasons if message_id in reason)
            assert reason.startswith(f"reader consumer-1-reader-1 runs message {message_id} for ")
            assert "1 s" in reason
            code, body = ask(f"{server.url}/health")
            assert (code, body["status"], body["live"]) == (500, "unhealthy", False)
            assert reason.partition(" for ")[0] in str(body["reasons"])
            eventually(lambda: ask(f"{server.url}/api/state")[1]["views"]["readers"]["data"])
            (job,) = ask(f"{server.url}/api/state")[1]["views"]["readers"]["data"]["jobs"]
            assert (job["message_id"], job["reader"]) == (message_id, "consumer-1-reader-1")
            assert (job["budget_seconds"], job["limit_seconds"]) == (0.3, 1.0)
            gate.opened.set()
            eventually(lambda: codes(server) == WELL)
    finally:
        gate.opened.set()


JOB_SECONDS = 5.0


def test_probes_answer_beside_half_requests_a_hanging_callback_and_a_busy_job(
    make: Make, producer: RedisStreamProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    hanging, begun, done = Gate(), threading.Event(), threading.Event()

    def compute(*_: object) -> None:
        """Never waits, in pure Python."""
        until, number = time.monotonic() + JOB_SECONDS, 0
        begun.set()
        while time.monotonic() < until:
            number = (number * 31 + 7) % 1_000_003
        done.set()

    make(compute).start()
    seconds: list[float] = []
    server = HealthServer("stt-1", 0, None, hanging, host="127.0.0.1")
    with server, ExitStack() as clients:
        assert hanging.entered.wait(10)
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", server.port), 10)
            clients.enter_context(client).sendall(b"GET /health/live HTTP/1.1\r\nHost")
        producer.publish({"client_id": "c1"})
        assert begun.wait(10)
        while not done.is_set():
            asked_at = time.monotonic()
            assert ask(f"{server.url}/health/live")[0] == 200
            seconds.append(time.monotonic() - asked_at)
        hanging.opened.set()
    with capsys.disabled():
        print(
            f"\n/health/live asked {len(seconds)} times during a job of {JOB_SECONDS:g} s: "
            f"median {sorted(seconds)[len(seconds) // 2]:.3f} s, slowest {max(seconds):.3f} s",
            end="",
        )
    # The machine may stop everybody for a moment; a probe that waits would be slow each time.
    assert sorted(seconds)[len(seconds) * 9 // 10] < 0.5


def test_a_worker_whose_every_job_fails_is_not_healthy_behind_a_function_of_the_user(
    make: Make, producer: RedisStreamProducer
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no model")

    consumer = make(fail, retry=RetryPolicy(max_attempts=1))
    with HealthServer(
        "stt-1", 0, None, lambda: {"model_loaded": True}, consumer=consumer, host="127.0.0.1"
    ) as server:
        consumer.start()
        eventually(lambda: codes(server) == WELL)
        assert ask(f"{server.url}/health")[1]["status"] == "healthy"
        producer.publish_many([{"file": str(number)} for number in range(40)])
        eventually(lambda: ask(f"{server.url}/health")[1]["status"] == "degraded")
        (reason,) = ask(f"{server.url}/health")[1]["reasons"]
        assert reason.startswith("consumer: ")


def test_figures_of_a_function_reach_prometheus_as_numbers_of_unknown_type() -> None:
    figures = {"jobs done": 3, "2nd": 1.5, "ok": True, "text": "x", "none": None, "jobs.done": 9}
    with HealthServer("stt-1", 0, None, dict, lambda: figures, host="127.0.0.1") as server:
        for form, parse in (("prometheus", parse_prometheus), ("openmetrics", parse_openmetrics)):
            with urllib.request.urlopen(f"{server.url}/metrics?format={form}") as answer:
                families = list(parse(answer.read().decode()))
            told = {
                (family.name, family.type, sample.value, sample.labels["instance_id"])
                for family in families
                for sample in family.samples
            }
            told = {each for each in told if not each[0].startswith("health_")}
            assert told == {
                ("jobs_done", "unknown", 3.0, "stt-1"),
                ("_2nd", "unknown", 1.5, "stt-1"),
                ("ok", "unknown", 1.0, "stt-1"),
            }


def test_prometheus_is_told_what_json_is(make: Make, producer: RedisStreamProducer) -> None:
    metrics = WorkerMetrics("stt-1")
    consumer = make(lambda *_: None, metrics=metrics)
    consumer.start()
    producer.publish_many([{"client_id": "c1"}] * 7)
    with serving(consumer, metrics) as server:
        eventually(lambda: ask(f"{server.url}/metrics")[1].get("jobs_processed") == 7)
        for path, accept, parse, kind in (
            ("/metrics/prometheus", "*/*", parse_prometheus, "text/plain; version=0.0.4"),
            ("/metrics?format=prometheus", "", parse_prometheus, "text/plain; version=0.0.4"),
            ("/metrics", "text/plain", parse_prometheus, "text/plain; version=0.0.4"),
            (
                "/metrics",
                "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.5,*/*;q=0.1",
                parse_openmetrics,
                "application/openmetrics-text; version=1.0.0",
            ),
        ):
            request = urllib.request.Request(server.url + path, headers={"Accept": accept})
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
                assert set(answer.headers["Vary"].split(", ")) == {"Accept", "Accept-Encoding"}
                families = list(parse(answer.read().decode()))
            samples = {
                sample.name: sample.value for family in families for sample in family.samples
            }
            assert samples["jobs_processed_total"] == 7
            assert samples["processing_latency_seconds_count"] == 7


WORKER = """
    import sys
    from shared_sync import HealthServer, RedisStreamConsumer, WorkerMetrics

    def run(message_id, message):
        print("running", flush=True)
        sys.stdin.readline()

    metrics = WorkerMetrics("stt-1")
    consumer = RedisStreamConsumer(
        sys.argv[1], sys.argv[2], sys.argv[3], "stt-1", None, run, metrics=metrics
    )
    server = HealthServer(
        "stt-1", 0, None, consumer.get_health_data, metrics.get_metrics_data, host="127.0.0.1"
    )
    with server:
        print(server.url, flush=True)
        consumer.start_consuming()
"""


def test_on_sigterm_ready_goes_first_and_live_stays_good_to_the_end(
    redis_url: str, producer: RedisStreamProducer
) -> None:
    worker = start_program(
        [sys.executable, "-c", textwrap.dedent(WORKER), redis_url, STREAM, GROUP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        url = worker.stdout.readline().strip()

        def told() -> dict[str, Any]:
            return {probe: ask(f"{url}/health/{probe}")[0] for probe in PROBES}

        eventually(lambda: told() == {"live": 200, "ready": 200, "startup": 200})
        producer.publish({"client_id": "c1"})
        assert worker.stdout.readline() == "running\n"
        worker.send_signal(signal.SIGTERM)
        eventually(lambda: told() == {"live": 200, "ready": 503, "startup": 200})
        code, body = ask(f"{url}/health")
        assert (code, body["status"]) == (200, "degraded")
        assert "draining" in body["reasons"]
        worker.stdin.write("go on\n")
        worker.stdin.flush()
        worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.communicate()
    assert worker.returncode == 0
