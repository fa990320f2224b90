"""What the page of a group shows of real workers: durations, running messages, deaths, outages."""

from __future__ import annotations

import json
import logging
import random
import signal
import threading
from functools import partial
from typing import Any

import pytest
import redis
from consumers import GROUP, STREAM, Make
from group_views import view_of, worker_process
from helpers import eventually
from protocol_client import KEYS

from shared_sync import RedisStreamProducer, Retry, WorkerMetrics, current_message
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError
from shared_sync.group_status import pause

shown = partial(eventually, every=0.1)
"""Waits until the page shows something: each look at it asks Redis."""


def report_of(url: str) -> dict[str, Any]:
    report: dict[str, Any] = view_of(url).read()["report"]
    return report


def events(url: str, kind: str) -> list[dict[str, Any]]:
    return [event for event in report_of(url)["events"] if event["kind"] == kind]


def test_the_percentiles_of_a_group_are_those_of_all_its_durations(
    make: Make, redis_url: str
) -> None:
    chance = random.Random(7)
    durations: list[float] = []
    for center in (-4.0, 0.5):
        metrics = WorkerMetrics("stt")
        own = [chance.lognormvariate(center, 1.5) for _ in range(2000)]
        for seconds in own:
            metrics.record_duration("processing_latency", seconds)
        durations += own
        make(lambda *_: None, metrics=metrics).connect()
    make(lambda *_: None).connect()  # it measures nothing
    shown(lambda: len(report_of(redis_url)["workers"]) == 3)
    report = report_of(redis_url)
    assert (report["workers_total"], report["workers_measured"]) == (3, 2)
    assert [one["latency"] is None for one in report["workers"]] == [False, False, True]
    latency = report["latency"]
    durations.sort()
    assert latency["count"] == 4000
    for share in (50, 95, 99):
        exact = durations[share * 40 - 1] * 1000
        assert latency[f"p{share}_ms"] == pytest.approx(exact, rel=0.0101), share
    assert latency["max_ms"] == pytest.approx(durations[-1] * 1000)
    assert latency["mean_ms"] == pytest.approx(sum(durations) / 4)


def test_a_worker_reports_its_outcomes_and_the_progress_of_what_it_runs(
    make: Make, producer: RedisStreamProducer, connection: Connection, redis_url: str
) -> None:
    release, reported = threading.Event(), threading.Event()

    def processor(_: str, job: dict[str, str]) -> None:
        if job["n"] == "fails":
            raise Retry(3600)
        if job["n"] == "runs":
            message = current_message()
            assert message is not None
            message.report_progress(0.4)
            reported.set()
            release.wait(30)

    try:
        metrics = WorkerMetrics("stt")
        consumer = make(processor, lease_seconds=2, threads=2, release="1.0", metrics=metrics)
        consumer.start()
        producer.publish({"n": "runs"})
        assert reported.wait(10)
        producer.publish_many({"n": n} for n in ("well", "fails"))
        shown(lambda: [one["retried"] for one in report_of(redis_url)["workers"]] == [1])
        report = report_of(redis_url)
        (job,) = report["jobs"]
        assert (job["worker"], job["state"]) == ("consumer-1", "running")
        assert job["reader"] in ("reader-1", "reader-2")
        assert (job["attempt"], job["progress"], report["jobs_total"]) == (1, 0.4, 1)
        (worker,) = report["workers"]
        assert (worker["done"], worker["retried"], worker["dead"]) == (1, 1, 0)
        assert (worker["state"], worker["release"], worker["running"]) == ("running", "1.0", 1)
        assert report["queue_wait"]["count"] >= 2
        make(lambda *_: None, release="1.1").connect()
        shown(lambda: events(redis_url, "release"))
        (deploy,) = events(redis_url, "release")
        assert "consumer-2 is the first with release 1.1; before it was 1.0" in deploy["text"]
        assert report_of(redis_url)["releases"] == {"1.0": 1, "1.1": 1}
        assert report_of(redis_url)["alive"]["counts"] == [2]
        pause(connection, KEYS, by="anna", reason="a new model")
        shown(lambda: report_of(redis_url)["workers"][0]["state"] == "paused")
        (reason,) = report_of(redis_url)["workers"][0]["paused"]
        assert reason == "anna has paused the group: a new model"
        assert [event["who"] for event in events(redis_url, "paused")] == ["anna"]
    finally:
        release.set()
    assert consumer.stop()
    kinds = [(event["kind"], event["worker"]) for event in report_of(redis_url)["events"]]
    assert kinds[0] == ("left", "consumer-1")
    assert kinds[-1] == ("started", "consumer-1")
    assert report_of(redis_url)["vanished"] == []


def test_a_worker_that_is_killed_vanishes_with_what_it_held(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, redis_url: str
) -> None:
    message_id = producer.publish({"n": 1})
    with worker_process(redis_url, lease_seconds=2) as process:
        shown(lambda: report_of(redis_url)["jobs_total"] == 1)
        process.send_signal(signal.SIGKILL)
    for _ in range(2):
        make(lambda *_: None, lease_seconds=2).start()
    shown(lambda: events(redis_url, "gone") and events(redis_url, "taken_over"))
    eventually(lambda: client.xlen(STREAM) == 0)
    report = report_of(redis_url)
    (gone,) = report["vanished"]
    assert (gone["name"], gone["pid"]) == ("doomed", process.pid)
    assert (gone["pending"], gone["message_ids"]) == (1, [message_id])
    assert "when it ran 1 message" in events(redis_url, "gone")[0]["text"]
    assert "took over 1 message from doomed" in events(redis_url, "taken_over")[0]["text"]


def test_a_worker_that_was_frozen_is_gone_until_it_is_back(make: Make, redis_url: str) -> None:
    make(lambda *_: None, lease_seconds=2).start()
    with worker_process(redis_url, lease_seconds=2) as process:
        shown(lambda: len(report_of(redis_url)["workers"]) == 2)
        process.send_signal(signal.SIGSTOP)
        shown(lambda: [one["name"] for one in report_of(redis_url)["vanished"]] == ["doomed"])
        process.send_signal(signal.SIGCONT)
        shown(lambda: events(redis_url, "back"))
        report = report_of(redis_url)
    assert "worker doomed sends heartbeats again after" in events(redis_url, "back")[0]["text"]
    assert (report["workers_total"], report["vanished"]) == (2, [])


def test_an_outage_of_redis_is_one_event_with_its_length(
    own_server: EmbeddedRedis, make: Make
) -> None:
    for _ in range(2):
        make(lambda *_: None, url=own_server.url, lease_seconds=3).start()
    shown(lambda: len(report_of(own_server.url)["workers"]) == 2)
    own_server.kill()
    own_server.start()
    shown(lambda: events(own_server.url, "redis_back"))
    (event,) = events(own_server.url, "redis_back")
    assert "could not use Redis for" in event["text"]
    assert not events(own_server.url, "gone")
    assert len(events(own_server.url, "started")) == 2


def test_without_the_right_to_its_keys_a_worker_works_and_says_so_once(
    own_server: EmbeddedRedis, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    known = (KEYS.reports, KEYS.events)
    patterns = [f"~{key}" for key in KEYS.all() if key not in known]
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        rights = ("on", ">pw", "+@all", "~{jobs}:published:*", *patterns)
        admin.execute_command("ACL", "SETUSER", "worker", *rights)
        url = own_server.url.replace("redis://", "redis://worker:pw@")
        done = threading.Event()
        caplog.set_level(logging.WARNING)
        consumer = make(lambda *_: done.set(), url=url, lease_seconds=1)
        consumer.start()
        with RedisStreamProducer(url, STREAM) as producer:
            producer.publish({"n": 1})
        assert done.wait(10)
        beats = admin.zscore(KEYS.presence, "consumer-1")
        eventually(lambda: admin.zscore(KEYS.presence, "consumer-1") > beats + 300)
        (reason,) = consumer.get_group_view()["report"]["reasons"]
        assert "this Redis user may not read them" in reason
        assert consumer.stop()
        assert not admin.exists(*known)
    told = [text for text in caplog.messages if "cannot report what it does" in text]
    assert len(told) == 1


def test_whatever_stands_in_its_keys_a_worker_works(
    make: Make, client: redis.Redis, redis_url: str
) -> None:
    client.set(KEYS.reports, "of another type")
    client.set(KEYS.events, "of another type")
    consumer = make(lambda *_: None, lease_seconds=1)
    consumer.start()
    eventually(lambda: client.zscore(KEYS.presence, "consumer-1"))
    assert json.dumps(consumer.get_group_view(), allow_nan=False)
    assert consumer.stop()
    assert client.zcard(KEYS.presence) == 0


def test_the_release_is_an_argument_or_in_the_environment(
    make: Make, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_SYNC_RELEASE", "2.0")
    make(lambda *_: None).connect()
    make(lambda *_: None, release="").connect()
    shown(lambda: report_of(redis_url)["releases"] == {"2.0": 1, "": 1})
    with pytest.raises(ConfigurationError, match="release has 101 characters"):
        make(lambda *_: None, release="x" * 101)
    assert KEYS.group == GROUP
