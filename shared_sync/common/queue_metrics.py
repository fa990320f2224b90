"""The metrics of a queue: their names, what they mean, and their values by name."""

from __future__ import annotations

from typing import Final

QUEUE_DEPTH: Final = "queue_depth"
QUEUE_WAITING: Final = "queue_waiting"
JOBS_PENDING: Final = "jobs_pending"
JOBS_PARKED: Final = "jobs_parked"
SCHEDULED: Final = "scheduled"
DEAD_LETTERS: Final = "dead_letters"

DESCRIPTIONS: Final = {
    QUEUE_DEPTH: "Messages that are not finished.",
    QUEUE_WAITING: "Messages that nobody has read.",
    JOBS_PENDING: "Messages that are being worked on.",
    JOBS_PARKED: "Messages that wait for their next attempt.",
    SCHEDULED: "Messages that will be published later.",
    DEAD_LETTERS: "Messages given up on and kept.",
}

LABELS: Final = ("group", "stream")
"""The labels of these metrics for Prometheus: every worker of a group exports the same values."""


def queue_values(
    *,
    unfinished: int | None = None,
    waiting: int | None = None,
    pending: int | None = None,
    parked: int | None = None,
    scheduled: int | None = None,
    dead_letters: int | None = None,
) -> dict[str, int | None]:
    """Return the state of a stream and group under the names of its metrics.

    `pending` is as Redis counts it, with the parked messages, and `jobs_pending` is without them.
    What is not known is None.
    """
    return {
        QUEUE_DEPTH: unfinished,
        QUEUE_WAITING: waiting,
        JOBS_PENDING: None if pending is None or parked is None else pending - parked,
        JOBS_PARKED: parked,
        SCHEDULED: scheduled,
        DEAD_LETTERS: dead_letters,
    }
