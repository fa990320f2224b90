"""A consumer on which message after message fails pauses, and tries one at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import redis
from consumers import Make, dead_letters
from helpers import Clock, Figures, eventually

from shared_sync import Batching, Message, RedisStreamProducer, Reject, Retry, RetryPolicy
from shared_sync.redis_consumer.failures import Failure
from shared_sync.redis_consumer.faults import failure_streak
from shared_sync.redis_consumer.faults.failure_streak import FailureStreak
from shared_sync.redis_consumer.faults.pauses import Pauses

LOGGER = logging.getLogger("tests.streak")
BAD = Failure("RuntimeError", "cannot open /models/large.bin")
OTHER = Failure("KeyError", "'text'")


class Scene:
    """A streak of three, and what it has done to its pool."""

    def __init__(self, clock: Clock, limit: int | None = 3) -> None:
        self.clock = clock
        self.successes = 0
        self.pauses = Pauses(logger=LOGGER, clock=clock)
        self.streak = FailureStreak(
            limit,
            pauses=self.pauses,
            successes=lambda: self.successes,
            clock=clock,
            chance=lambda: 0.0,
        )

    def fail(self, *ids: str, failure: Failure = BAD) -> None:
        for one in ids:
            self.streak.failed(one, failure)

    @property
    def is_paused(self) -> bool:
        return self.pauses.is_held


@pytest.fixture
def scene(clock: Clock) -> Scene:
    return Scene(clock)


def test_as_many_different_messages_in_a_row_as_are_allowed_pause_the_pool(scene: Scene) -> None:
    scene.fail("1-0", "2-0")
    assert not scene.is_paused
    scene.fail("3-0")
    assert scene.is_paused
    (reason,) = scene.pauses.reasons()
    assert reason == "3 failures in a row here, the last with RuntimeError, next trial in 1 s"
    assert scene.pauses.errors() == [BAD.error], "only the details have the text"


def test_one_message_that_fails_again_and_again_is_its_own_fault(scene: Scene) -> None:
    scene.fail("1-0", "2-0", "1-0", "2-0", "1-0")
    assert not scene.is_paused


def test_a_success_in_between_begins_the_count_anew(scene: Scene) -> None:
    scene.fail("1-0", "2-0")
    scene.successes += 1
    scene.fail("3-0", "4-0")
    assert not scene.is_paused
    scene.fail("5-0")
    assert scene.is_paused


def test_failures_of_another_kind_begin_the_count_anew(scene: Scene) -> None:
    scene.fail("1-0", "2-0")
    scene.fail("3-0", failure=OTHER)
    scene.fail("4-0", "5-0")
    assert not scene.is_paused
    scene.fail("6-0", failure=Failure("RuntimeError", "another text"))
    assert scene.is_paused


def test_each_trial_that_fails_doubles_the_pause_up_to_a_minute(scene: Scene) -> None:
    scene.fail("1-0", "2-0", "3-0")
    pauses = []
    for number in range(8):
        began = scene.clock.now
        while not scene.pauses.allows_trials:
            scene.clock.now += 0.5
        pauses.append(scene.clock.now - began)
        scene.fail(f"{number}-1", failure=OTHER if number == 1 else BAD)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "11 failures in a row" in scene.pauses.reasons()[0]


def test_attempts_that_had_begun_before_the_pause_do_not_make_it_longer(scene: Scene) -> None:
    scene.fail("1-0", "2-0", "3-0", "4-0", "5-0", "6-0")
    assert scene.pauses.reasons()[0].endswith("next trial in 1 s")


def test_messages_that_fail_here_again_pause_nothing_and_make_no_pause_longer(scene: Scene) -> None:
    for number in range(9):
        scene.streak.failed(f"{number}-0", BAD, again=True)
    assert not scene.is_paused
    scene.fail("1-1", "2-1", "3-1")
    for _ in range(3):
        scene.clock.now += 1
        scene.streak.failed("1-1", BAD, again=True)
        assert scene.pauses.reasons()[0].endswith("next trial in 1 s")


def test_a_success_ends_the_pause_and_the_next_one_is_short_again(scene: Scene) -> None:
    scene.fail("1-0", "2-0", "3-0")
    scene.clock.now += 1
    scene.fail("4-0")
    scene.streak.check()
    assert scene.is_paused
    scene.successes += 1
    scene.streak.check()
    assert not scene.is_paused
    scene.fail("5-0", "6-0", "7-0")
    assert scene.pauses.reasons()[0].endswith("next trial in 1 s")


def test_without_a_limit_nothing_pauses(clock: Clock) -> None:
    scene = Scene(clock, limit=None)
    scene.fail(*(f"{number}-0" for number in range(50)))
    assert not scene.is_paused


# --- in a consumer ------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_a_consumer_on_which_all_fails_pauses_and_goes_on_at_the_first_success(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
) -> None:
    monkeypatch.setattr(failure_streak, "FIRST_PAUSE_SECONDS", 0.1)
    is_well, runs, figures = False, 0, Figures()

    def processor(*_: object) -> str:
        nonlocal runs
        runs += 1
        if not is_well:
            raise RuntimeError("secret: nothing works")
        return "done"

    producer.publish_many([{"n": number} for number in range(60)])
    consumer = make(
        processor,
        threads=threads,
        metrics=figures,
        result_stream="results",
        retry=RetryPolicy(base_seconds=0.01, max_seconds=0.01),
    )
    consumer.start()
    eventually(lambda: not consumer.ready)
    data = consumer.get_health_data()
    assert (data["status"], data["live"], data["ready"]) == ("degraded", True, False)
    assert "failures in a row here, the last with RuntimeError" in data["reasons"][0]
    assert not any("secret" in reason for reason in data["reasons"])
    assert data["details"]["pauses"] == ["secret: nothing works"]
    eventually(lambda: runs > 4 + threads)  # trials
    assert runs < 20
    is_well = True
    eventually(lambda: client.xlen("results") == 60)
    eventually(lambda: consumer.ready)
    assert dead_letters(client) == []


def test_bad_messages_among_good_ones_pause_a_consumer_for_moments_only(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their retries come to the same consumer, as there is no other one, and fail again."""
    monkeypatch.setattr(failure_streak, "FIRST_PAUSE_SECONDS", 0.1)

    def processor(_: str, job: dict[str, str]) -> str:
        if int(job["n"]) % 30 < 5:
            raise ValueError("five of thirty")
        return "done"

    producer.publish_many([{"n": number} for number in range(180)])
    consumer = make(
        processor, result_stream="results", retry=RetryPolicy(base_seconds=0.02, max_attempts=3)
    )
    consumer.start()
    eventually(lambda: client.xlen("results") == 180, within=10.0)  # those of the dead, too
    assert len(dead_letters(client)) == 30


def test_batches_in_which_all_fails_pause_the_consumer_too(
    make: Make, producer: RedisStreamProducer
) -> None:
    def processor(_: Sequence[Message]) -> Sequence[object]:
        raise RuntimeError("nothing works")

    producer.publish_many([{"n": number} for number in range(30)])
    consumer = make(None, batch_processor=processor, batch=Batching(max_size=4))
    consumer.start()
    eventually(lambda: "failures in a row here" in str(consumer.get_health_data().get("reasons")))
    assert not consumer.ready


def test_batches_in_which_some_succeed_pause_nothing(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def processor(messages: Sequence[Message]) -> Sequence[object]:
        return ["done" if int(one.fields["n"]) % 8 == 0 else ValueError("most") for one in messages]

    producer.publish_many([{"n": number} for number in range(160)])
    make(
        None,
        batch_processor=processor,
        batch=Batching(max_size=8),
        result_stream="results",
        retry=RetryPolicy(max_attempts=1),
    ).start()
    eventually(lambda: client.xlen("results") == 160, within=5.0)


@pytest.mark.parametrize("error", [Reject("bad input"), Retry(60.0)])
def test_decisions_about_messages_pause_nothing(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, error: Exception
) -> None:
    runs = 0

    def processor(*_: object) -> None:
        nonlocal runs
        runs += 1
        raise error

    producer.publish_many([{"n": number} for number in range(30)])
    make(processor).start()
    eventually(lambda: runs == 30)


def test_a_message_that_fails_beside_others_that_succeed_pauses_nothing(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def processor(_: str, job: dict[str, str]) -> str:
        if int(job["n"]) % 4:
            raise ValueError("three of four")
        return "done"

    producer.publish_many([{"n": number} for number in range(200)])
    consumer = make(
        processor, result_stream="results", retry=RetryPolicy(max_attempts=1), prefetch=50
    )
    consumer.start()
    eventually(lambda: client.xlen("results") == 200, within=5.0)  # those of the dead, too
    assert len(dead_letters(client)) == 150
