"""The supervisor: keeps several worker processes running on one machine, and shows them as one.

It never reads a message. Each worker process reports its health over a link of its own, and drains
when the link ends, so that none is left if the supervisor is killed.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from shared_sync.cli.grammar import DONE, FAILED, MISUSED
from shared_sync.cli.worker import building, crew, group_watch, program
from shared_sync.cli.worker.configuration import Configuration
from shared_sync.cli.worker.crew import Crew
from shared_sync.cli.worker.reloading import SourceFiles
from shared_sync.cli.worker.supervised_worker import SupervisedWorker
from shared_sync.redis_consumer import signals

STEP_SECONDS: Final = 0.2
RELOAD_SECONDS: Final = 1.0

logger = logging.getLogger(__name__)


def run(configuration: Configuration) -> int:
    """Supervise until a signal, and return the exit status."""
    program.prepare(configuration)
    program.describe(configuration)
    name = building.worker_name(configuration)
    metrics = crew.make_metrics(name)
    workers = [
        SupervisedWorker(
            f"{name}-{number}",
            configuration.to_json(),
            configuration["drain_seconds"],
            on_restart=partial(metrics.increment_counter, crew.RESTARTS),
        )
        for number in range(1, configuration["processes"] + 1)
    ]
    files = SourceFiles(Path.cwd()) if configuration["reload"] else None
    supervisor = Supervisor(workers, files)
    checks = {worker.name: worker.health for worker in workers}
    with signals.caught() as received, group_watch.watching(configuration) as group_view:
        shown = Crew(
            workers,
            metrics,
            stream=configuration["stream"],
            group=configuration["group"],
            read_group=group_view.read,
        )
        with program.serving(configuration, name, shown, shown, checks):
            return supervisor.run(received)


class Supervisor:
    """Starts workers, watches them, and ends them. Belongs to the main thread."""

    def __init__(
        self,
        workers: Sequence[SupervisedWorker],
        files: SourceFiles | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """With `files`, all workers are started anew when one of these changes."""
        # Fixed after construction.
        self._workers = workers
        self._files = files
        self._clock = clock
        # Owned by the main thread.
        self._signals = 0
        self._is_misconfigured = False
        self._reload_at = 0.0

    def run(self, received: queue.SimpleQueue[int]) -> int:
        """Run until all workers have ended because of a signal; return the exit status.

        The first signal lets the workers drain, a second one has them hand back what runs.
        """
        while True:
            for worker in self._workers:
                if not worker.step():
                    self._end_misconfigured()
            if self._is_ending and all(worker.has_ended for worker in self._workers):
                return self._exit_status()
            self._reload()
            try:
                self._on_signal(received.get(timeout=STEP_SECONDS))
            except queue.Empty:
                continue

    @property
    def _is_ending(self) -> bool:
        return self._signals > 0 or self._is_misconfigured

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals == 1:
            logger.info("signal %d: the workers drain; a second one hands back what runs", number)
            self._stop(None)
        else:
            logger.warning("signal %d: the workers hand back what runs", number)
            self._stop(0.0)

    def _end_misconfigured(self) -> None:
        """End all, unless they are started anew as soon as their source has been mended."""
        if self._files is None and not self._is_misconfigured:
            self._is_misconfigured = True
            self._stop(None)

    def _stop(self, seconds: float | None) -> None:
        for worker in self._workers:
            worker.stop(seconds)

    def _reload(self) -> None:
        if self._files is None or self._is_ending or self._clock() < self._reload_at:
            return
        self._reload_at = self._clock() + RELOAD_SECONDS
        if (changed := self._files.changed()) is not None:
            logger.info("%s has changed; the workers are started anew", changed)
            for worker in self._workers:
                worker.restart(f"{changed} has changed")

    def _exit_status(self) -> int:
        if self._is_misconfigured:
            return MISUSED
        return FAILED if any(worker.was_killed for worker in self._workers) else DONE
