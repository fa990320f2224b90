"""One pass of the keeper: say that this consumer lives, tidy up, and read the queue's figures."""

from __future__ import annotations

from shared_sync import _streams
from shared_sync._connectivity import Connectivity
from shared_sync._guarded import Recorder
from shared_sync._link import Link
from shared_sync._streams import GroupCommands, QueueFigures

MAX_INTERVAL_SECONDS = 2.0
BEATS_PER_LEASE = 6


class Keeper:
    """Owns one connection. `step()` belongs to the keeper's thread; anyone may read `figures`."""

    def __init__(
        self,
        *,
        name: str,
        link: Link,
        commands: GroupCommands,
        connectivity: Connectivity,
        recorder: Recorder,
        lease_seconds: float,
    ) -> None:
        self.name = name
        self.link = link
        self.interval_seconds = min(lease_seconds / BEATS_PER_LEASE, MAX_INTERVAL_SECONDS)
        self._beat = commands.beat()
        self.figures: QueueFigures | None = None
        self._connectivity = connectivity
        self._recorder = recorder

    def step(self) -> None:
        """One beat. Blocks up to the time limits of the connection; raises what the link raises."""
        figures = _streams.parse_figures(self.link.call(*self._beat))
        self._connectivity.succeeded(self.name)
        self._recorder.increment_counter("redis_operations")
        self.figures = figures
        known = {
            "queue_depth": figures.backlog,
            "queue_waiting": figures.waiting,
            "jobs_pending": figures.pending - figures.parked,
            "jobs_parked": figures.parked,
            "dead_letters": figures.dead,
        }
        for name, figure in known.items():
            if figure is not None:
                self._recorder.set_gauge(name, figure)
