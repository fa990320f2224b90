"""What tests share: waits with a deadline, ports, programs, a fork, a recorder that remembers."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

ENVIRONMENT = dict(os.environ)
"""For programs that threads start beside other tests: a copy of its own. A program without one is
given what pytest changes for each test, and may be given it while it changes (EFAULT)."""


def eventually(
    condition: Callable[[], object], *, within: float = 15.0, every: float = 0.01
) -> None:
    """Wait until the condition holds; fail when it does not within so many seconds."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {within} s"
        pause.wait(every)


def _ports_of_this_process() -> range:
    """Every n-th port, if pytest-xdist runs the suite in n processes."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return range(20_000 + number % processes, 32_768, processes)


PORTS = _ports_of_this_process()
"""The ports that this process gives to servers; no other process of the same run uses them.

They are below the ports that systems lend to outgoing connections.
"""


def free_port(*further_up: int) -> int:
    """Find a port of 127.0.0.1 that is free now, for a program that cannot choose one itself.

    The ports that lie `further_up` by these offsets are free too.
    """
    offsets = (0, *further_up)
    ports = [port for port in PORTS if port + max(offsets) < PORTS.stop]
    while True:
        port = random.choice(ports)
        with suppress(OSError), ExitStack() as probes:
            for offset in offsets:
                probes.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            return port


def has_ended(program: psutil.Process) -> bool:
    """Whether a program has ended, which somebody else's child is as a zombie, too."""
    try:
        return program.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def start_program(command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
    """Start a program that signals reach, with the options of Popen. Main thread only.

    A shell starts its background jobs with SIGINT and SIGQUIT ignored, and nohup a program with
    SIGHUP ignored. Programs inherit that: if pytest were started so, they would be ignored in the
    programs that tests send signals to.
    """
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGQUIT: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    ignored = [number for number in usual if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, usual[number])
    try:
        return subprocess.Popen(command, **options)
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def health_command(*arguments: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """`python -m shared_sync.health` as long as it is needed: its address."""
    process = start_program(
        [sys.executable, "-m", "shared_sync.health", *arguments, "--host", "127.0.0.1"],
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    try:
        assert process.stderr is not None
        told = (re.search(r"serving (http://\S+)/health", line) for line in process.stderr)
        address = next(filter(None, told), None)
        assert address is not None, "it does not serve"
        yield address.group(1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0


def in_a_fork(act: Callable[[], Any]) -> Any:
    """Do something in a forked process; what it returned, as JSON has it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os.write(writing, json.dumps(act()).encode())
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(writing)
    with open(reading) as told:
        returned = told.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return json.loads(returned)


def ask(url: str) -> tuple[int, dict[str, Any]]:
    """Status and content of a page of JSON."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


class Clock:
    """A clock that goes only when the test moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Interrupted(Clock):
    """A clock whose next reading is interrupted once, as by a signal handler of that thread."""

    handler: Callable[[], object] | None = None

    def __call__(self) -> float:
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        return super().__call__()


def returns(function: Callable[[], object]) -> bool:
    """Whether a call in a thread of its own returns, and does not stand still for ever."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


class Gate:
    """A processor or callback that stays inside until it is opened. Safe from any thread."""

    def __init__(self, returns: Any = None) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self._returns = returns
        self._lock = threading.Lock()
        # Guarded by the lock.
        self.calls = 0

    def __call__(self, *_: object) -> Any:
        with self._lock:
            self.calls += 1
        self.entered.set()
        assert self.opened.wait(60)
        return self._returns


class Figures:
    """Stands in for WorkerMetrics and keeps what it was told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counters: Counter[str] = Counter()
        self.durations: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}

    def increment_counter(self, name: str, value: float = 1) -> None:
        with self._lock:
            self.counters[name] += value

    def record_duration(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        with self._lock:
            self.durations[name] += 1

    def set_gauge(self, name: str, value: float) -> None:
        with self._lock:
            self.gauges[name] = value


class BlockedHandler(logging.Handler):
    """As one that writes into a pipe nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.opened = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        assert self.opened.wait(60)
