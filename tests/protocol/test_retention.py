"""Results and dead letters beyond a number or an age are deleted, the oldest first, in steps."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis
from consumers import Make
from helpers import Clock, Figures, eventually
from protocol_client import KEYS, GroupAdmin, Worker, make_connection

from shared_sync import RedisStreamProducer
from shared_sync.common.guarded import GuardedLogger, GuardedRecorder
from shared_sync.connection.connection import Connection
from shared_sync.protocol import retention
from shared_sync.protocol.messages import Address, Answer, Finish
from shared_sync.protocol.retention import (
    LETTERS_IN_A_STEP,
    MOST_STREAMS,
    RESULTS_IN_A_STEP,
    RETENTION_SECONDS,
    ROUNDS_UNTIL_FORGOTTEN,
    Limits,
    ResultStreams,
    Retention,
)

LOGGER = GuardedLogger(logging.getLogger("tests.retention"))
ANY = Limits(max_entries=10**6)


class Scene:
    """The retention of one consumer, over a connection of its own."""

    def __init__(self, connection: Connection, **limits: Limits) -> None:
        self.clock, self.figures = Clock(), Figures()
        self.streams = ResultStreams("results")
        self.connection = connection
        self.retention = Retention(
            KEYS,
            results=limits.get("results", Limits()),
            letters=limits.get("letters", Limits()),
            result_streams=self.streams,
            recorder=GuardedRecorder(self.figures, LOGGER),
            logger=LOGGER,
            clock=self.clock,
        )

    def step(self) -> None:
        self.retention.check(self.connection)

    def round(self) -> int:
        """Make a whole round; return how many steps it took."""
        self.clock.now += RETENTION_SECONDS
        steps = 0
        while not steps or self.retention.is_busy:
            self.step()
            steps += 1
        return steps


def fill(client: redis.Redis, stream: str, ages_ms: list[int], **fields: Any) -> list[str]:
    """Add an entry of each age, the oldest first; return their ids."""
    now_ms = GroupAdmin(client).now_ms()
    with client.pipeline(transaction=False) as many:
        for number, age_ms in enumerate(ages_ms):
            many.xadd(stream, {"n": number, **fields}, id=f"{now_ms - age_ms}-{number}")
        return [entry_id.decode() for entry_id in many.execute()]


def ids(client: redis.Redis, stream: str) -> list[str]:
    return [entry_id.decode() for entry_id, _ in client.xrange(stream)]


def test_the_newest_entries_are_kept_and_the_rest_goes_in_steps(
    connection: Connection, client: redis.Redis
) -> None:
    results = fill(client, "results", [9000] * (3 * RESULTS_IN_A_STEP))
    letters = fill(client, KEYS.dead, [9000] * 250)
    scene = Scene(connection, results=Limits(max_entries=700), letters=Limits(max_entries=7))
    scene.step()
    assert client.xlen("results") == 2 * RESULTS_IN_A_STEP
    assert client.xlen(KEYS.dead) == 250 - LETTERS_IN_A_STEP
    scene.round()
    assert ids(client, "results") == results[-700:]
    assert ids(client, KEYS.dead) == letters[-7:]
    assert scene.figures.counters["results_trimmed"] == 3 * RESULTS_IN_A_STEP - 700
    assert scene.figures.counters["dead_letters_trimmed"] == 243
    assert scene.round() == 1, "there is nothing to do"


@pytest.mark.parametrize("size", [1, 5000], ids=["many in a node", "one in a node"])
def test_only_entries_older_than_the_limit_are_deleted(
    connection: Connection, client: redis.Redis, size: int
) -> None:
    ages = [60_000] * 350 + [500] * 30
    kept = fill(client, KEYS.dead, ages, text="x" * size)[350:]
    results = fill(client, "results", ages, text="x" * size)
    scene = Scene(connection, letters=Limits(ttl_seconds=30))
    scene.step()
    assert client.xlen(KEYS.dead) >= len(ages) - LETTERS_IN_A_STEP
    scene.round()
    assert ids(client, KEYS.dead) == kept
    assert ids(client, "results") == results, "they have no limit"
    assert scene.figures.counters == {"dead_letters_trimmed": 350}


def test_both_limits_hold_together(connection: Connection, client: redis.Redis) -> None:
    entries = fill(client, "results", [60_000] * 5 + [500] * 5)
    Scene(connection, results=Limits(max_entries=8, ttl_seconds=30)).round()
    assert ids(client, "results") == entries[5:]
    Scene(connection, results=Limits(max_entries=2, ttl_seconds=30)).round()
    assert ids(client, "results") == entries[8:]


def test_trimmed_letters_leave_the_index_although_earlier_letters_are_not_in_it(
    connection: Connection, client: redis.Redis
) -> None:
    fill(client, KEYS.dead, [9000] * 30)
    client.zadd(KEYS.dead_index, {f"{number:02}": 0 for number in range(10, 30)})
    Scene(connection, letters=Limits(max_entries=25)).round()
    assert client.zcard(KEYS.dead_index) == 20
    Scene(connection, letters=Limits(max_entries=3)).round()
    assert client.zrange(KEYS.dead_index, 0, -1) == [b"27", b"28", b"29"]


def test_each_stream_of_a_template_is_limited_and_removed_when_it_is_empty(
    connection: Connection, client: redis.Redis
) -> None:
    for name in ("old", "read by a group", "young"):
        fill(client, name, [500 if name == "young" else 60_000] * 3)
    client.xgroup_create("read by a group", "gateway", "0")
    fill(client, "results", [60_000])
    scene = Scene(connection, results=Limits(ttl_seconds=30))
    for name in ("old", "read by a group", "young", "never written"):
        scene.streams.note(name)
    scene.round()
    assert client.exists("old", "never written") == 0
    lengths = {name: client.xlen(name) for name in ("read by a group", "young", "results")}
    assert lengths == {"read by a group": 0, "young": 3, "results": 0}
    assert client.exists("read by a group", "results") == 2
    assert scene.figures.counters == {"results_trimmed": 7}


def test_a_stream_that_is_gone_is_forgotten_unless_a_result_is_on_its_way_there() -> None:
    streams = ResultStreams()
    streams.note("a")
    for _ in range(ROUNDS_UNTIL_FORGOTTEN):
        assert streams.begin_round() == ["a"]
        streams.note("a")
        streams.gone("a")
    for _ in range(ROUNDS_UNTIL_FORGOTTEN):
        assert streams.begin_round() == ["a"]
        streams.gone("a")
    assert streams.begin_round() == []


def test_streams_that_messages_name_are_noted_and_those_of_callers_are_not(
    connection: Connection, client: redis.Redis
) -> None:
    worker = Worker(connection, "w1", results=None)
    noted = worker.commands.result_streams = ResultStreams()
    ids = worker.publish([b"n", b"1"], [b"n", b"2"], [b"n", b"3"])
    worker.read()
    streams = ("results:a", "results:b", "{jobs}:replies:c")
    first, second, callers = (Address(name, "replies" not in name) for name in streams)
    worker.settle(Finish(ids[0], [b"text", b"A"], address=first))
    worker.settle(Finish(ids[1], [b"text", b"B"], address=callers))
    worker.bury(ids[2], answer=Answer([b"text", b"C"], address=second))
    assert client.exists(*streams) == 2
    assert noted.begin_round() == ["results:a", "results:b"]


def test_beyond_the_limit_the_oldest_streams_are_forgotten() -> None:
    streams = ResultStreams("fixed")
    for number in range(MOST_STREAMS + 5):
        streams.note(str(number))
    known = streams.begin_round()
    assert len(known) == MOST_STREAMS + 1
    assert known[:2] == ["fixed", "5"]


def test_without_the_right_nothing_is_deleted_and_the_log_says_so_once(
    redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    fill(client, "results", [9000] * 30)
    rights = ("+evalsha", "+script|load", "+xlen", "+time")
    client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", *rights)
    scene = Scene(
        make_connection(redis_url.replace("://", "://worker:pw@")), results=Limits(max_entries=1)
    )
    for _ in range(3):
        scene.clock.now += RETENTION_SECONDS
        scene.step()
    scene.connection.close()
    assert client.xlen("results") == 30
    assert caplog.text.count("+xtrim") == 1
    assert not scene.retention.is_busy


def test_a_key_of_another_type_does_not_stop_retention(
    connection: Connection, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.set("results", "something else")
    fill(client, KEYS.dead, [9000] * 3)
    scene = Scene(connection, results=ANY, letters=Limits(max_entries=1))
    scene.round()
    assert client.xlen(KEYS.dead) == 1
    assert caplog.text.count("WRONGTYPE") == 1


def test_a_consumer_limits_what_it_leaves_behind(make: Make, client: redis.Redis) -> None:
    fill(client, "results", [60_000] * 20)
    fill(client, KEYS.dead, [500] * 3)
    figures = Figures()
    limits = {"result_ttl_seconds": 30, "dead_max_entries": 1}
    make(lambda *_: None, metrics=figures, result_stream="results", **limits).start()
    trimmed = {"results_trimmed": 20, "dead_letters_trimmed": 2}
    eventually(lambda: trimmed.items() <= figures.counters.items())
    assert (client.xlen("results"), client.xlen(KEYS.dead)) == (0, 1)


def test_a_consumer_limits_each_stream_that_its_messages_name(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "RETENTION_SECONDS", 0.1)
    fill(client, "results:a", [60_000] * 20)
    fill(client, "results:b", [60_000] * 20)
    limits = {"result_ttl_seconds": 30, "lease_seconds": 1}
    make(lambda *_: {"text": "A"}, result_stream="results:{gateway}", **limits).start()
    producer.publish({"gateway": "a"})
    eventually(lambda: client.xlen("results:a") == 1)
    assert client.xlen("results:b") == 20, "it has never written there"


class Counting:
    """Stands in for a connection, and counts the commands."""

    def __init__(self) -> None:
        self.commands = 0

    def call_all(self, *commands: Any) -> list[Any]:
        self.commands += len(commands)
        return [[0, 0, b""] for _ in commands]


def test_a_round_comes_now_and_then_and_never_without_a_limit() -> None:
    connection = Counting()
    scene = Scene(connection, results=ANY)  # type: ignore[arg-type]
    for _ in range(3):
        scene.step()
    assert connection.commands == 1
    scene.clock.now += RETENTION_SECONDS
    scene.step()
    assert connection.commands == 2
    unlimited = Scene(connection)  # type: ignore[arg-type]
    unlimited.step()
    assert connection.commands == 2
