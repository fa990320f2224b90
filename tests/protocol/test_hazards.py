"""What takes messages away from a group, or hides them, is found, counted and said once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis
from helpers import Clock, Figures
from protocol_client import KEYS, Worker, make_connection

from shared_sync.common.guarded import GuardedLogger
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.protocol.hazards import REPORT_SECONDS, Hazards

LOGGER = GuardedLogger(logging.getLogger("tests.hazards"))
PERIOD_SECONDS = 30.0


class Watch:
    """Hazards that are looked for whenever the test says so."""

    def __init__(self, connection: Connection) -> None:
        self.clock, self.figures = Clock(), Figures()
        self.connection = connection
        self.hazards = Hazards(
            KEYS,
            period_seconds=PERIOD_SECONDS,
            recorder=self.figures,
            logger=LOGGER,
            clock=self.clock,
        )

    def reasons(self, *, after: float = PERIOD_SECONDS) -> list[str]:
        self.clock.now += after
        self.hazards.check(self.connection)
        return list(self.hazards.reasons)


@pytest.fixture
def watch(connection: Connection) -> Watch:
    return Watch(connection)


@pytest.fixture
def own_client(own_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_server.url, protocol=2) as plain:
        yield plain


def counts_entries(client: redis.Redis) -> bool:
    return not str(client.info("server")["redis_version"]).startswith("6.")


def test_a_queue_that_gets_on_has_no_hazards(watch: Watch, worker: Worker) -> None:
    assert watch.reasons() == []
    ids = worker.publish([b"n", b"1"], [b"n", b"2"], [b"n", b"3"])
    assert watch.reasons() == []
    worker.read(2)
    assert watch.reasons() == []
    worker.done(ids[1])
    assert watch.reasons() == []
    worker.park(ids[0])
    worker.read(1)
    worker.done(ids[2])
    assert watch.reasons() == []
    assert watch.figures.counters == {}


def test_without_a_stream_there_are_no_hazards(connection: Connection, client: redis.Redis) -> None:
    assert not client.exists(KEYS.stream)
    assert Watch(connection).reasons() == []


@pytest.mark.parametrize(
    ("policy", "hazards"),
    [("noeviction", 0), ("volatile-lru", 0), ("allkeys-lru", 1), ("allkeys-random", 1)],
)
def test_a_policy_that_evicts_streams_is_reported_with_its_remedy(
    own_server: EmbeddedRedis, own_client: redis.Redis, policy: str, hazards: int
) -> None:
    own_client.config_set("maxmemory-policy", policy)
    with closing(make_connection(own_server.url)) as connection:
        reasons = Watch(connection).reasons()
    assert len(reasons) == hazards
    assert all(f"is {policy}; set it to noeviction" in reason for reason in reasons)


def test_a_group_that_began_behind_the_first_entries_is_reported(
    connection: Connection, client: redis.Redis
) -> None:
    first = client.xadd(KEYS.stream, {"n": 1})
    client.xadd(KEYS.stream, {"n": 2})
    client.xgroup_create(KEYS.stream, KEYS.group, id="$")
    watch = Watch(connection)
    (reason,) = watch.reasons()
    assert f"no group is going to read entry {first.decode()}" in reason
    assert KEYS.group in reason
    # The remedy that the reason points to.
    client.xgroup_setid(KEYS.stream, KEYS.group, "0")
    assert watch.reasons() == []


def test_entries_that_another_group_still_needs_are_no_hazard(
    watch: Watch, worker: Worker, client: redis.Redis
) -> None:
    client.xgroup_create(KEYS.stream, "second", id="0")
    (first,) = worker.publish([b"n", b"1"])
    worker.read(1)
    worker.done(first)
    assert watch.reasons() == []
    client.xreadgroup("second", "w", {KEYS.stream: ">"})
    assert watch.reasons() == []


def test_messages_that_were_trimmed_unread_are_counted_and_reported_for_a_while(
    watch: Watch, worker: Worker, client: redis.Redis
) -> None:
    if not counts_entries(client):
        pytest.skip("this server does not count the entries that were added")
    worker.publish([b"n", b"0"])
    worker.read(1)
    assert watch.reasons() == []
    for n in range(10):
        client.xadd(KEYS.stream, {"n": n}, maxlen=4, approximate=False)
    (reason,) = watch.reasons()
    assert "trims" in reason
    assert "max_queue_depth" in reason
    assert watch.figures.counters == {"messages_deleted_unread": 6}
    assert watch.reasons(after=REPORT_SECONDS) == []
    assert watch.figures.counters == {"messages_deleted_unread": 6}


def test_what_was_trimmed_before_the_first_survey_is_not_reported(
    watch: Watch, worker: Worker, client: redis.Redis
) -> None:
    for n in range(10):
        client.xadd(KEYS.stream, {"n": n}, maxlen=4, approximate=False)
    worker.read(1)
    assert watch.reasons() == []


def test_a_reason_is_logged_when_it_begins_and_again_after_it_had_ended(
    connection: Connection, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.xadd(KEYS.stream, {"n": 1})
    client.xgroup_create(KEYS.stream, KEYS.group, id="$")
    watch = Watch(connection)
    watch.reasons()
    watch.reasons()
    assert sum("no group is going to read" in text for text in caplog.messages) == 1
    client.xgroup_setid(KEYS.stream, KEYS.group, "0")
    watch.reasons()
    client.xgroup_setid(KEYS.stream, KEYS.group, "$")
    watch.reasons()
    assert sum("no group is going to read" in text for text in caplog.messages) == 2


def test_between_two_surveys_redis_is_not_asked(watch: Watch, client: redis.Redis) -> None:
    client.xadd(KEYS.stream, {"n": 1})
    client.xgroup_create(KEYS.stream, KEYS.group, id="$")
    assert watch.reasons()
    client.delete(KEYS.stream)
    assert watch.reasons(after=PERIOD_SECONDS / 2)
    assert watch.reasons() == []


@pytest.mark.parametrize("missing", ["-info", "-xinfo|stream", "-xrange"])
def test_a_missing_right_is_logged_once_and_hides_only_what_needs_it(
    own_server: EmbeddedRedis,
    own_client: redis.Redis,
    missing: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rights = ["+@all"] if missing != "-xinfo|stream" else ["+@all", "-xinfo", "+xinfo|groups"]
    rights += [missing] if missing != "-xinfo|stream" else []
    own_client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", *rights)
    own_client.config_set("maxmemory-policy", "allkeys-lru")
    own_client.xadd(KEYS.stream, {"n": 1})
    own_client.xadd(KEYS.stream, {"n": 2})
    own_client.xgroup_create(KEYS.stream, KEYS.group, id="$")
    url = own_server.url.replace("redis://", "redis://worker:pw@")
    with closing(make_connection(url)) as connection:
        watch = Watch(connection)
        for _ in range(3):
            reasons = " ".join(watch.reasons())
    assert sum(f"lacks +{missing[1:]}" in text for text in caplog.messages) == 1
    assert ("noeviction" in reasons) == (missing != "-info")
    assert ("no group" in reasons) == (missing != "-xinfo|stream")
