"""shared-sync groups list and drop: what a group holds back, and how it is removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis
from consumers import Make, results
from helpers import eventually
from protocol_client import KEYS, Worker, make_connection

from shared_sync import RedisStreamProducer
from shared_sync.cli.main import main
from shared_sync.connection.connection import Connection
from shared_sync.errors import QueueFull
from shared_sync.protocol.keys import Keys

MISTYPED = Keys.of("jobs", "wrokers")


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    with closing(make_connection(redis_url)) as made:
        yield made


def groups(redis_url: str, action: str, *words: str, stream: str = "jobs") -> int:
    return main(["groups", action, "--redis-url", redis_url, "--stream", stream, *words])


def test_dropping_a_mistyped_group_frees_the_stream_that_it_had_blocked(
    make: Make, redis_url: str, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    make(lambda *_: "done", result_stream="results").start()
    client.xgroup_create("jobs", MISTYPED.group, "0")
    with RedisStreamProducer(redis_url, "jobs", max_queue_depth=30) as producer:
        producer.publish_many({"n": n} for n in range(30))
        eventually(lambda: len(results(client)) == 30)
        with pytest.raises(QueueFull, match="wrokers"):
            producer.publish({"n": 31})
        assert groups(redis_url, "list", "--json") == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        found = {row["group"]: row for row in rows}
        assert found["wrokers"]["holds_back"] == 30
        assert found["wrokers"]["holds_back_seconds"] >= 0
        assert (found["workers"]["holds_back"], found["workers"]["consumers_alive"]) == (0, 1)
        assert groups(redis_url, "list") == 0
        assert "entries, the oldest for " in capsys.readouterr().out

        assert groups(redis_url, "drop", MISTYPED.group) == 0
        text = capsys.readouterr().out
        assert "group wrokers of stream jobs is dropped" in text
        assert "30 entries are deleted that only this group kept" in text
        assert client.xlen("jobs") == 0
        assert client.keys("{jobs}:wrokers:*") == []
        producer.publish({"n": 31})
    eventually(lambda: len(results(client)) == 31)


def test_the_stream_is_freed_without_a_worker_of_the_other_group(
    connection: Connection, redis_url: str, client: redis.Redis
) -> None:
    ours = Worker(connection, "w1")
    connection.call(*ours.commands.sweep(is_new=True))
    client.xgroup_create("jobs", MISTYPED.group, "0")
    *done, last = ours.publish([b"n", b"1"], [b"n", b"2"], [b"n", b"3"])
    ours.read(3)
    ours.done(*done)
    assert client.xlen("jobs") == 3
    assert groups(redis_url, "drop", MISTYPED.group) == 0
    assert [entry_id.decode() for entry_id, _ in client.xrange("jobs")] == [last]


def test_a_group_with_something_to_lose_is_dropped_with_force_only(
    connection: Connection,
    redis_url: str,
    client: redis.Redis,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Worker(connection, "w1")
    other = Worker(connection, "w1", keys=MISTYPED)
    first, *_ = other.publish([b"n", b"1"], [b"n", b"2"], [b"n", b"3"])
    other.read(3)
    other.bury(first)
    assert groups(redis_url, "drop", MISTYPED.group) == 1
    error = capsys.readouterr().err
    assert "2 of its messages are pending" in error
    assert "1 of its consumers live" in error
    assert "--force drops it all the same" in error
    assert len(client.xinfo_groups("jobs")) == 2
    assert groups(redis_url, "drop", MISTYPED.group, "--force") == 0
    assert f"its dead letters stay in {MISTYPED.dead} (1)" in capsys.readouterr().out
    kept = {MISTYPED.dead.encode(), MISTYPED.dead_index.encode()}
    assert {*client.keys("{jobs}:wrokers:*")} == kept
    assert client.xlen("jobs") == 3, "the other group still needs them"
    # Once more: it is gone, and what it had left goes too.
    assert groups(redis_url, "drop", MISTYPED.group, "--with-dead-letters") == 0
    assert "was gone already" in capsys.readouterr().out
    assert client.keys("{jobs}:wrokers:*") == []


def test_the_only_group_of_a_stream_with_entries_and_a_mistyped_name_are_refused(
    redis_url: str, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    client.xgroup_create("jobs", "workers", "0", mkstream=True)
    client.xadd("jobs", {"n": 1})
    for words, stream, remedy in (
        (["workers"], "jobs", "the only group of the stream, whose 1 entries nobody would read"),
        (["wrokers"], "jobs", "did you mean 'workers'?"),
        (["workers"], "jbos", "did you mean 'jobs'?"),
    ):
        assert groups(redis_url, "drop", *words, stream=stream) == 1
        assert remedy in capsys.readouterr().err
    assert client.xinfo_groups("jobs")
    assert groups(redis_url, "list", stream="jbos") == 1
    assert groups(redis_url, "drop", "workers", "--force") == 0
    assert client.xinfo_groups("jobs") == []
    assert not client.exists(KEYS.presence)


def test_a_group_is_paused_and_resumed_by_commands(
    make: Make, redis_url: str, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    consumer = make(print, consumer_id="w1", lease_seconds=1.2)
    consumer.start()
    where = ("--redis-url", redis_url, "--stream", "jobs", "--group", "workers")
    words = ("--by", "alice", "--reason", "a new model")
    assert main(["pause", *where, *words, "--wait", "10"]) == 0
    assert "group workers of stream jobs is paused" in capsys.readouterr().out
    assert consumer.get_health_data()["paused_by"] == "alice"
    assert main(["pause", *where, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["was_paused"], document["paused"]["by"]) == (True, "alice")
    assert document["not_paused_yet"] == []
    assert main(["resume", *where]) == 0
    assert "alice had paused it" in capsys.readouterr().out
    eventually(lambda: not consumer.get_health_data()["paused"])
    assert main(["resume", *where]) == 0
    assert "was not paused" in capsys.readouterr().out
