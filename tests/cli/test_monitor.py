"""What `health serve` finds out about a Redis, a stream and a group, one inspection at a time."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from group_views import worker_process
from helpers import Clock, eventually

from shared_sync import RedisStreamProducer, WorkerMetrics
from shared_sync.cli.monitor import Monitor
from shared_sync.connection import discovery
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.protocol.inspection import GroupView
from shared_sync.protocol.keys import Keys

REDIS_PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
(SERVES_RIGHTS,) = re.findall(r"`(\+time [^`]+)`", REDIS_PAGE)
VIEWERS_RIGHTS = (*SERVES_RIGHTS.split(), "+xinfo|consumers", "+xrevrange")


def monitor_of(redis_url: str, clock: Callable[[], float] = time.monotonic) -> Monitor:
    """A monitor that inspects Redis only when the test says so."""
    keys = Keys.of("jobs", "workers")
    return Monitor(
        redis_url, keys, WorkerMetrics("monitor"), logging.getLogger("test"), clock=clock
    )


def test_what_was_added_and_finished_is_counted_where_the_server_counts(
    redis_url: str, client: redis.Redis
) -> None:
    monitor = monitor_of(redis_url)
    monitor.inspect()
    assert monitor.get_metrics_data()["entries_added_total"] is None
    with RedisStreamProducer(redis_url, "jobs") as producer:
        producer.publish_many({"n": n, "audio": "x" * 1000} for n in range(5))
    client.xgroup_create("jobs", "workers", id="0")
    client.xdel("jobs", *(entry_id for entry_id, _ in client.xrange("jobs", count=2)))
    monitor = monitor_of(redis_url)
    monitor.inspect()
    values = monitor.get_metrics_data()
    counted = (values["entries_added_total"], values["entries_finished_total"])
    old = str(client.info("server")["redis_version"]).startswith("6.")
    assert counted == ((None, None) if old else (5, 2))
    monitor.stop()


def test_metrics_are_there_for_prometheus_without_what_is_not_known(
    redis_url: str, client: redis.Redis
) -> None:
    client.xadd("jobs", {"n": 1})
    client.xgroup_create("jobs", "workers", id="0")
    monitor = monitor_of(redis_url)
    before = monitor.render_prometheus().decode()
    assert "queue_depth" not in before
    monitor.inspect()
    text = monitor.render_prometheus().decode()
    labels = '{group="workers",instance_id="monitor",stream="jobs"}'
    assert f"\nqueue_depth{labels} 1.0\n" in text
    assert "# HELP queue_depth Messages that are not finished." in text
    assert "# TYPE consumers_alive gauge" in text
    if not str(client.info("server")["redis_version"]).startswith("6."):
        assert f"\nentries_added_total{labels} 1.0\n" in text
    assert monitor.render_openmetrics().decode().endswith("# EOF\n")
    monitor.stop()


def test_without_the_right_to_count_all_else_goes_on_and_it_is_logged_once(
    own_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.xgroup_create("jobs", "workers", id="0", mkstream=True)
        # What docs/redis.md names for the page alone.
        rights = ("~jobs", "~{jobs}:*", *VIEWERS_RIGHTS)
        admin.execute_command("ACL", "SETUSER", "viewer", "on", ">pw", *rights)
    clock = Clock()
    url = own_server.url.replace("redis://", "redis://viewer:pw@")
    monitor = monitor_of(url, clock)
    for _ in range(3):
        monitor.inspect()
        clock.now += 10
    assert monitor.get_metrics_data()["queue_depth"] == 0
    assert monitor.get_metrics_data()["entries_added_total"] is None
    assert monitor.get_metrics_data()["scheduled"] is None
    for what in (r"\+xinfo\|stream", r"scheduled jobs cannot be counted: .*zcard"):
        assert len([text for text in caplog.messages if re.search(what, text)]) == 1
    assert "viewer" not in caplog.text
    monitor.stop()
    connect = discovery.connector(url, key="jobs", reply_timeout_seconds=5)
    assert "reasons" not in GroupView(connect, Keys.of("jobs", "workers")).read()


def test_an_answer_that_is_too_old_is_none(redis_url: str) -> None:
    clock = Clock()
    monitor = monitor_of(redis_url, clock)
    assert monitor.check_redis()["reasons"] == ["Redis has never answered"]
    monitor.inspect()
    assert monitor.check_redis() == {"seconds_since_answer": 0}
    clock.now += 60
    assert monitor.check_redis()["ready"] is False
    assert monitor.check_redis()["reasons"] == ["Redis does not answer"]
    assert monitor.get_health_data()["live"] is True
    monitor.stop()


def test_values_from_before_the_process_stood_still_are_not_those_of_now(
    redis_url: str, client: redis.Redis, clock: Clock
) -> None:
    client.xgroup_create("jobs", "workers", id="0", mkstream=True)
    client.zadd("{jobs}:scheduled", {"later": 1e15})
    keys = Keys.of("jobs", "workers")
    logger = logging.getLogger("test")
    monitor = Monitor(redis_url, keys, WorkerMetrics("monitor"), logger, wall=clock)
    monitor.inspect()
    assert monitor.get_metrics_data()["queue_depth"] == 0
    assert monitor.get_metrics_data()["scheduled"] == 1
    clock.now += 60
    assert monitor.get_metrics_data()["queue_depth"] is None
    assert monitor.get_metrics_data()["scheduled"] is None
    client.xadd("jobs", {"n": 1})
    monitor.inspect()
    assert monitor.get_metrics_data()["queue_depth"] == 1
    clock.now -= 3600  # set back
    assert monitor.get_metrics_data()["queue_depth"] == 1
    monitor.stop()


def test_who_dies_while_nobody_looks_is_on_the_page_for_an_hour(
    redis_url: str, client: redis.Redis, clock: Clock
) -> None:
    client.xgroup_create("jobs", "workers", id="0", mkstream=True)
    monitor = monitor_of(redis_url, clock)
    presence = Keys.of("jobs", "workers").presence

    def inspect() -> None:
        clock.now += 5
        monitor.inspect()

    for left in (30, 5, -1):
        seconds, _ = client.time()
        client.zadd(presence, {"doomed": (seconds + left) * 1000})
        inspect()
    client.zrem(presence, "doomed")
    inspect()
    assert monitor.group_view is not None
    tables = monitor.group_view.read()
    assert tables["consumers"] == []
    assert [row["name"] for row in tables["consumers_gone"]] == ["doomed"]
    monitor.stop()


def test_without_the_rights_to_watch_consumers_the_monitor_goes_on(
    own_server: EmbeddedRedis, clock: Clock
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.xgroup_create("jobs", "workers", id="0", mkstream=True)
        rights = ("~jobs", "~{jobs}:*", *SERVES_RIGHTS.split())
        admin.execute_command("ACL", "SETUSER", "viewer", "on", ">pw", *rights)
    monitor = monitor_of(own_server.url.replace("://", "://viewer:pw@"), clock)
    for _ in range(3):
        monitor.inspect()
        clock.now += 10
        assert monitor.get_metrics_data()["queue_depth"] == 0
    monitor.stop()


def test_the_last_worker_that_is_killed_shows_before_its_lease_ends(
    redis_url: str, client: redis.Redis
) -> None:
    """After three heartbeats that did not come: 6 s with the default lease of 30 s."""
    monitor, presence = monitor_of(redis_url), Keys.of("jobs", "workers").presence

    def health() -> object:
        monitor.inspect()
        return monitor.check_group().get("status", "healthy")

    with worker_process(redis_url, lease_seconds=6) as process:
        eventually(lambda: client.zcard(presence) == 1)
        assert health() == "healthy"
        process.kill()
        eventually(lambda: health() == "unhealthy")
        (reason,) = monitor.check_group()["reasons"]
        assert f"look at process {process.pid} on" in reason
        seconds, _ = client.time()
        assert seconds < client.zscore(presence, "doomed") / 1000 - 1, "its lease runs"
    monitor.stop()
