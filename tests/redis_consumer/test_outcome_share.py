"""A consumer whose messages nearly all fail is not well, even though every thread goes on."""

from __future__ import annotations

from helpers import Clock

from shared_sync.redis_consumer.outcome_share import (
    LEAST_OUTCOMES,
    WINDOW_SECONDS,
    OutcomeShare,
)


def test_a_share_above_the_limit_is_reported_with_its_numbers() -> None:
    share = OutcomeShare(0.5, Clock())
    share.count(done=20)
    share.count(dead=20)
    assert share.reason() is None
    share.count(dead=10)
    reason = share.reason() or ""
    assert reason.startswith("60 % of the last 50 outcomes are failures or dead letters, more than")
    assert "50 %" in reason


def test_a_few_outcomes_say_nothing() -> None:
    share = OutcomeShare(0.5, Clock())
    share.count(dead=LEAST_OUTCOMES - 1)
    assert share.reason() is None
    share.count(dead=1)
    assert share.reason() is not None


def test_outcomes_that_have_left_the_window_do_not_count() -> None:
    clock = Clock()
    share = OutcomeShare(0.5, clock)
    share.count(dead=100)
    clock.now += WINDOW_SECONDS / 2
    share.count(done=30)
    assert share.reason() is not None
    clock.now += WINDOW_SECONDS / 2
    assert share.reason() is None


def test_without_a_limit_nothing_is_reported() -> None:
    share = OutcomeShare(None, Clock())
    share.count(dead=100)
    assert share.reason() is None
