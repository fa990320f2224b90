"""One worker process as its supervisor sees it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from shared_sync.cli.worker.link import Link

_BOOT: Final = """\
import sys
sys.path[:] = filter(None, sys.path)
import json
with open({0}, "rb", buffering=0, closefd=False) as link:
    sys.path[:] = json.loads(link.readline())
from shared_sync.cli.worker.supervised import main
main({0})
"""
"""The program of the process. All else comes over the link: others can read arguments."""


class Answer:
    """What a process will have answered to a question. Any thread may wait for it."""

    def __init__(self) -> None:
        self._is_there = threading.Event()
        # Written before the event is set.
        self._value: Any = None

    def set(self, value: Any) -> None:
        """Give the answer; None if there is none."""
        self._value = value
        self._is_there.set()

    def wait(self, deadline: float) -> Any:
        """Return the answer; None if there is none at this moment of the monotonic clock."""
        self._is_there.wait(max(0.0, deadline - time.monotonic()))
        return self._value


class WorkerProcess:
    """A process from its start to its end. Any thread may call any method."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        """Start it. Raises OSError if there are no more processes to be had."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._spawn(theirs.fileno(), setup["name"])
            except BaseException:
                ours.close()
                raise
        ours.sendall(
            json.dumps([path for path in sys.path if isinstance(path, str)]).encode() + b"\n"
        )
        # Fixed after construction.
        self.started_at = time.monotonic()
        self._link = Link(ours)
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._asked: dict[str, tuple[int, Answer]] = {}
        self._number = 0
        # Written by the thread that reads, each replaced as a whole.
        self.health: Mapping[str, Any] | None = None
        """The newest that it has reported; None before the first report."""
        self.heard_at = self.started_at

        self._link.send(setup)
        self._reading = threading.Thread(target=self._read, name="worker-reports", daemon=True)
        self._reading.start()

    @staticmethod
    def _spawn(descriptor: int, name: str) -> subprocess.Popen[bytes]:
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        return subprocess.Popen(  # noqa: S603  # this Python
            [sys.executable, *flags, "-c", _BOOT.format(descriptor), name],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for the supervisor alone, which then has its workers drain.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def exit_status(self) -> int | None:
        """Return its exit status, the negative number of a signal, or None while it runs."""
        return self._process.poll()

    def ask(self, question: str) -> Answer:
        """Ask a question. If it has not answered the same one yet, the answer is to both."""
        with self._lock:
            if question in self._asked:
                return self._asked[question][1]
            self._number += 1
            number, answer = self._number, Answer()
            self._asked[question] = (number, answer)
        if not self._link.send({"ask": question, "number": number}):
            self._settle(number, None)
        return answer

    def stop(self, seconds: float | None) -> None:
        """Have it drain for so long, None for its `drain_seconds`, and end."""
        self._link.send({"stop": seconds})

    def kill(self) -> None:
        """Kill it."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Release what is left of a process that has ended."""
        self._process.wait()
        self._reading.join(5)
        self._link.close()

    def _read(self) -> None:
        for message in self._link.messages():
            self.heard_at = time.monotonic()
            if "health" in message:
                self.health = message["health"]
            else:
                self._settle(message["answer"], message["value"])
        with self._lock:
            asked, self._asked = self._asked, {}
        for _, answer in asked.values():
            answer.set(None)

    def _settle(self, number: int, value: Any) -> None:
        with self._lock:
            settled = [
                (question, answer) for question, (at, answer) in self._asked.items() if at == number
            ]
            for question, _ in settled:
                del self._asked[question]
        for _, answer in settled:
            answer.set(value)
