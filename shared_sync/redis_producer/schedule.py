"""Listing the scheduled jobs of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shared_sync.connection.pool import ConnectionPool
from shared_sync.protocol import scheduling
from shared_sync.protocol.keys import StreamKeys


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """A job that will be published later."""

    id: str
    """The id that `publish()` has returned."""

    at: float
    """When it will be published, in seconds since 1970."""


def list_scheduled(connections: ConnectionPool, keys: StreamKeys) -> Iterator[ScheduledJob]:
    """Return the scheduled jobs of a stream in the order of their times, fetched page by page.

    Raises errors of the connection.
    """
    start_ms, skip = 0, 0
    while True:
        with connections.connection() as connection:
            page = scheduling.read_page(connection, keys, start_ms, skip)
        if not page:
            return
        for job_id, at_ms in page:
            yield ScheduledJob(job_id, at_ms / 1000)
        last_ms = page[-1][1]
        at_last = sum(at_ms == last_ms for _, at_ms in page)
        start_ms, skip = last_ms, at_last + (skip if last_ms == start_ms else 0)
