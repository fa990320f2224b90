"""A job is late by what was declared, or by what such jobs took; only the first can be fatal."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from helpers import Clock, Figures

from shared_sync.common.guarded import GuardedLogger, GuardedRecorder
from shared_sync.metrics import WorkerMetrics
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.job_budget import (
    DURATION,
    FEWEST_JOBS,
    LEARN_SECONDS,
    SHORTEST_BUDGET_SECONDS,
    Budget,
    Job,
)
from shared_sync.redis_consumer.running_jobs import RunningJob
from shared_sync.redis_consumer.slot import Attempt, Slot

LOGGER = GuardedLogger(logging.getLogger("tests.budget"))


def budget(clock: Clock, metrics: Any = None, **limits: float | None) -> Budget:
    options = {"deadline_seconds": None, "limit_seconds": None, "late_after_p99s": 10.0} | limits
    recorder = GuardedRecorder(metrics, LOGGER)
    return Budget(recorder=recorder, clock=clock, **options)  # type: ignore[arg-type]


def job(of: Budget, seconds: float, *, given_up: bool = False) -> Job:
    message = Entry("17-0", [])
    attempt = Attempt([message], 1, 0.0)
    attempt.given_up = given_up
    return of.of(RunningJob(message, attempt, Slot("stt-1-reader-2"), seconds))


def remember(metrics: WorkerMetrics, seconds: float, times: int = FEWEST_JOBS) -> None:
    metrics.record_batch(durations={DURATION: [seconds] * times})


def learned(metrics: Any, clock: Clock, **limits: float | None) -> float | None:
    """The budget of a job, once the metrics were asked."""
    made = budget(clock, metrics, **limits)
    made.learn()
    return job(made, 1).budget_seconds


# --- declared limits --------------------------------------------------------------------------


def test_a_job_whose_child_is_just_being_ended_is_late_and_no_reason_to_restart(
    clock: Clock,
) -> None:
    """However short its deadline: the consumer goes on by itself when the child has ended."""
    hard = budget(clock, deadline_seconds=2.0, kill_seconds=15.0)
    ending = job(hard, 16.9)
    assert (ending.state, ending.is_over_its_limit) == ("late", False)
    assert job(hard, 17.0).is_over_its_limit, "it could not be ended"
    long = budget(clock, deadline_seconds=100.0, kill_seconds=15.0)
    assert job(long, 1).limit_seconds == 150.0


def test_without_a_deadline_and_figures_no_job_is_ever_late(clock: Clock) -> None:
    endless = job(budget(clock), 1e9)
    assert (endless.state, endless.budget_seconds, endless.limit_seconds) == ("running", None, None)
    assert not endless.is_over_its_limit


def test_a_job_is_late_at_its_deadline_and_over_its_limit_half_of_it_later(clock: Clock) -> None:
    made = budget(clock, deadline_seconds=60)
    assert job(made, 59.9).state == "running"
    assert job(made, 60).state == "late"
    assert job(made, 61, given_up=True).state == "stuck"
    assert not job(made, 89.9).is_over_its_limit
    assert job(made, 90).is_over_its_limit


def test_a_limit_of_ones_own_is_the_one_that_counts(clock: Clock) -> None:
    made = budget(clock, deadline_seconds=60, limit_seconds=600)
    assert not job(made, 599).is_over_its_limit
    assert job(made, 600).is_over_its_limit


def test_the_reason_names_the_reader_the_message_its_age_and_its_budget(clock: Clock) -> None:
    made = budget(clock, deadline_seconds=60)
    assert job(made, 65.2, given_up=True).reason() == (
        "reader stt-1-reader-2 runs message 17-0 for 65 s, its budget is 60 s"
    )
    assert job(made, 95.2, given_up=True).reason() == (
        "reader stt-1-reader-2 runs message 17-0 for 95 s, its limit is 90 s"
    )


# --- figures ----------------------------------------------------------------------------------


def test_a_job_is_late_when_it_takes_ten_times_as_long_as_nearly_all_did(
    clock: Clock, metrics: WorkerMetrics
) -> None:
    remember(metrics, 8.0)
    made = budget(clock, metrics)
    assert job(made, 1e6).state == "running", "nothing was learned yet"
    made.learn()
    assert job(made, 79).state == "running"
    late = job(made, 82)
    assert late.state == "late"
    assert late.reason().endswith("its budget is 80 s")
    assert late.limit_seconds is None
    assert not job(made, 1e9).is_over_its_limit, "a guess never has a process restarted"


def test_too_few_jobs_tell_nothing(clock: Clock, metrics: WorkerMetrics) -> None:
    remember(metrics, 8.0, times=FEWEST_JOBS - 1)
    assert learned(metrics, clock) is None


def test_short_jobs_are_not_late_before_half_a_minute(clock: Clock, metrics: WorkerMetrics) -> None:
    remember(metrics, 0.002)
    assert learned(metrics, clock) == SHORTEST_BUDGET_SECONDS


def test_the_deadline_or_the_figures_count_whichever_is_shorter(
    clock: Clock, metrics: WorkerMetrics
) -> None:
    remember(metrics, 8.0)
    assert learned(metrics, clock, deadline_seconds=3600) == pytest.approx(80, rel=0.02)
    assert learned(metrics, clock, deadline_seconds=60) == 60


def test_the_multiple_can_be_chosen_and_left_out(clock: Clock, metrics: WorkerMetrics) -> None:
    remember(metrics, 100.0)
    assert learned(metrics, clock, late_after_p99s=2.5) == pytest.approx(250, rel=0.02)
    assert learned(metrics, clock, late_after_p99s=None) is None


def test_jobs_that_have_become_longer_raise_the_budget_and_a_quiet_night_does_not_lower_it(
    clock: Clock, metrics: WorkerMetrics
) -> None:
    remember(metrics, 4.0, times=100_000)
    clock.now += 1000
    remember(metrics, 20.0)
    assert learned(metrics, clock) == pytest.approx(200, rel=0.02)
    clock.now += 1000
    assert learned(metrics, clock) == pytest.approx(40, rel=0.02)


def test_the_figures_are_asked_every_few_seconds_only(clock: Clock) -> None:
    class Counting(Figures):
        asked = 0

        def quantile_seconds(self, name: str, share: float, *, min_count: int) -> float:
            assert (name, share, min_count) == (DURATION, 0.99, FEWEST_JOBS)
            self.asked += 1
            return 10.0 * self.asked

    counting = Counting()
    made = budget(clock, counting)
    for _ in range(10):
        made.learn()
    assert counting.asked == 1
    clock.now += LEARN_SECONDS
    made.learn()
    assert job(made, 1).budget_seconds == 200


class Answering(Figures):
    """A recorder that answers the question with whatever it was given, or raises it."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def quantile_seconds(self, *_: object, **__: object) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer", [None, "soon", -1.0, float("nan"), float("inf"), ValueError(), KeyboardInterrupt()]
)
def test_metrics_that_answer_nonsense_leave_the_deadline(clock: Clock, answer: Any) -> None:
    assert learned(Answering(answer), clock, deadline_seconds=60) == 60
    assert learned(Answering(answer), clock) is None


def test_metrics_that_cannot_be_asked_leave_the_deadline(clock: Clock) -> None:
    assert learned(Figures(), clock, deadline_seconds=60) == 60
    assert learned(None, clock, deadline_seconds=60) == 60
