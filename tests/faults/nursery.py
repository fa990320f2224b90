"""Starts worker processes quickly: as forks of a process that has imported what a worker needs.

A worker is a process of its own all the same, and a child of the process that runs the tests, which
kills, freezes and waits for it. Only its imports, which take half a second, were made before.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import start_program

TESTS = str(Path(__file__).parents[1])
PROGRAM = Path(__file__).with_name("worker.py")
PR_SET_CHILD_SUBREAPER = 36


class WorkerFork:
    """One worker, with the methods of a `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class Nursery:
    """The process that has imported everything; started when the first worker is."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self, given: dict[str, Any], log: Path) -> WorkerFork:
        """Start a worker with these arguments, which writes what it logs to a file."""
        process = self._process = self._process or _start()
        assert process.stdin is not None
        assert process.stdout is not None
        with _adopting_orphans():
            process.stdin.write(json.dumps([given, str(log)]) + "\n")
            process.stdin.flush()
            return WorkerFork(int(process.stdout.readline()))

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=10)


def _start() -> subprocess.Popen[str]:
    given = os.environ.get("PYTHONPATH")
    path = f"{TESTS}{os.pathsep}{given}" if given else TESTS
    return start_program(
        [sys.executable, PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # One arena: or each thread reserves memory, and no limit could be set to it.
        env={**os.environ, "PYTHONPATH": path, "MALLOC_ARENA_MAX": "1"},
    )


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Become the parent of a process below this one whose parent ends."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
