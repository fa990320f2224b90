"""What is charged with crashes, when it is given up on, and what may run beside it."""

from __future__ import annotations

import pytest
from readers import entries, suspect

from shared_sync.protocol.messages import Entry, Read
from shared_sync.redis_consumer import crashes


@pytest.mark.parametrize(
    ("deliveries", "failures", "charged"),
    [(1, 0, 0), (2, 0, 1), (2, 1, 0), (4, 1, 2), (4, 3, 0), (0, 0, 0), (1, 2, 0)],
)
def test_a_crash_is_a_delivery_before_this_one_that_ended_in_no_failure(
    deliveries: int, failures: int, charged: int
) -> None:
    entry = Entry("1-0", [], deliveries, b"{}\n" * failures)
    assert entry.crashes == charged
    assert crashes.suspects([entry]) == [entry] * bool(charged)


def test_a_message_is_given_up_on_at_the_limit_of_its_crashes() -> None:
    assert not crashes.is_given_up(suspect("1-0", 2), 3)
    assert crashes.is_given_up(suspect("1-0", 3), 3)
    assert crashes.is_given_up(suspect("1-0", 4), 3)


def test_failures_are_no_crashes() -> None:
    failed_twice = Entry("1-0", [], deliveries=3, history=b"{}\n{}\n")
    assert not crashes.is_given_up(failed_twice, 1)


@pytest.mark.parametrize(
    ("running", "max_crashes", "startable"),
    [
        ([], 3, 3),
        ([0, 0], 3, 3),
        ([1, 0], 3, 1),
        ([2], 3, 0),
        ([2, 1], 3, 0),
        ([3], 3, 0),
        ([1], 2, 0),
        ([3], 5, 3),
        ([0], 1, 1),
    ],
)
def test_a_message_on_its_last_chance_starts_beside_no_other_suspect(
    running: list[int], max_crashes: int, startable: int
) -> None:
    beside = [suspect(f"{number}-0", count) for number, count in enumerate(running)]
    assert crashes.startable_crashes(beside, max_crashes) == startable


def test_reads_of_which_a_suspect_runs_are_kept_apart() -> None:
    read = Read(b"w1", 1000)
    running = [suspect("1-0", 1, read), suspect("2-0", 1, read), suspect("3-0")]
    assert crashes.reads_to_keep_apart(running) == {read}
    assert crashes.reads_to_keep_apart([]) == set()


def test_only_messages_with_a_crash_are_suspects() -> None:
    """Not one that a dead consumer left uncharged, as with a delivery that counts as none."""
    uncharged = Entry("1-0", [], deliveries=1, left_by=Read(b"w2", 2000))
    crashed = suspect("2-0")
    assert crashes.suspects([uncharged, crashed, *entries("3-0")]) == [crashed]
