"""A heartbeat reports the queue, finds consumers that left messages, and goes on in steps."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Clock, Figures
from protocol_client import KEYS
from readers import ScriptedConnection, first

from shared_sync.common.guarded import GuardedLogger, GuardedRecorder
from shared_sync.connection.availability import Availability
from shared_sync.errors import RedisRefused, RedisUnavailable
from shared_sync.protocol.commands import LONGEST_HEARTBEAT_SECONDS, GroupCommands
from shared_sync.redis_consumer.faults.group_pause import GroupPause
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.heartbeat import (
    BUSY_INTERVAL_SECONDS,
    Heartbeat,
)
from shared_sync.redis_consumer.server_clock import ServerClock
from shared_sync.redis_consumer.slot import Activity

NOW_MS = 1_700_000_000_000
LOGGER = GuardedLogger(logging.getLogger("tests.heartbeat"))


def summary(**pending: int) -> list[Any]:
    """What XPENDING says; `parked` stands for the reserved consumer."""
    names = {"parked": "~parked"}
    rows = [[names.get(name, name).encode(), b"%d" % count] for name, count in pending.items()]
    return [sum(pending.values()), b"1-0", b"9-0", rows]


def reply(
    pending: list[Any] | None,
    *,
    backlog: int = 10,
    dead: int = 0,
    due_times: int = 0,
    refusal: bytes = b"",
    ended_from: int = 0,
    restore_from: bytes = b"",
    now_ms: int = NOW_MS,
    cancelled: int = 0,
    next_scheduled_ms: int = -1,
    progress: int = 0,
    scheduled: int = 0,
) -> list[Any]:
    """What the script says."""
    jobs = [cancelled, next_scheduled_ms, progress, scheduled, b""]
    return [backlog, dead, due_times, refusal, ended_from, restore_from, pending, now_ms, *jobs]


class Scene:
    """A heartbeat over a connection that answers by a script."""

    def __init__(self, *replies: Any, lease_seconds: float = 30.0) -> None:
        self.connection = ScriptedConnection(*replies)
        self.activity = Activity()
        self.figures = Figures()
        self.server_clock = ServerClock(clock=Clock())
        self.found: list[list[str]] = []
        self.availability = Availability("redis://somewhere:6379/0", LOGGER, Clock())
        self.breaks = 0
        recovery = SimpleNamespace(
            found_consumers=lambda names: self.found.append(list(names)),
            heartbeat_broke=self._note_break,
        )
        self.heartbeat = Heartbeat(
            "heartbeat",
            connection=self.connection,  # type: ignore[arg-type]
            commands=GroupCommands(KEYS, "w1", 30_000, None, identity="me"),
            activity=self.activity,
            recovery=recovery,  # type: ignore[arg-type]
            group_pause=GroupPause(Pauses(logger=LOGGER), GuardedRecorder(None, LOGGER)),
            availability=self.availability,
            recorder=GuardedRecorder(self.figures, LOGGER),
            logger=LOGGER,
            lease_seconds=lease_seconds,
            server_clock=self.server_clock,
            clock=Clock(),
        )

    def _note_break(self) -> None:
        self.breaks += 1

    def goes_on_from(self) -> list[tuple[Any, ...]]:
        """Where each heartbeat went on: the rank of ended consumers, and the parked id."""
        return [exchange[0][-4:-2] for exchange in self.connection.sent]


@pytest.mark.parametrize(
    ("lease_seconds", "interval"), [(1.0, 1 / 6), (6.0, 1.0), (3600.0, LONGEST_HEARTBEAT_SECONDS)]
)
def test_several_heartbeats_are_sent_within_a_lease(lease_seconds: float, interval: float) -> None:
    assert Scene(lease_seconds=lease_seconds).heartbeat.interval_seconds == pytest.approx(interval)


def test_a_heartbeat_reports_the_sizes_of_the_queue() -> None:
    scene = Scene(reply(summary(w1=3, parked=2), backlog=9, dead=4, due_times=2, scheduled=7))
    assert scene.heartbeat.queue is None
    scene.heartbeat.step()
    queue = scene.heartbeat.queue
    assert queue is not None
    assert (queue.backlog, queue.waiting, queue.pending, queue.parked, queue.dead) == (
        9,
        4,
        5,
        2,
        4,
    )
    assert scene.figures.gauges == {
        "queue_depth": 9,
        "queue_waiting": 4,
        "jobs_pending": 3,
        "jobs_parked": 2,
        "scheduled": 7,
        "dead_letters": 4,
    }
    assert scene.availability.connected
    assert scene.connection.names() == [["heartbeat"]]
    assert scene.figures.counters["redis_operations"] == 1


def test_sizes_that_the_server_does_not_say_are_not_reported() -> None:
    scene = Scene(reply(summary(w1=3), backlog=-1, dead=-1))
    scene.heartbeat.step()
    assert scene.heartbeat.queue is not None
    assert scene.heartbeat.queue.waiting is None
    assert scene.figures.gauges == {"jobs_pending": 3, "jobs_parked": 0, "scheduled": 0}


def test_of_a_group_with_many_consumers_the_pending_messages_are_counted_apart() -> None:
    """So that the script stays short."""
    scene = Scene(reply(None), summary(w1=3, w2=4))
    scene.heartbeat.step()
    assert scene.connection.names() == [["heartbeat"], ["XPENDING"]]
    assert scene.found == [["w1", "w2"]]
    assert scene.figures.gauges["jobs_pending"] == 7
    assert scene.figures.counters["redis_operations"] == 2


def test_recovery_learns_of_all_consumers_that_have_messages_but_the_reserved_one() -> None:
    scene = Scene(reply(summary(w1=1, parked=5, stranger=2), due_times=5))
    scene.heartbeat.step()
    assert scene.found == [["w1", "stranger"]]


def test_a_heartbeat_goes_on_with_ended_consumers_where_the_last_one_stopped() -> None:
    nothing = summary()
    scene = Scene(reply(nothing, ended_from=70), reply(nothing, ended_from=0), reply(nothing))
    for _ in range(3):
        scene.heartbeat.step()
    assert [rank for rank, _ in scene.goes_on_from()] == [0, 70, 0]


def test_due_times_that_were_lost_are_restored_quickly_and_in_steps() -> None:
    parked = summary(parked=250)
    scene = Scene(
        reply(parked, due_times=0),
        reply(parked, due_times=100, restore_from=b"(100-0"),
        reply(parked, due_times=200, restore_from=b"(200-0"),
        reply(parked, due_times=250),
        reply(parked, due_times=250),
    )
    intervals = []
    for _ in range(5):
        scene.heartbeat.step()
        intervals.append(scene.heartbeat.interval_seconds)
    assert [restore_from for _, restore_from in scene.goes_on_from()] == [
        "",
        "-",
        "(100-0",
        "(200-0",
        "",
    ]
    busy = BUSY_INTERVAL_SECONDS
    assert intervals == [LONGEST_HEARTBEAT_SECONDS, busy, busy, *[LONGEST_HEARTBEAT_SECONDS] * 2]


def test_a_right_that_is_missing_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    refused = reply(summary(), refusal=b"NOPERM this user has no permissions")
    scene = Scene(refused, refused)
    for _ in range(2):
        scene.heartbeat.step()
    assert sum("a right is missing" in text for text in caplog.messages) == 1


@pytest.mark.parametrize(
    "error", [RedisUnavailable("gone"), RedisRefused("HELD by another", code="HELD")]
)
def test_what_the_connection_raises_comes_through_and_the_last_sizes_stay(
    error: Exception,
) -> None:
    scene = Scene(reply(summary(w1=1)), error)
    scene.heartbeat.step()
    queue = scene.heartbeat.queue
    with pytest.raises(type(error)):
        scene.heartbeat.step()
    assert scene.heartbeat.queue is queue
    assert not scene.activity.receives


def test_while_it_waits_for_its_reply_it_says_so() -> None:
    seen: list[bool] = []
    scene = Scene()
    scene.connection.replies.append(
        first(lambda: seen.append(scene.activity.receives), then=reply(summary()))
    )
    scene.heartbeat.step()
    assert seen == [True]
    assert not scene.activity.receives


def test_a_heartbeat_hears_what_the_servers_clock_shows() -> None:
    scene = Scene(reply(summary()))
    scene.heartbeat.step()
    assert scene.server_clock.offset_seconds == NOW_MS / 1000 - Clock.now


def test_after_the_servers_clock_went_back_all_due_times_are_looked_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In steps, although none is lost: some may be later than they can be."""
    parked = summary(parked=300)
    before = reply(parked, due_times=300)
    back = reply(parked, due_times=300, now_ms=NOW_MS - 3_600_000)
    middle = reply(parked, due_times=300, now_ms=NOW_MS - 3_599_000, restore_from=b"(5-0")
    end = reply(parked, due_times=300, now_ms=NOW_MS - 3_598_000)
    scene = Scene(before, back, middle, end, end)
    for _ in range(5):
        scene.heartbeat.step()
    assert [one[1] for one in scene.goes_on_from()] == ["", "", "-", "(5-0", ""]
    assert "the clock of the Redis server went back by 3600.0 s" in caplog.text


def test_a_connection_that_broke_is_reported_to_recovery_and_other_errors_are_not() -> None:
    broken = RedisUnavailable("the connection broke")
    broken.connection_broke = True
    scene = Scene(broken, RedisUnavailable("LOADING"), RedisRefused("OOM"))
    for error in (RedisUnavailable, RedisUnavailable, RedisRefused):
        with pytest.raises(error):
            scene.heartbeat.step()
        assert scene.breaks == 1
