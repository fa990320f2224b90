"""One of the workers of a supervisor: a process, and another one when that has ended."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from shared_sync.cli.grammar import MISUSED
from shared_sync.cli.worker.process import WorkerProcess
from shared_sync.common import backoff

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 60.0
"""A process that ran for so long was started well: the next pause is the shortest again."""

QUIET_SECONDS: Final = 10.0
"""A process that has reported nothing for so long is not ready."""

SILENT_SECONDS: Final = 60.0
"""After so long without a report, a process that had started is replaced."""

STOP_GRACE_SECONDS: Final = 8.0
"""How long a process may take to end after its drain; less than the 10 s that containers get."""

logger = logging.getLogger(__name__)


class SupervisedWorker:
    """A worker that is there again after each end of its process.

    The supervisor's main thread calls what changes something; any thread may read.
    """

    def __init__(
        self,
        name: str,
        configuration: Mapping[str, Any],
        drain_seconds: float,
        *,
        on_restart: Callable[[], object],
        start: Callable[[Mapping[str, Any]], WorkerProcess] = WorkerProcess,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self.name = name
        self._setup = {"name": name, "configuration": configuration}
        self._drain_seconds = drain_seconds
        self._on_restart = on_restart
        self._start_process = start
        self._clock = clock
        # Written by the main thread.
        self.process: WorkerProcess | None = None
        """The process that runs, if one does."""
        self.restarts = 0
        self.was_killed = False
        """Whether the process had to be killed at the end, as it did not end by itself."""
        self._failures = 0
        self._start_at = 0.0
        self._kill_at: float | None = None
        self._last_end = ""
        self._why_stopping = ""
        self._is_wanted = True

    # --- for the supervisor's main thread ---

    def step(self) -> bool:
        """Start, watch or replace the process; return False if its configuration cannot work."""
        process = self.process
        if process is None:
            if self._is_wanted and self._clock() >= self._start_at:
                self._start()
            return True
        status = process.exit_status()
        if status is not None:
            return self._note_end(process, status)
        self._watch(process)
        return True

    def stop(self, seconds: float | None) -> None:
        """Have the process drain for so long (None for `drain_seconds`), and start no other."""
        self._is_wanted = False
        self._end_process(self._drain_seconds if seconds is None else seconds)

    def restart(self, why: str) -> None:
        """Have the process drain, and start another at once."""
        self._failures, self._start_at = 0, 0.0
        if self.process is not None and not self._why_stopping:
            self._why_stopping = why
            self._end_process(self._drain_seconds)

    @property
    def has_ended(self) -> bool:
        """Whether no process runs."""
        return self.process is None

    # --- for any thread ---

    def health(self) -> dict[str, Any]:
        """Return the health of the worker, as a check of a health server returns it.

        There is no `live`: a worker that is not live is replaced, so that the others go on.
        """
        process = self.process
        if process is None or process.health is None:
            return _not_ready(self._why_not_there(process), started=False)
        if process.health.get("started") is False:
            # Without its values, of which redis_connected is still false.
            reasons = process.health.get("reasons") or [self._why_not_there(process)]
            return _not_ready(*reasons, started=False)
        data = {key: value for key, value in process.health.items() if key != "live"}
        data |= {"pid": process.pid, "restarts": self.restarts}
        silent = self._clock() - process.heard_at
        if silent >= QUIET_SECONDS:
            return {**data, **_not_ready(f"has reported nothing for {silent:.0f} s")}
        if self._why_stopping:
            return {**data, **_not_ready(f"is replaced, because {self._why_stopping}")}
        return data

    # --- inside ---

    def _why_not_there(self, process: WorkerProcess | None) -> str:
        if not self._last_end:
            return "starts"
        seconds = self._start_at - self._clock()
        if process is not None or seconds <= 0:
            return f"starts after {self._last_end}"
        when = f"in {seconds:.0f} s" if seconds < math.inf else "when its source has changed"
        return f"starts {when}, after {self._last_end}"

    def _start(self) -> None:
        try:
            self.process = self._start_process(self._setup)
        except OSError as error:
            self._last_end = "its process could not be started"
            self._pause()
            logger.critical("worker %s cannot be started: %s", self.name, error)
            return
        self._kill_at, self._why_stopping = None, ""
        logger.info("worker %s is process %d", self.name, self.process.pid)

    def _watch(self, process: WorkerProcess) -> None:
        now = self._clock()
        if self._kill_at is not None:
            if now >= self._kill_at:
                logger.error(
                    "worker %s, process %d, does not end and is killed", self.name, process.pid
                )
                self.was_killed = not self._is_wanted
                self._kill_at = now + STOP_GRACE_SECONDS
                process.kill()
            return
        health = process.health
        if health is None or health.get("started") is False:
            return
        if now - process.heard_at >= SILENT_SECONDS:
            self._replace(f"it has reported nothing for {SILENT_SECONDS:.0f} s")
        elif health.get("live") is False:
            self._replace("; ".join(health.get("reasons", ())) or "it is not live")

    def _replace(self, why: str) -> None:
        logger.error("worker %s is replaced, because %s", self.name, why)
        self._why_stopping = why
        self._end_process(self._drain_seconds)

    def _end_process(self, seconds: float) -> None:
        if self.process is not None:
            self.process.stop(seconds)
            kill_at = self._clock() + seconds + STOP_GRACE_SECONDS
            self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)

    def _note_end(self, process: WorkerProcess, status: int) -> bool:
        process.close()
        self.process = None
        self._last_end = _in_words(status)
        if not self._is_wanted:
            logger.info("worker %s has ended with %s", self.name, self._last_end)
            return True
        if status == MISUSED:
            logger.critical("worker %s cannot work with its configuration", self.name)
            self._start_at = math.inf
            return False
        self.restarts += 1
        self._on_restart()
        if self._why_stopping and status == 0:
            self._start_at = 0.0  # it was to be replaced
            return True
        if self._clock() - process.started_at >= STEADY_SECONDS:
            self._failures = 0
        self._pause()
        logger.error(
            "worker %s, process %d, has ended with %s; it starts again in %.1f s",
            *(self.name, process.pid, self._last_end, self._start_at - self._clock()),
        )
        return True

    def _pause(self) -> None:
        self._failures += 1
        self._start_at = self._clock() + backoff.exponential(
            self._failures,
            base_seconds=FIRST_PAUSE_SECONDS,
            max_seconds=LONGEST_PAUSE_SECONDS,
            jitter=0.25,
        )


def _not_ready(*reasons: str, **more: Any) -> dict[str, Any]:
    return {"status": "degraded", "reasons": [*reasons], "ready": False, **more}


def _in_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
