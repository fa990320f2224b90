"""One pass of the keeper: say that this consumer lives, tidy up, and read the queue's figures."""

from __future__ import annotations

from shared_sync.common.guarded import Logger, Recorder
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisAccessDenied
from shared_sync.protocol import commands as stream_commands
from shared_sync.protocol.commands import GroupCommands, QueueFigures

MAX_INTERVAL_SECONDS = 2.0
BEATS_PER_LEASE = 6


class Keeper:
    """Owns one connection. `step()` belongs to the keeper's thread; anyone may read `figures`."""

    def __init__(
        self,
        *,
        name: str,
        link: Connection,
        commands: GroupCommands,
        connectivity: Availability,
        recorder: Recorder,
        logger: Logger,
        lease_seconds: float,
    ) -> None:
        self.name = name
        self.link = link
        self.interval_seconds = min(lease_seconds / BEATS_PER_LEASE, MAX_INTERVAL_SECONDS)
        self._commands = commands
        self.figures: QueueFigures | None = None
        self._connectivity = connectivity
        self._recorder = recorder
        self._logger = logger
        self._refusal_told = False

    @property
    def in_bounds(self) -> bool:
        """Whether it waits for a reply, which has a limit."""
        return self.link.receiving

    @property
    def moved_at(self) -> float:
        """It has nothing to do but its steps."""
        return 0.0

    def step(self) -> None:
        """One beat. Blocks up to the time limits of the connection; raises what the link raises."""
        beat = stream_commands.parse_beat(self.link.call(*self._commands.beat()))
        figures = beat.figures
        self._connectivity.succeeded(self.name)
        self._recorder.increment_counter("redis_operations")
        self.figures = figures
        if isinstance(beat.refusal, RedisAccessDenied) and not self._refusal_told:
            self._refusal_told = True
            self._logger.warning(
                "a right is missing, so that names of ended consumers stay in the group or figures "
                "of the queue are unknown: %s. Messages go on; this is said once",
                beat.refusal,
            )
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
