"""What the benchmarks measure with: a pinned Redis server, worker processes, and what both cost.

Server and workers run on different cores where the machine has two, so that neither takes the
other's time. Every worker is a process of its own, and imports the same `shared_sync` as the
program that starts it.
"""

from __future__ import annotations

import json
import os
import platform
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import hiredis
import psutil
import redis
from worker_reports import GROUP, STREAM

import shared_sync
from shared_sync.connection.embedded import EmbeddedRedis

THIS_PACKAGE = Path(shared_sync.__file__).parents[1]
"""The folder that has the `shared_sync` of this program."""

FILL_CHUNK_BYTES = 1_000_000
FILL_SCRIPT = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  redis.call('XADD', KEYS[1], '*', 'n', string.format('%07d', n), 'data', ARGV[3])
end"""
SMALL_PAYLOAD = 88
"""Bytes of the field `data` of a message whose names and values are 100 bytes together."""

WORKER_SECONDS = 600.0
"""Longest wait for a report of a worker."""
EXIT_SECONDS = 60.0
POLL_SECONDS = 0.25


# --- cores and the server -----------------------------------------------------------------------


def available_cores() -> list[int]:
    """Return the cores that this process may use; an empty list where that is unknown."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


_CORES = available_cores()
SERVER_CORE = _CORES[0] if len(_CORES) > 1 else None
WORKER_CORE = _CORES[1] if len(_CORES) > 1 else None


def pin(pid: int, core: int | None) -> None:
    """Keep all present and future threads of a process on one core; None changes nothing."""
    if core is None:
        return
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # the thread has ended
            os.sched_setaffinity(int(thread.name), {core})


@contextmanager
def pinned_redis(binary: Path | None = None, *extra_args: str) -> Iterator[EmbeddedRedis]:
    """A Redis server of our own, on a core that it shares with this process and no worker."""
    with EmbeddedRedis(binary, extra_args=extra_args, start_timeout=60.0) as server:
        pin(server.pid, SERVER_CORE)
        pin(os.getpid(), SERVER_CORE)
        try:
            yield server
        finally:
            if _CORES:
                os.sched_setaffinity(0, _CORES)


def fill(client: redis.Redis, messages: int, *, payload_bytes: int = SMALL_PAYLOAD) -> None:
    """Empty the server, create the group, and add messages numbered from 0 on."""
    client.flushall()
    client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    add(client, range(messages), payload_bytes=payload_bytes)


def add(client: redis.Redis, numbers: range, *, payload_bytes: int = SMALL_PAYLOAD) -> None:
    """Add messages with the fields `n`, their number, and `data`."""
    chunk = min(10_000, max(1, FILL_CHUNK_BYTES // payload_bytes))
    for first in range(numbers.start, numbers.stop, chunk):
        last = min(first + chunk, numbers.stop) - 1
        client.eval(FILL_SCRIPT, 1, STREAM, str(first), str(last), "x" * payload_bytes)


def pending(client: redis.Redis) -> int:
    """Return how many messages are delivered and not acknowledged."""
    summary: Any = client.xpending(STREAM, GROUP)
    return int(summary["pending"])


# --- worker processes ---------------------------------------------------------------------------


class Worker:
    """A worker process that writes JSON objects to its standard output, one a line.

    It ends when its standard input is closed, and so does not outlive this process.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        core: int | None = WORKER_CORE,
        environment: Mapping[str, str] | None = None,
        package: Path = THIS_PACKAGE,
    ) -> None:
        self.name = " ".join(Path(part).name for part in command[:2])
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment_with(package, environment),
            cwd=Path(__file__).parent,
        )
        pin(self._process.pid, core)
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(
        self,
        key: str,
        *,
        within: float = WORKER_SECONDS,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Return the next object that has the key, and call `meanwhile` now and then until then.

        Ends this program if the worker ends first or takes longer than `within` seconds.
        """
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            line, found, rest = self._buffer.partition(b"\n")
            if found:
                self._buffer = rest
                if line.startswith(b"{") and key in (report := json.loads(line)):
                    return dict(report)
                continue
            meanwhile()
            assert self._process.stdout is not None
            if select.select([self._process.stdout], [], [], POLL_SECONDS)[0]:
                read = os.read(self._process.stdout.fileno(), 1 << 20)
                if not read:
                    raise SystemExit(f"{self.name} ended before it reported {key!r}")
                self._buffer += read
        raise SystemExit(f"{self.name} did not report {key!r} within {within:g} s")

    def end_input(self) -> None:
        """Close the standard input, which asks the worker to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> None:
        """Ask the worker to end and wait for it. Ends this program if it fails to."""
        if status := self.exit_status():
            raise SystemExit(f"{self.name} ended with exit status {status}")

    def exit_status(self) -> int:
        """Ask the worker to end, wait for it and return its exit status."""
        self.end_input()
        return self._process.wait(EXIT_SECONDS)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self.end_input()
        assert self._process.stdout is not None
        self._process.stdout.close()


def environment_with(package: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which Python finds the `shared_sync` of a folder first."""
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **(more or {}), "PYTHONPATH": path}


# --- what it costs ------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that the living threads of a process have used, to the microsecond."""
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def resident_megabytes(pid: int) -> float:
    """Return the memory of a process that is in RAM, in units of 1,000,000 bytes."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def commands_sent(port: int, seconds: float) -> int:
    """Return how many commands a server is sent within some seconds; a script counts as one.

    MONITOR lists the commands that a script runs as well, and says of these that they are Lua's.
    """
    deadline = time.monotonic() + seconds
    lines = b""
    with socket.create_connection(("127.0.0.1", port)) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        while (left := deadline - time.monotonic()) > 0:
            monitor.settimeout(left)
            with suppress(TimeoutError):
                lines += monitor.recv(1 << 20)
    commands = [line for line in lines.split(b"\r\n") if b'] "' in line]
    return sum(b" lua] " not in line for line in commands)


def describe_machine(server: EmbeddedRedis) -> dict[str, str]:
    """Return what a reader has to know about the machine and the versions."""
    with redis.Redis.from_url(server.url) as client:
        info: Any = client.info("server")
    load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
    pinned = "on cores of their own" if WORKER_CORE is not None else "not pinned"
    return {
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()}, load {load}",
        "server and worker": pinned,
        "versions": f"Python {platform.python_version()}, redis-py {redis.__version__}, "
        f"hiredis {hiredis.__version__}, Redis {info['redis_version']}",
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
