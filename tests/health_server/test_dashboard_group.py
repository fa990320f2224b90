"""The dashboard of a group: what is wrong and what to do, its workers, jobs and events."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium")

import redis
from consumers import GROUP, STREAM
from dashboard_data import TIMES
from dashboards import Page, Worker, too_faint
from helpers import health_command, start_program

from shared_sync import RedisStreamProducer

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0
HOSTILE = "<img src=x onerror=document.title='taken'>"
QUICK = {"count": 900, "mean_ms": 220, "p50_ms": 200, "p95_ms": 400, "p99_ms": 900, "max_ms": 1e3}
SLOW = {**QUICK, "p50_ms": 4_000, "p95_ms": 36_000, "p99_ms": 38_000}


def live(name: str, **values: Any) -> dict[str, Any]:
    worker = {
        **{"name": name, "host": "box", "pid": 12, "version": "0.2", "release": "1.4.2"},
        **{"state": "running", "paused": [], "started_seconds": 7200.0, "report_seconds": 1.0},
        **{"threads": 2, "running": 1, "done": 1650, "retried": 4, "dead": 1},
        **{"done_per_second": 5.1, "latency": QUICK, "queue_wait": SLOW},
    }
    return {**worker, **values}


def event(number: int, kind: str, text: str, **values: Any) -> dict[str, Any]:
    at = {"id": f"{number}-0", "time": NOW - 60 * number, "seconds_ago": 60.0 * number}
    return {**at, "kind": kind, "worker": "stt-1", "who": None, "text": text, **values}


def group() -> dict[str, Any]:
    """A group with every trouble that the page can show."""
    silent = {"name": "stt-2", "state": "silent", "alive": False, "last_heartbeat_seconds": 12.0}
    return {
        **{"stream": "audio:jobs", "group": "stt", "consumers": [], "consumers_total": 0},
        "status": {
            **{"stream": "audio:jobs", "group": "stt", "health": "degraded"},
            "problems": [
                {
                    "name": "waits_long",
                    "health": "degraded",
                    "text": "the oldest message has waited for 900 s, the limit is 300 s",
                    "remedy": "start more workers, or find out what they wait for",
                }
            ],
            **{"depth": 743, "waiting": 736, "oldest_waiting_seconds": 900.0, "in_flight": 6},
            **{"parked": 1, "next_parked_seconds": 12.0, "dead": 301, "scheduled": 0},
            **{"arrivals_per_second": 2.0, "completions_per_second": 5.5},
            **{"rates_over_seconds": 30.0, "seconds_to_empty": 210.0, "consumers_alive": 2},
            "paused": {"by": "alice", "seconds": 70.0, "reason": "new model"},
            **{"consumers": [silent], "consumers_total": 1},
        },
        "report": {
            **{"latency": QUICK, "queue_wait": SLOW, "releases": {"1.4.2": 1, "1.5.0": 1}},
            "workers": [live("stt-1"), live("stt-2", release="1.5.0")],
            "jobs": [
                {
                    **{"message_id": "1800000000000-0", "worker": "stt-1", "reader": "reader-1"},
                    **{"state": "late", "attempt": 2, "seconds": 99.0, "progress": 0.45},
                }
            ],
            "jobs_total": 1,
            "alive": {"end": NOW, "step_seconds": 10.0, "counts": [3, 3, None, 3, 2, 2]},
            "vanished": [
                {
                    **{"name": "stt-0", "host": "box", "pid": 11, "release": "1.4.2"},
                    **{"seconds_ago": 300.0, "pending": 2, "message_ids": ["1-0", "1-1"]},
                }
            ],
            "events": [
                event(1, "paused", "the group was paused: new model", who="alice"),
                *(
                    event(number, "started", f"worker stt-{number} started")
                    for number in range(2, 12)
                ),
                event(12, "release", HOSTILE),
            ],
        },
    }


def test_it_says_what_is_wrong_what_to_do_and_who_does_what(page: Page, worker: Worker) -> None:
    worker.health = {"status": "degraded", "reasons": ["no reader is free"]}
    worker.views = {"group": group()}
    page.look_at(worker)
    page.shows("Group stt of audio:jobs", ".group h2")
    assert "What to do: Look at the running jobs" in page.text("#reasons")
    assert "waited for 900 s" in page.text(".problems")
    assert "What to do: start more workers, or find out" in page.text(".problems")
    assert "by alice: new model. No worker takes messages." in page.text(".pause")
    tiles = page.text(".tiles").replace("\n\n", "\n")
    for part in (
        "736\noldest 15 min",
        "next one in 12 s",
        "3 min 30 s",
        f"1 {TIMES} 1.4.2, 1 {TIMES} 1.5.0",
    ):
        assert part in tiles
    assert "36 s\np95; p50 4 s, p99 38 s" in tiles

    rows = {row[1]: row for row in page.rows(".workers")}
    assert list(rows) == ["stt-2", "stt-1", "stt-0"]  # what needs somebody comes first
    assert (rows["stt-2"][0], rows["stt-2"][-1]) == ("silent", "no heartbeat for 12 s")
    assert (rows["stt-1"][0], rows["stt-1"][3], rows["stt-1"][4]) == ("running", "5.1/s", "400 ms")
    assert rows["stt-0"][0] == "gone"
    assert rows["stt-0"][-1].endswith("it held 2 messages")
    assert page.text(".workers .note") == "1 alive · 1 silent · 1 vanished within the hour"

    [job] = page.rows(".group-jobs")
    assert (job[0], job[3], job[5]) == ("late", "2", "45 %")

    assert "(alice)" in page.text(".event-list")
    assert len(page.find(".event-list li")) == 8
    page.run("document.querySelector('.events button').click()")
    assert HOSTILE in page.text(".event-list")
    assert "2 workers alive; between 2 and 3" in page.text(".events")
    assert "taken" not in page.driver.title
    worker.views["group"]["status"]["seconds_to_empty"] = 0
    worker.views["group"]["report"]["alive"]["counts"] = [2, 2]
    page.asks_until("Time to empty\nempty", ".tiles")
    page.shows("2 workers alive; no change in the last 20 s", ".events")
    for scheme in ("dark", "light"):
        page.prefers(scheme)
        assert too_faint(page) == []
        page.picture(f"group-{scheme}")
    assert page.complaints() == []


def test_anything_may_stand_in_what_others_have_published(page: Page, worker: Worker) -> None:
    odd = group()
    odd["status"] |= {"problems": "none", "consumers": {"a": 1}, "waiting": "many", "paused": 7}
    odd["report"] |= {"workers": [None, 3, {"name": 5}], "jobs": "?", "alive": {"counts": [{}]}}
    odd["report"] |= {"events": [{"id": 1}, []], "vanished": 4, "releases": None, "latency": []}
    worker.views = {"group": odd, "second": {"status": {}, "report": None}}
    page.look_at(worker)
    page.shows("Group stt of audio:jobs", ".group h2")
    page.shows("Over time")
    assert page.text(".misread") == ""
    assert page.complaints() == []


def test_percentiles_that_lie_far_apart_have_a_logarithmic_axis(page: Page, worker: Worker) -> None:
    latency = ".chart[aria-label^=Latency]"

    def latencies(p99: float) -> Any:
        stem = "processing_latency_ms"
        return lambda _: {f"p50_{stem}": 100.0, f"p95_{stem}": 200.0, f"p99_{stem}": p99}

    worker.past(latencies(400.0), 200)
    page.look_at(worker)
    page.shows("Latency", latency)
    assert "logarithmic" not in page.text(latency)
    worker.history = type(worker.history)()
    worker.past(latencies(10_000.0), 200)
    worker.replace()
    worker.past(latencies(10_000.0), 200)
    page.asks_until("logarithmic", latency)
    lines = page.run(
        """return [...document.querySelectorAll(arguments[0] + ' .stroke')]
             .map((line) => line.getBBox().y)""",
        f"{latency} .plot",
    )
    [p50, p95, p99] = lines
    assert p50 - p95 > 8  # on a linear axis both would lie on the ground
    assert p95 - p99 > 40


def test_there_is_a_hint_for_every_reason_of_a_worker() -> None:
    script = ROOT / "shared_sync/health_server/dashboard/remedies.js"
    hinted = set(re.findall(r'^  \["(.+?)", ', script.read_text(), re.M))
    runbook = (ROOT / "docs/operation.md").read_text()
    [section] = re.findall(r"^## Reasons of a worker\n(.*?)(?=^## |\Z)", runbook, re.M | re.S)
    assert set(re.findall(r"^### (.+)$", section, re.M)) <= hinted


@contextmanager
def slow_worker(url: str) -> Iterator[Any]:
    """A worker in a process of its own, that is too slow for what is published."""
    code = (
        "import sys, threading\n"
        "from shared_sync import RedisStreamConsumer\n"
        f"RedisStreamConsumer(sys.argv[1], {STREAM!r}, {GROUP!r}, 'doomed', None,\n"
        "    lambda *_: threading.Event().wait(0.5)).start_consuming()\n"
    )
    process = start_program([sys.executable, "-c", code, url])
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_it_is_degraded_while_too_much_arrives_and_unhealthy_when_the_last_worker_is_killed(
    page: Page, client: redis.Redis, redis_url: str
) -> None:
    if str(client.info("server")["redis_version"]).startswith("6."):
        pytest.skip("Redis 6 does not count what was added to a stream")
    where = ("--redis-url", redis_url, "--stream", STREAM, "--group", GROUP)
    over = threading.Event()

    def publish() -> None:
        with RedisStreamProducer(redis_url, STREAM) as producer:
            while not over.wait(0.05):
                producer.publish({"n": 1})

    publisher = threading.Thread(target=publish)
    with slow_worker(redis_url) as process:
        publisher.start()
        try:
            with health_command("--port", "0", "--growth-seconds", "3", *where) as url:
                page.open(url)
                page.asks_until(
                    "more messages have arrived than were finished", ".problems", within=40
                )
                page.asks_until("Degraded", "#status-word")
                page.picture("group-grows")
                process.kill()
                killed = time.monotonic()
                page.asks_until("Unhealthy", "#status-word", within=20)
                assert time.monotonic() - killed < 10
                page.asks_until("no heartbeat for", ".problems")
                page.picture("group-killed")
        finally:
            over.set()
            publisher.join(10)
