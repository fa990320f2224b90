"""Notices metrics that a consumer records and the program records too, so that they count twice."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from shared_sync.common.guarded import GuardedLogger, Logger
from shared_sync.metrics.snapshot import MetricsSnapshot

_COUNTERS = "jobs_"
"""How the names of the counters begin that nobody but a consumer counts."""


class DoubleCounting:
    """Compares what a registry has with what its consumers have recorded. Logs each metric once.

    Any thread may call any method, but none that holds a lock.
    """

    def __init__(self, logger: Logger | None) -> None:
        # Fixed after construction.
        self._logger = GuardedLogger(logger or logging.getLogger("shared_sync.metrics"))
        # Only ever added to, by any thread.
        self._logged: set[str] = set()

    def check(self, snapshot: MetricsSnapshot, by_consumers: Mapping[str, float]) -> None:
        """Log each metric of which the snapshot has more than consumers had recorded before it."""
        for name, own in by_consumers.items():
            if name in self._logged or not own:
                continue
            if name in snapshot.durations:
                total: float = snapshot.whole(name).lifetime.count
            elif name.startswith(_COUNTERS):
                total = snapshot.total(name)
            else:
                continue
            if total > own:
                self._logged.add(name)
                self._logger.warning(
                    "%s counts %g, of which a consumer has recorded %g and the program itself the "
                    "rest: a RedisStreamConsumer with metrics= records it for each message. Do not "
                    "record it yourself, or choose another name; this is logged once",
                    name,
                    total,
                    own,
                )
