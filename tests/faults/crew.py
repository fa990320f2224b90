"""Workers in processes of their own, and books on what they report of their runs."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from faults.durations import LEASE_SECONDS
from faults.ledger import Ledger
from faults.nursery import Nursery
from helpers import eventually
from protocol_client import GroupAdmin

BOTH = pytest.mark.parametrize("isolation", ["thread", "process"])
"""For a test whose workers run their processors in threads, and in child processes."""


@dataclass(frozen=True)
class Run:
    """One attempt at a message, told of when it began."""

    message: str
    worker: str
    pid: int
    attempt: int
    moment: float
    """Wall clock."""


class ProcessLedger(Ledger):
    """A ledger that counts the runs which worker processes report, whatever becomes of them.

    They report to a Redis that no test disturbs. All of it belongs to the test's thread.
    """

    def __init__(self, url: str, reports: redis.Redis) -> None:
        super().__init__(url)
        self._reports = reports
        self._last_report = "0-0"
        self._all_runs: list[Run] = []

    def look(self) -> bool:
        seen = super().look()
        self.reported()
        return seen

    def reported(self) -> list[Run]:
        """All runs so far."""
        for entry_id, report in self._reports.xrange("runs", min=f"({self._last_report}"):
            self._last_report = entry_id.decode()
            fact = {name.decode(): value.decode() for name, value in report.items()}
            if "failed" in fact:
                self.failures[fact["failed"]] += 1
                continue
            moment = int(self._last_report.partition("-")[0]) / 1000
            run = Run(
                fact["message"], fact["worker"], int(fact["pid"]), int(fact["attempt"]), moment
            )
            self._all_runs.append(run)
            self.runs[run.message] += 1
        return self._all_runs

    def run_by(self, worker: str) -> list[str]:
        """Messages whose runs this worker has begun."""
        return [run.message for run in self.reported() if run.worker == worker]

    def attempts(self) -> dict[str, list[int]]:
        """The attempts at each message, in the order in which they began."""
        made: dict[str, list[int]] = {}
        for run in self.reported():
            made.setdefault(run.message, []).append(run.attempt)
        return made

    def answers(self) -> list[dict[str, str]]:
        """All results."""
        return [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in self.client.xrange("results")
        ]


class WorkerProcess:
    """One worker."""

    def __init__(
        self, nursery: Nursery, name: str, number: int, folder: Path, options: dict[str, Any]
    ) -> None:
        self.name = name
        self._report = folder / f"{number}.json"
        self._log = folder / f"{number}.log"
        self._log.touch()
        given = {"name": name, "report": str(self._report), **options}
        self.process = nursery.start(given, self._log)

    @property
    def pid(self) -> int:
        return self.process.pid

    def says(self, text: str) -> None:
        """Wait until it has logged this."""

        def said() -> bool:
            return text in self._log.read_text()

        eventually(lambda: said() or not self.alive)
        assert said(), f"{self.name} ended without saying {text!r}:\n{self._log.read_text()}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop it with SIGSTOP, all of its threads."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def status(self, *, within: float = 15) -> int | None:
        """Its exit status, when it has ended."""
        eventually(lambda: not self.alive, within=within)
        return self.process.returncode

    def report(self) -> dict[str, Any]:
        """What it told when it had ended by itself."""
        report: dict[str, Any] = json.loads(self._report.read_text())
        return report

    def log(self) -> str:
        return self._log.read_text()


class Crew:
    """Starts workers that do not outlive the test."""

    def __init__(
        self,
        nursery: Nursery,
        url: str,
        reports_url: str,
        folder: Path,
        isolation: str = "thread",
    ) -> None:
        self._nursery = nursery
        self._options = {
            "url": url,
            "reports_url": reports_url,
            "isolation": isolation,
            "lease_seconds": LEASE_SECONDS,
            "block_seconds": 0.2,
        }
        self._folder = folder
        self.all: list[WorkerProcess] = []

    def start(self, name: str, **options: Any) -> WorkerProcess:
        given = self._options | options
        worker = WorkerProcess(self._nursery, name, len(self.all), self._folder, given)
        self.all.append(worker)
        return worker

    def let(self, what: str) -> None:
        """End the wait of those that `wait what`."""
        (self._folder / what).touch()

    def close(self) -> None:
        """Kill those that are left, and print what all of them logged, for a test that failed."""
        for worker in self.all:
            worker.kill()
            print(f"--- {worker.name}, process {worker.pid}, status {worker.process.returncode}")
            print(worker.log())


def held_by(admin: GroupAdmin, *names: str) -> set[str]:
    """What these had when they died.

    It is the second answer that counts: after the first, the server has read all that the dead
    had sent.
    """
    admin.pending()
    return {message_id for message_id, (owner, _) in admin.pending().items() if owner in names}
