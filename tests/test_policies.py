"""How long a failed message waits, and which policies are refused when they are created."""

from __future__ import annotations

import dataclasses
import math

import pytest

from shared_sync.common import backoff
from shared_sync.errors import ConfigurationError, Directive, Reject, Retry, SharedSyncError
from shared_sync.policies import RetryPolicy


def _zero() -> float:
    return 0.0


def _nearly_one() -> float:
    return math.nextafter(1.0, 0.0)


def test_the_wait_doubles_with_each_failure_up_to_the_maximum() -> None:
    policy = RetryPolicy(base_seconds=1.0, max_seconds=10.0, jitter=0.0)
    assert [policy.delay_seconds(failures) for failures in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_jitter_only_ever_shortens_the_wait_and_by_no_more_than_its_share() -> None:
    policy = RetryPolicy(base_seconds=8.0, max_seconds=8.0, jitter=0.25)
    assert policy.delay_seconds(1, chance=_zero) == 8.0
    assert policy.delay_seconds(1, chance=lambda: 0.5) == 7.0
    assert policy.delay_seconds(1, chance=_nearly_one) == pytest.approx(6.0)


def test_with_full_jitter_the_wait_is_between_nothing_and_the_whole_wait() -> None:
    policy = RetryPolicy(base_seconds=8.0, max_seconds=8.0, jitter=1.0)
    assert policy.delay_seconds(1, chance=_zero) == 8.0
    assert policy.delay_seconds(1, chance=_nearly_one) == pytest.approx(0.0)


def test_by_default_the_waits_of_many_messages_differ() -> None:
    policy = RetryPolicy(jitter=1.0)
    assert len({policy.delay_seconds(3) for _ in range(20)}) > 1


@pytest.mark.parametrize("failures", [64, 1_000, 10**6, 10**18])
def test_any_number_of_failures_gives_the_longest_wait(failures: int) -> None:
    policy = RetryPolicy(base_seconds=0.001, max_seconds=60.0, jitter=0.0)
    assert policy.delay_seconds(failures) == 60.0


def test_huge_waits_stay_finite() -> None:
    assert backoff.exponential(60, base_seconds=1e300, max_seconds=1e301, jitter=0.0) == 1e301


def test_a_base_of_zero_zero_waits() -> None:
    assert RetryPolicy(base_seconds=0.0, max_seconds=0.0).delay_seconds(9) == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"base_seconds": -0.1},
        {"base_seconds": math.nan},
        {"max_seconds": math.nan},
        {"max_seconds": math.inf},
        {"base_seconds": 10.0, "max_seconds": 5.0},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": math.nan},
    ],
    ids=str,
)
def test_a_policy_that_cannot_work_is_refused_and_the_argument_is_named(
    options: dict[str, float],
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RetryPolicy(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": math.nan},
        {"max_attempts": 2.5},
        {"max_attempts": "3"},
        {"base_seconds": "1"},
        {"jitter": "0.5"},
    ],
    ids=str,
)
def test_an_argument_of_the_wrong_type_is_refused_and_named(
    options: dict[str, object],
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RetryPolicy(**options)  # type: ignore[arg-type]


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RetryPolicy().max_attempts = 9  # type: ignore[misc]


def test_a_single_attempt_is_a_valid_policy() -> None:
    assert RetryPolicy(max_attempts=1).max_attempts == 1


@pytest.mark.parametrize("delay", [-1, -0.001, math.nan, math.inf])
def test_an_impossible_retry_delay_is_refused_where_it_is_raised(
    delay: float,
) -> None:
    with pytest.raises(ConfigurationError, match="delay_seconds"):
        raise Retry(delay)


def test_directives_are_not_errors_of_the_library() -> None:
    for kind in (Retry, Reject):
        assert issubclass(kind, Directive)
        assert not issubclass(kind, SharedSyncError)
    assert str(Retry(1.0, "rate limit")) == "rate limit"
    assert str(Retry())
