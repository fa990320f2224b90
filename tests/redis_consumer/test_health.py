"""What probes learn is as bad as it is, and no worse; addresses stay out of the reasons."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from helpers import Clock

from shared_sync.common.guarded import GuardedLogger
from shared_sync.connection.availability import Availability
from shared_sync.errors import (
    ConsumerBroken,
    ConsumerIdInUse,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
)
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.health import REDIS_IS_FULL, ConsumerHealth, judge
from shared_sync.redis_consumer.job_budget import Job
from shared_sync.redis_consumer.running_jobs import RunningJob
from shared_sync.redis_consumer.slot import Attempt, Slot
from shared_sync.redis_consumer.state import State
from shared_sync.redis_consumer.watchdog import ReaderState, Snapshot

LOGGER = GuardedLogger(logging.getLogger("tests.health"))
ADDRESS = "redis://10.0.0.7:6379/0"
TAKEN = ConsumerIdInUse("stt-1", host="gpu-7", pid=4711)
AT_WORK = [State.RUNNING, State.DRAINING]
NOT_AT_WORK = [State.NEW, State.STARTING, State.STOPPED]


def job(seconds: float, *, given_up: bool) -> Job:
    message = Entry("17-0", [])
    attempt = Attempt([message], 1, 0.0)
    attempt.given_up = given_up
    return Job(RunningJob(message, attempt, Slot("reader-1"), seconds), 60.0, 90.0)


class Facts:
    """A consumer that is well, but for what a test changes."""

    def __init__(self) -> None:
        self.availability = Availability(ADDRESS, LOGGER, Clock())
        self.availability.succeeded("heartbeat")
        self.state = State.RUNNING
        self.readers = [
            ReaderState("reader-1", "running", 1.0),
            ReaderState("reader-2", "waiting", 1.0),
        ]
        self.jobs: list[Job] = []
        self.stalled: dict[str, str] = {}
        self.silent = False
        self.silent_seconds = 0.1
        self.broken: ConsumerBroken | None = None
        self.ended: list[str] = []
        self.asks_redis = True
        self.waits: list[str] = []

    def health(self) -> ConsumerHealth:
        return judge(
            self.state,
            Snapshot(self.jobs, self.readers, self.stalled, self.silent, self.silent_seconds),
            availability=self.availability,
            group="the group workers of stream jobs",
            broken=self.broken,
            ended=self.ended,
            asks_redis=self.asks_redis,
            waits=self.waits,
        )

    def summary(self) -> tuple[bool, bool, str | None, list[str]]:
        """Live, ready, the status and the reasons."""
        health = self.health()
        data: dict[str, Any] = health.data()
        return health.live, health.ready, data.get("status"), data.get("reasons", [])


@pytest.fixture
def facts() -> Facts:
    return Facts()


def test_where_all_is_well_nothing_is_reported(facts: Facts) -> None:
    assert facts.summary() == (True, True, None, [])
    assert facts.health().data() == {}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State.NEW, "not started"),
        (State.STARTING, "starting"),
        (State.DRAINING, "draining"),
        (State.STOPPED, "stopped"),
    ],
)
def test_a_consumer_that_does_not_run_is_degraded(facts: Facts, state: State, reason: str) -> None:
    facts.state = state
    assert facts.summary() == (True, False, "degraded", [reason])


def test_a_name_that_was_taken_is_reported_without_saying_where(facts: Facts) -> None:
    facts.broken, facts.state = TAKEN, State.STOPPED
    reasons = ["another process has taken this consumer's name", "stopped"]
    assert facts.summary() == (False, False, "unhealthy", reasons)
    assert "gpu-7" in facts.health().data()["details"]["name"]


@pytest.mark.parametrize(
    "broken", [None, ConsumerBroken("threads of the pool ended by themselves: a")]
)
def test_threads_that_ended_are_reported_once(facts: Facts, broken: ConsumerBroken | None) -> None:
    facts.broken, facts.ended = broken, ["a"]
    reasons = ["threads of the pool ended by themselves: a"]
    assert facts.summary() == (False, False, "unhealthy", reasons)


def test_a_stalled_loop_is_not_live_while_the_consumer_runs(facts: Facts) -> None:
    facts.stalled = {"heartbeat": "emit (/app/log.py:7)"}
    reasons = ["heartbeat is stalled: it does not go on, and runs no job"]
    assert facts.summary() == (False, False, "unhealthy", reasons)
    assert facts.health().data()["details"] == {"stalled": {"heartbeat": "emit (/app/log.py:7)"}}
    facts.state = State.DRAINING
    assert facts.summary() == (True, False, "degraded", ["draining"])


def test_a_job_over_its_limit_is_fatal_while_the_consumer_runs(facts: Facts) -> None:
    facts.jobs = [job(95.0, given_up=True)]
    reason = "reader reader-1 runs message 17-0 for 95 s, its limit is 90 s"
    assert facts.summary() == (False, False, "unhealthy", [reason])
    facts.state = State.DRAINING
    assert facts.summary() == (True, False, "degraded", ["draining", reason])


@pytest.mark.parametrize("state", ["late", "stuck", "stalled", "ended"])
def test_without_a_free_reader_it_is_not_ready(facts: Facts, state: str) -> None:
    facts.readers = [ReaderState("reader-1", state, 1.0), ReaderState("reader-2", "stuck", 1.0)]
    assert facts.summary() == (True, False, "degraded", ["no reader is free: nothing is consumed"])


@pytest.mark.parametrize("other", ["late", "stuck"])
@pytest.mark.parametrize("state", ["waiting", "running"])
def test_one_free_reader_is_enough(facts: Facts, state: str, other: str) -> None:
    facts.readers = [ReaderState("reader-1", other, 1.0), ReaderState("reader-2", state, 1.0)]
    assert facts.summary() == (True, True, None, [])


def test_readers_that_are_all_late_are_not_free_and_their_jobs_are_named(facts: Facts) -> None:
    late = job(65.0, given_up=False)
    facts.jobs = [late]
    facts.readers = [ReaderState("reader-1", "late", 65.0), ReaderState("reader-2", "late", 65.0)]
    reasons = ["no reader is free: nothing is consumed", late.reason()]
    assert facts.summary() == (True, False, "degraded", reasons)


@pytest.mark.parametrize("state", AT_WORK)
def test_a_redis_that_is_away_is_unhealthy_with_the_address_and_the_error_in_the_details(
    facts: Facts, state: State
) -> None:
    facts.state = state
    facts.availability.failed("reader-1", RedisUnavailable("connection refused"))
    facts.silent_seconds = 4.2
    live, ready, status, reasons = facts.summary()
    assert (live, ready, status) == (True, False, "unhealthy")
    assert reasons[0] == "Redis has not answered for 4 s"
    details = {"redis": ADDRESS, "error": "connection refused"}
    assert facts.health().data()["details"] == details


def test_a_redis_that_is_silent_has_no_error_yet(facts: Facts) -> None:
    facts.silent, facts.silent_seconds = True, 4.2
    assert facts.summary() == (True, False, "unhealthy", ["Redis has not answered for 4 s"])
    assert facts.health().data()["details"] == {"redis": ADDRESS}


def test_a_redis_that_fails_only_some_does_not_answer(facts: Facts) -> None:
    facts.availability.failed("reader-1", RedisUnavailable("connection reset"))
    assert facts.summary()[3] == ["Redis does not answer"]


def test_a_redis_that_refuses_is_reported_with_its_error_code(facts: Facts) -> None:
    facts.availability.failed("reader-1", RedisRefused("WRONGTYPE secret", code="WRONGTYPE"))
    facts.availability.failed("reader-2", RedisAccessDenied("NOAUTH"))
    reason = "Redis refuses what it is asked (WRONGTYPE, no access)"
    assert facts.summary() == (True, False, "unhealthy", [reason])


def test_a_group_that_is_gone_is_named(facts: Facts) -> None:
    facts.availability.found_no_group("reader-1")
    reasons = ["the group workers of stream jobs does not exist"]
    assert facts.summary() == (True, False, "unhealthy", reasons)


@pytest.mark.parametrize("state", NOT_AT_WORK)
def test_a_silent_redis_is_no_matter_for_a_consumer_that_does_not_ask_it(
    facts: Facts, state: State
) -> None:
    facts.state, facts.silent, facts.asks_redis = state, True, False
    live, ready, status, reasons = facts.summary()
    assert (live, ready, status, len(reasons)) == (True, False, "degraded", 1)


def test_redis_is_no_matter_for_a_consumer_that_has_stopped(facts: Facts) -> None:
    facts.state, facts.silent = State.STOPPED, True
    facts.availability.failed("reader-1", RedisUnavailable("connection refused"))
    assert facts.summary() == (True, False, "degraded", ["stopped"])


def test_a_start_that_waits_says_for_what_and_that_redis_fails(facts: Facts) -> None:
    facts.state, facts.asks_redis, facts.waits = State.STARTING, False, ["waiting for Redis"]
    facts.silent, facts.silent_seconds = True, 900.0  # in which a model was loaded
    facts.availability.failed("stt-1", RedisUnavailable("connection refused"))
    reasons = ["Redis does not answer", "starting: waiting for Redis"]
    assert facts.summary() == (True, False, "unhealthy", reasons)


def test_a_full_redis_is_reported_in_plain_words_with_the_remedy(facts: Facts) -> None:
    facts.availability.failed("reader-1", RedisRefused("OOM command not allowed", code="OOM"))
    live, ready, status, reasons = facts.summary()
    assert (live, ready, status) == (True, False, "unhealthy")
    assert reasons == [REDIS_IS_FULL]
    assert "maxmemory" in REDIS_IS_FULL
