"""While a circuit breaker is open, a consumer reads nothing, charges nothing, and says so."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import redis
from consumers import STREAM, Make, dead_letters, owners, results
from helpers import Clock, Figures, Gate, eventually

from shared_sync import (
    Batching,
    CircuitBreaker,
    CircuitOpen,
    Message,
    RedisStreamProducer,
    Reject,
    RetryPolicy,
    WorkerMetrics,
    current_message,
)
from shared_sync.common.guarded import GuardedRecorder
from shared_sync.common.passages import Passage, add_passage
from shared_sync.protocol.keys import PARKED
from shared_sync.redis_consumer.faults import circuit_breakers
from shared_sync.redis_consumer.faults.circuit_breakers import (
    MOST_TRIALS,
    SHORTEST_PAUSE_SECONDS,
    CircuitBreakers,
)
from shared_sync.redis_consumer.faults.pauses import Pauses

LOGGER = logging.getLogger("tests.circuit_breakers")
QUICK = RetryPolicy(max_attempts=3, base_seconds=0.01, max_seconds=0.02)
LONG = 600.0
"""A recovery that no test waits for."""


class Dependency:
    """Something outside that is away until it is back, and its breaker."""

    def __init__(self, threshold: int = 3, recovery_seconds: float = LONG) -> None:
        self.breaker = CircuitBreaker(
            threshold, recovery_seconds, name="translator", counts=ConnectionError
        )
        self.is_away = True
        self.calls: list[float] = []
        self.attempts: list[int] = []
        """What `current_message()` said in the calls that went well."""
        self._lock = threading.Lock()

    def __call__(self, *_: object) -> str:
        with self.breaker, self._lock:
            self.calls.append(time.monotonic())
            if self.is_away:
                raise ConnectionError("it is away")
            self.attempts.append(current_message().attempt)
        return "translated"

    def open(self) -> None:
        """Let the breaker open, before a consumer is there."""
        while self.breaker.state == "closed":
            with pytest.raises(ConnectionError), self.breaker:
                raise ConnectionError("it is away")


def all_done(client: redis.Redis) -> bool:
    return client.xlen(STREAM) == 0


# --- which errors stop the readers ------------------------------------------------------------


def fail(breaker: CircuitBreaker, error: Exception) -> Exception:
    with pytest.raises(type(error)), breaker:
        raise error
    return error


class Scene:
    """A breaker that opens at the first failure, and what a consumer makes of errors."""

    def __init__(self, clock: Clock, *, is_given: bool = True, metrics: Any = None) -> None:
        self.clock = clock
        self.breaker = CircuitBreaker(1, 30.0, name="translator", clock=clock)
        self.pauses = Pauses(logger=LOGGER, clock=clock)
        self.breakers = CircuitBreakers(
            [self.breaker] if is_given else [],
            pauses=self.pauses,
            recorder=GuardedRecorder(metrics, LOGGER),
            clock=clock,
        )

    def fail(self, error: Exception) -> Exception:
        return fail(self.breaker, error)

    def refuse(self) -> CircuitOpen:
        with pytest.raises(CircuitOpen) as raised, self.breaker:
            pass
        return raised.value


@pytest.fixture(params=[True, False], ids=["given", "not given"])
def scene(clock: Clock, request: pytest.FixtureRequest) -> Scene:
    return Scene(clock, is_given=request.param)


def test_the_failure_that_opens_a_breaker_and_refusals_stop_the_readers_until_the_trial(
    scene: Scene, clock: Clock
) -> None:
    error = scene.fail(OSError("away"))
    assert scene.breakers.stop_for(error) == "circuit breaker 'translator' is open"
    clock.now += 18
    assert scene.breakers.stop_for(scene.refuse())
    assert scene.pauses.reasons() == ["circuit breaker 'translator' is open, next trial in 12 s"]
    assert not scene.pauses.allows_trials
    clock.now += 12
    assert scene.pauses.allows_trials


def test_a_trial_that_fails_is_charged_to_nobody_and_the_next_one_comes_later(
    scene: Scene, clock: Clock
) -> None:
    scene.breakers.stop_for(scene.fail(OSError("away")))
    clock.now += 30
    assert scene.breakers.stop_for(scene.fail(OSError("away")))
    assert not scene.pauses.allows_trials
    clock.now += 30
    with scene.breaker:
        assert scene.pauses.is_held
    assert not scene.pauses.is_held, "the breaker has closed"


def test_failures_before_it_opens_are_charged_and_those_that_end_later_are_not(
    clock: Clock,
) -> None:
    breaker = CircuitBreaker(2, 30.0, name="translator", clock=clock)
    pauses = Pauses(logger=LOGGER, clock=clock)
    breakers = CircuitBreakers([], pauses=pauses, recorder=GuardedRecorder(None, LOGGER))
    first, second, late = (OSError(one) for one in ("first", "second", "late"))
    gate = Gate()

    @breaker
    def fail_late() -> None:
        gate()
        raise late

    def run() -> None:
        with pytest.raises(OSError, match="late"):
            fail_late()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert gate.entered.wait(10)
    fail(breaker, first)
    assert breakers.stop_for(first) is None
    fail(breaker, second)
    gate.opened.set()
    thread.join(10)
    assert breakers.stop_for(second)
    assert breakers.stop_for(late)


def test_an_error_of_the_message_itself_is_charged_whatever_the_breaker_is(scene: Scene) -> None:
    scene.fail(OSError("away"))
    assert scene.breakers.stop_for(ValueError("mine")) is None
    assert not scene.pauses.is_held


def test_what_the_processor_has_decided_counts(scene: Scene) -> None:
    scene.fail(OSError("away"))
    decision = Reject("give up")
    decision.__cause__ = scene.refuse()
    assert scene.breakers.stop_for(decision) is None
    wrapped = RuntimeError("it is away")
    wrapped.__context__ = scene.refuse()
    assert scene.breakers.stop_for(wrapped)


def test_a_refusal_of_a_breaker_that_has_closed_meanwhile_is_charged_to_nobody(
    scene: Scene, clock: Clock
) -> None:
    scene.fail(OSError("away"))
    refusal = scene.refuse()
    clock.now += 30
    with scene.breaker:
        pass
    assert scene.breakers.stop_for(refusal)
    assert not scene.pauses.is_held


def test_a_breaker_that_is_not_known_here_holds_the_readers_for_as_long_as_it_said(
    scene: Scene, clock: Clock
) -> None:
    assert scene.breakers.stop_for(CircuitOpen("other", 12.0))
    clock.now += 11
    assert scene.pauses.reasons() == [
        "circuit breaker 'other' is open, messages are taken again in 1 s"
    ]
    clock.now += 1
    assert scene.pauses.reasons() == []
    assert scene.breakers.stop_for(CircuitOpen("other", 0.0))
    clock.now += SHORTEST_PAUSE_SECONDS / 2
    assert scene.pauses.reasons() != [], "or messages would circle"
    assert scene.breakers.stop_for(CircuitOpen("other", math.inf))
    assert scene.pauses.reasons()[0].endswith("messages are taken again in 86400 s")


def test_errors_of_a_child_process_are_known_by_the_name_of_the_breaker(clock: Clock) -> None:
    scene = Scene(clock)
    child = CircuitBreaker(1, 30.0, name="translator", clock=clock)
    child.adopt(json.loads(json.dumps(scene.breakers.export_states()))["translator"])
    with pytest.raises(OSError, match="away"), child:
        raise OSError("away")
    error = RuntimeError("OSError: away")
    add_passage(error, Passage("translator"))
    assert scene.breakers.stop_for(error) is None, "the parent has not heard of it yet"
    scene.breakers.apply_reports({"translator": child.take_report(), "unknown": {}})
    assert scene.breakers.stop_for(error)
    assert scene.breakers.stop_for(CircuitOpen("translator", 30.0))
    assert scene.pauses.reasons() == ["circuit breaker 'translator' is open, next trial in 30 s"]


def test_several_breakers_hold_the_readers_until_each_has_closed(clock: Clock) -> None:
    scene, other = Scene(clock), CircuitBreaker(1, 60.0, name="other", clock=clock)
    error = fail(other, scene.fail(OSError("away")))
    assert scene.breakers.stop_for(error)
    assert len(scene.pauses.reasons()) == 2
    clock.now += 60
    with scene.breaker:
        pass
    assert scene.pauses.reasons() == [
        "circuit breaker 'other' is open, one message at a time is tried"
    ]
    with other:
        pass
    assert not scene.pauses.is_held


def test_the_metrics_have_its_state_and_how_often_it_opened_and_refused(
    clock: Clock, metrics: WorkerMetrics
) -> None:
    scene = Scene(clock, metrics=metrics)
    scene.breakers.record()
    lines = metrics.render_prometheus().decode()
    assert 'circuit_breaker_state{instance_id="stt-1",name="translator"} 0' in lines
    scene.fail(OSError("away"))
    for _ in range(3):
        scene.refuse()
    scene.breakers.record()
    scene.breakers.record()
    lines = metrics.render_prometheus().decode()
    assert 'circuit_breaker_state{instance_id="stt-1",name="translator"} 2' in lines
    assert 'circuit_breaker_openings_total{instance_id="stt-1",name="translator"} 1' in lines
    assert 'circuit_breaker_refused_total{instance_id="stt-1",name="translator"} 3' in lines
    clock.now += 30
    scene.breakers.record()
    lines = metrics.render_prometheus().decode()
    assert 'circuit_breaker_state{instance_id="stt-1",name="translator"} 1' in lines


def test_a_recorder_without_labels_gets_the_names_of_the_breakers(clock: Clock) -> None:
    scene = Scene(clock, metrics=(figures := Figures()))
    scene.fail(OSError("away"))
    scene.breakers.record()
    assert figures.gauges["circuit_breaker_state.translator"] == 2
    assert figures.counters["circuit_breaker_openings.translator"] == 1


def test_a_given_breaker_that_holds_nobody_degrades_and_is_shown(clock: Clock) -> None:
    """Such as one whose refusals the processor handles itself."""
    scene = Scene(clock)
    assert scene.breakers.reasons() == []
    error = scene.fail(OSError("away"))
    clock.now += 18
    assert scene.breakers.reasons() == ["circuit breaker 'translator' is open, next trial in 12 s"]
    scene.breakers.stop_for(error)
    assert scene.breakers.reasons() == [], "the pause says it"
    (row,) = scene.breakers.rows()
    assert row == {
        "name": "translator",
        "state": "open",
        "failures": 1,
        "trial_in_seconds": 12.0,
        "openings": 1,
        "refused": 0,
    }


# --- a whole consumer -------------------------------------------------------------------------


def test_no_job_dies_of_a_dependency_that_is_away_and_all_are_done_soon_after_it_is_back(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    dependency = Dependency(threshold=3, recovery_seconds=0.2)
    consumer = make(
        dependency,
        threads=4,
        retry=QUICK,
        result_stream="results",
        circuit_breakers=[dependency.breaker],
    )
    consumer.start()
    producer.publish_many({"n": n} for n in range(100))
    eventually(lambda: not consumer.ready)
    health = consumer.get_health_data()
    assert (health["live"], health["status"]) == (True, "degraded")
    assert health["reasons"][0].startswith("circuit breaker 'translator' is open, ")
    opened_with = len(dependency.calls)
    eventually(lambda: len(dependency.calls) >= opened_with + 5)
    pauses = [later - one for one, later in pairwise(dependency.calls)][-4:]
    assert min(pauses) >= 0.19, "trials are as far apart as the recovery takes"
    dependency.is_away = False
    eventually(lambda: all_done(client), within=10)
    eventually(lambda: consumer.ready)
    assert [one["status"] for one in results(client)] == ["done"] * 100
    assert dead_letters(client) == []
    # Charged: the failures before it opened. What else ran, ran for nothing.
    assert sum(dependency.attempts) - 100 <= 2
    assert "status" not in consumer.get_health_data()


def test_while_it_is_open_jobs_wait_in_the_stream_and_another_consumer_takes_them(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    dependency = Dependency(threshold=1)
    producer.publish_many({"n": n} for n in range(20))
    consumer = make(dependency, threads=2, prefetch=5, result_stream="results")
    consumer.start()
    eventually(lambda: not consumer.ready and set(owners(client)) <= {PARKED})
    assert len(dependency.calls) <= 2
    assert dead_letters(client) == []
    make(lambda *_: "there", result_stream="results").start()
    eventually(lambda: all_done(client))
    assert [one["result"] for one in results(client)] == ["there"] * 20


def test_a_breaker_that_is_open_at_the_start_lets_nothing_run_before_its_trial(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    dependency = Dependency(recovery_seconds=0.3)
    dependency.open()
    producer.publish_many({"n": n} for n in range(10))
    began = time.monotonic()
    dependency.is_away = False
    make(dependency, threads=2, retry=RetryPolicy(max_attempts=1)).start()
    eventually(lambda: all_done(client))
    assert dependency.calls[0] - began >= 0.2
    assert dependency.attempts == [1] * 10
    assert dead_letters(client) == []


def test_messages_that_do_without_the_breaker_are_tried_one_by_one_and_then_all_go_on(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """They say nothing about it, and perhaps none that needs it comes for long."""
    dependency = Dependency(threshold=1, recovery_seconds=0.2)
    running, most = 0, list[int]()
    lock, together = threading.Lock(), threading.Barrier(2)

    def processor(message_id: str, job: dict[str, str]) -> str:
        nonlocal running
        if dependency.breaker.state == "closed":
            return dependency(message_id, job)
        with lock:
            running += 1
            most.append(running)
            is_trial = len(most) <= MOST_TRIALS
        if not is_trial:
            together.wait(10)
        with lock:
            running -= 1
        return "without it"

    producer.publish({"n": 0})
    consumer = make(
        processor,
        threads=2,
        prefetch=1,
        result_stream="results",
        circuit_breakers=[dependency.breaker],
    )
    consumer.start()
    eventually(lambda: not consumer.ready)
    producer.publish_many({"n": n} for n in range(1, MOST_TRIALS + 2))
    eventually(lambda: all_done(client))
    assert {one["result"] for one in results(client)} == {"without it"}
    assert (most[:MOST_TRIALS], most[-1]) == ([1] * MOST_TRIALS, 2)
    health = consumer.get_health_data()
    assert (health["ready"], health["status"]) == (True, "degraded")
    assert health["reasons"] == [
        "circuit breaker 'translator' is half-open: the next call is a trial"
    ]


def test_a_processor_that_handles_the_refusal_itself_goes_on(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    dependency = Dependency()
    dependency.open()

    def processor(*job: object) -> str:
        try:
            return dependency(*job)
        except CircuitOpen:
            return "from the cache"

    consumer = make(processor, result_stream="results", circuit_breakers=[dependency.breaker])
    consumer.start()
    producer.publish_many({"n": n} for n in range(10))
    eventually(lambda: all_done(client))
    assert [one["result"] for one in results(client)] == ["from the cache"] * 10
    health = consumer.get_health_data()
    assert (health["ready"], health["status"]) == (True, "degraded")
    assert health["reasons"][0].startswith("circuit breaker 'translator' is open, next trial in ")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda error: RuntimeError("wrapped").with_traceback(error.__traceback__),
        lambda error: error,
    ],
    ids=["another error", "the error itself"],
)
def test_an_error_that_the_processor_raises_because_of_it_is_uncharged_too(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    wrap: Callable[[Exception], Exception],
) -> None:
    dependency = Dependency(threshold=1)

    def processor(*job: object) -> str:
        try:
            return dependency(*job)
        except (ConnectionError, CircuitOpen) as error:
            raise wrap(error) from error

    figures = Figures()
    consumer = make(processor, retry=RetryPolicy(max_attempts=1), metrics=figures)
    consumer.start()
    producer.publish({"n": 1})
    eventually(lambda: not consumer.ready)
    eventually(lambda: figures.counters["jobs_handed_back"] == 1)
    assert figures.counters["jobs_failed"] == 0
    assert dead_letters(client) == []


def test_a_refusal_that_a_program_raises_itself_pauses_for_as_long_as_it_says(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(circuit_breakers, "SHORTEST_PAUSE_SECONDS", 0.1)
    is_open = threading.Event()
    is_open.set()
    calls = []

    def processor(*_: object) -> str:
        calls.append(current_message().attempt)
        if is_open.is_set():
            raise CircuitOpen("mine", 0.0)
        return "done"

    consumer = make(processor, threads=2, retry=RetryPolicy(max_attempts=1))
    consumer.start()
    producer.publish_many({"n": n} for n in range(5))
    eventually(lambda: len(calls) > 3)
    eventually(lambda: "'mine' is open" in str(consumer.get_health_data().get("reasons")))
    is_open.clear()
    eventually(lambda: all_done(client))
    assert set(calls) == {1}, "nothing was charged"
    assert dead_letters(client) == []


@pytest.mark.parametrize("in_place", [False, True], ids=["of the batch", "in a place"])
def test_a_batch_that_meets_an_open_breaker_is_handed_back_as_a_whole(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, in_place: bool
) -> None:
    dependency = Dependency(threshold=1)
    sizes: list[int] = []

    def batch_processor(messages: Sequence[Message]) -> Sequence[object]:
        sizes.append(len(messages))
        try:
            return [dependency() for _ in messages]
        except (ConnectionError, CircuitOpen) as error:
            if in_place:
                return [error] * len(messages)
            raise

    producer.publish_many({"n": n} for n in range(8))
    consumer = make(
        None,
        batch_processor=batch_processor,
        batch=Batching(max_size=8, max_wait_seconds=5.0),
        retry=RetryPolicy(max_attempts=1),
    )
    consumer.start()
    eventually(lambda: not consumer.ready and owners(client) == {PARKED: 8})
    assert sizes == [8], "no run by halves, and none once it is open"
    assert dead_letters(client) == []


def test_consumers_that_share_a_breaker_go_on_together(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    dependency = Dependency(threshold=2, recovery_seconds=0.2)
    consumers = [make(dependency, threads=2, retry=QUICK) for _ in range(2)]
    for consumer in consumers:
        consumer.start()
    producer.publish_many({"n": n} for n in range(50))
    eventually(lambda: not any(one.ready for one in consumers))
    dependency.is_away = False
    eventually(lambda: all_done(client))
    eventually(lambda: all(one.ready for one in consumers))
    assert dead_letters(client) == []


def test_a_consumer_whose_breaker_is_open_drains_at_once(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    dependency = Dependency(threshold=1)
    consumer = make(dependency, threads=4)
    consumer.start()
    producer.publish_many({"n": n} for n in range(10))
    eventually(lambda: not consumer.ready)
    assert consumer.stop(timeout=0.5)
    assert set(owners(client)) <= {PARKED}
