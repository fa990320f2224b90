"""Reads grow while jobs are short, and bring one message again after a long job."""

from __future__ import annotations

import pytest

from shared_sync.redis_consumer import prefetch
from shared_sync.redis_consumer.prefetch import MOST, READ_BYTES, WORK_SECONDS, Prefetch


def grown(job_seconds: float, *, reads: int = 20) -> Prefetch:
    """A prefetch after so many full reads of jobs that all take as long."""
    made = Prefetch("auto")
    for _ in range(reads):
        learn(made, job_seconds)
    return made


def learn(made: Prefetch, job_seconds: float) -> None:
    made.learn(jobs=made.size, seconds=made.size * job_seconds, longest_seconds=job_seconds)


def test_the_first_read_brings_one_message_and_each_at_most_twice_as_many_as_the_last() -> None:
    made, sizes = Prefetch("auto"), []
    for _ in range(9):
        sizes.append(made.size)
        learn(made, 0.0001)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 100, 100]
    assert sizes[-1] == MOST


@pytest.mark.parametrize(
    ("job_seconds", "size"), [(0.0001, MOST), (0.001, 49), (0.01, 4), (0.03, 1), (0.2, 1)]
)
def test_a_read_brings_about_a_twentieth_of_a_second_of_work(job_seconds: float, size: int) -> None:
    assert grown(job_seconds).size == pytest.approx(size, abs=1)
    assert grown(job_seconds).size * job_seconds <= max(WORK_SECONDS, job_seconds)


def test_jobs_that_take_no_time_at_all_are_fetched_by_the_hundred() -> None:
    made = Prefetch("auto")
    for _ in range(20):
        made.learn(jobs=made.size, seconds=0.0, longest_seconds=0.0)
    assert made.size == MOST


@pytest.mark.parametrize(
    ("message_bytes", "size"), [(100, MOST), (READ_BYTES // 8, 8), (10 * READ_BYTES, 1)]
)
def test_of_large_messages_fewer_are_read_at_once(message_bytes: int, size: int) -> None:
    made = Prefetch("auto")
    for _ in range(20):
        made.learn(jobs=made.size, seconds=0.0, longest_seconds=0.0, message_bytes=message_bytes)
    assert made.size == size


def test_a_single_long_job_among_short_ones_sets_the_size_back_to_one() -> None:
    made = grown(0.0001)
    made.learn(jobs=100, seconds=WORK_SECONDS + 0.01, longest_seconds=WORK_SECONDS)
    assert made.size == 1
    learn(made, 0.0001)
    assert made.size == 2


def test_jobs_that_become_longer_are_fetched_by_fewer_at_once() -> None:
    made = grown(0.0001)
    learn(made, 0.005)
    assert made.size == 10


def test_a_read_that_ran_nothing_teaches_nothing() -> None:
    made = grown(0.0001)
    made.learn(jobs=0, seconds=1.0, longest_seconds=0.0)
    assert made.size == MOST


def test_a_read_that_brought_fewer_than_asked_for_teaches_by_what_it_brought() -> None:
    made = grown(0.0001)
    made.learn(jobs=1, seconds=0.01, longest_seconds=0.01)
    assert made.size == 5


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_a_number_stays_what_it_is(size: int) -> None:
    made = Prefetch(size)
    for seconds in (0.0, 0.0001, 10.0):
        made.learn(jobs=1, seconds=seconds, longest_seconds=seconds)
        assert made.size == size


def test_the_most_that_a_read_may_bring_is_known_beforehand() -> None:
    assert prefetch.most("auto") == MOST
    assert prefetch.most(7) == 7
