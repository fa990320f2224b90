"""The state of a queue has the names of its metrics."""

from __future__ import annotations

from shared_sync.common.queue_metrics import DESCRIPTIONS, queue_values


def test_parked_messages_are_not_counted_as_being_worked_on() -> None:
    assert queue_values(
        unfinished=9, waiting=4, pending=5, parked=2, scheduled=6, dead_letters=1
    ) == {
        "queue_depth": 9,
        "queue_waiting": 4,
        "jobs_pending": 3,
        "jobs_parked": 2,
        "scheduled": 6,
        "dead_letters": 1,
    }


def test_what_is_not_known_is_none() -> None:
    assert queue_values() == dict.fromkeys(DESCRIPTIONS)
    assert queue_values(pending=3)["jobs_pending"] is None
