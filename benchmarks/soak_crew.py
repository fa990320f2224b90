"""The worker processes of a soak: starting, replacing and ending them, and judging how they end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measuring import THIS_PACKAGE, environment_with
from soak_ledger import Ledger
from soak_worker import BROKEN, CRASHED, THREADS, UNAVAILABLE

WORKER = Path(__file__).with_name("soak_worker.py")
EXIT_SECONDS = 15.0
"""Longest that a worker may take to end after SIGTERM; it may drain for 5 s."""
STILL_SECONDS = 60.0
"""Longest that a reader may be without a message while there are some."""

Pause = Callable[[float], None]


@dataclass(frozen=True)
class Release:
    """A release of shared_sync that workers run."""

    name: str
    package: Path = THIS_PACKAGE
    """The folder that has its `shared_sync`."""

    prefetch: str = "5"
    isolation: str = "thread"


class Worker:
    """One worker process, and how far its journal has been read."""

    def __init__(self, name: str, release: Release, journal: Path, command: list[str]) -> None:
        self.name = name
        self.release = release
        self.ready = False
        self.contended = False
        """Two processes want, or wanted, its name, so that one of them may end itself."""
        self.began: dict[str, float] = {}
        """When each of its readers last began a message."""
        journal.touch()
        self._lines = journal.open("rb")
        with journal.with_suffix(".log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment_with(release.package),
                start_new_session=True,
            )

    def read_journal(self, ledger: Ledger) -> None:
        """Enter the lines that are complete into the ledger."""
        while line := self._lines.readline():
            if not line.endswith(b"\n"):
                self._lines.seek(-len(line), os.SEEK_CUR)
                return
            event, number, _attempt, thread, moment = line.decode().split()
            if event == "ready":
                self.ready = True
                continue
            ledger.ran(event, int(number))
            if event == "run":
                self.began[thread] = float(moment)

    def resumed(self, since: float) -> float | None:
        """Return when every reader had begun a message after `since`; None if not yet."""
        later = [moment for moment in self.began.values() if moment >= since]
        return max(later) if len(later) == THREADS else None

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._lines.close()


class Crew:
    """Keeps the workers at their number, reads their journals, and judges how they end."""

    def __init__(
        self, url: str, ledger: Ledger, folder: Path, release: Release, *, seed: int, lease: float
    ) -> None:
        self._ledger = ledger
        self._folder = folder
        self._url = url
        self._release = release
        self._seed = seed
        self._lease = lease
        self._chance = random.Random(f"{seed}/crew")
        self._hired = self._names = 0
        self.workers: list[Worker] = []
        self.superseded: list[Worker] = []
        """Frozen past their lease while another process took their name."""
        self.counts: Counter[str] = Counter()
        self._unresumed: dict[Worker, tuple[float, str]] = {}
        self.longest_resumption: tuple[float, str] = (0.0, "no fault")

    # --- their number ---

    def hire(self, name: str | None = None, release: Release | None = None) -> Worker:
        if name is None:
            self._names += 1
            name = f"w{self._names}"
        release = release or self._release
        self._hired += 1
        journal = self._folder / f"worker-{self._hired:04}-{name}.journal"
        arguments = [self._url, name, str(journal), str(self._seed), str(self._lease)]
        command = [sys.executable, str(WORKER), *arguments, release.prefetch, release.isolation]
        worker = Worker(name, release, journal, command)
        self.workers.append(worker)
        return worker

    def replace(self, worker: Worker, after: str, release: Release | None = None) -> None:
        """Start another process in a worker's place, under its name or a new one.

        Without a release it runs the release of the one before.
        """
        self.retire(worker)
        name = worker.name if self._chance.random() < 0.5 else None
        self.counts["replaced under the same id" if name else "replaced under a new id"] += 1
        replacement = self.hire(name, release or worker.release)
        replacement.contended = worker.contended and name is not None
        self._unresumed[replacement] = (time.monotonic(), after)

    def retire(self, worker: Worker) -> None:
        """Forget a worker whose process has ended; its journal counts to its end."""
        worker.read_journal(self._ledger)
        worker.close()
        for group in (self.workers, self.superseded):
            if worker in group:
                group.remove(worker)
        self._unresumed.pop(worker, None)

    def departed(
        self,
        worker: Worker,
        status: int,
        *allowed: int,
        after: str = "",
        release: Release | None = None,
    ) -> None:
        """Judge the exit status of a worker that has ended, and fill its place."""
        if status in allowed:
            pass
        elif status == CRASHED:
            self.counts["workers taken down by a message"] += 1
            after = "a message took a worker down"
        elif status == UNAVAILABLE:
            self.counts["starts repeated, Redis was away"] += 1
            after = "a start without Redis"
        elif status == BROKEN and worker.contended:
            self.counts["ended themselves, their name was taken"] += 1
        else:
            self._ledger.problem(f"worker {worker.name} ended with exit status {status}")
        if worker in self.superseded:
            self.retire(worker)
            return
        self.replace(worker, after or "the end of a worker", release)

    def kill(self, worker: Worker, after: str, release: Release | None = None) -> None:
        """Send SIGKILL to a worker and replace it."""
        worker.process.kill()
        status = worker.process.wait()
        self.departed(worker, status, -signal.SIGKILL, after=after, release=release)

    def terminate(
        self, worker: Worker, pause: Pause, after: str, release: Release | None = None
    ) -> None:
        """Send SIGTERM to a worker, wait until it has drained, and replace it."""
        self.workers.remove(worker)  # `tend` would replace it before its status is judged here
        worker.process.terminate()
        status = wait_for_exit(worker, pause)
        if status is None:
            self._ledger.problem(f"worker {worker.name} did not end in time after SIGTERM")
        self.departed(worker, status or 0, 0, after=after, release=release)

    def stop_all(self, pause: Pause) -> None:
        """Send SIGTERM to all; each has to drain and end with exit status 0."""
        leaving, self.workers = self.workers, []
        for worker in leaving:
            worker.process.terminate()
        for worker in leaving:
            status = wait_for_exit(worker, pause)
            if status != 0:
                self._ledger.problem(f"SIGTERM ended worker {worker.name} with {status}")
            self.retire(worker)

    def kill_all(self) -> None:
        for worker in [*self.workers, *self.superseded]:
            worker.process.kill()
            worker.process.wait()
            self.retire(worker)

    # --- their progress ---

    @property
    def ready(self) -> list[Worker]:
        """The workers whose signal handlers are in place."""
        return [worker for worker in self.workers if worker.ready]

    @property
    def all_resumed(self) -> bool:
        """Whether every reader has begun a message since the last fault."""
        return not self._unresumed

    def expect_all(self, after: str) -> None:
        """A fault is over: from now on every reader of every worker should begin a message."""
        now = time.monotonic()
        for worker in self.workers:
            self._unresumed[worker] = (now, after)

    def tend(self, *, feeding: bool = True) -> None:
        """Read the journals and replace the workers that have ended."""
        for worker in [*self.workers, *self.superseded]:
            worker.read_journal(self._ledger)
            self._measure_resumption(worker)
            if feeding:
                self._check_progress(worker)
            status = worker.process.poll()
            if status is not None:
                self.departed(worker, status)

    def _measure_resumption(self, worker: Worker) -> None:
        since, after = self._unresumed.get(worker, (0.0, ""))
        moment = worker.resumed(since) if after else None
        if moment is not None:
            del self._unresumed[worker]
            self.longest_resumption = max(self.longest_resumption, (moment - since, after))

    def _check_progress(self, worker: Worker) -> None:
        for thread, moment in worker.began.items():
            if time.monotonic() - moment > STILL_SECONDS and worker in self.workers:
                self._ledger.problem(f"{thread} ran nothing for {STILL_SECONDS:.0f} s")
                worker.began[thread] = time.monotonic()


def wait_for_exit(worker: Worker, pause: Pause) -> int | None:
    """Return the exit status; kill the worker and return None if that takes too long."""
    deadline = time.monotonic() + EXIT_SECONDS
    while (status := worker.process.poll()) is None:
        if time.monotonic() >= deadline:
            worker.process.kill()
            worker.process.wait()
            return None
        pause(0.02)
    return status
