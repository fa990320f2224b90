"""The three programs as processes of the demo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

from shared_sync.errors import SharedSyncError

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 35.0
"""A worker lets its jobs run for 25 s."""

_POLL_SECONDS: Final = 0.05
_REPLY_SECONDS: Final = 30.0


class ProgramFailed(SharedSyncError):
    """A program of the demo has ended, or is not ready in time."""


class Program:
    """A program that runs until `stop()`, or until this process ends."""

    def __init__(self, name: str, health_port: int, environment: Mapping[str, str]) -> None:
        self.name = name
        self.health_port = health_port
        self._process = subprocess.Popen(  # noqa: S603 - a module of this package
            [sys.executable, "-m", "shared_sync.demo.services.supervised", name],
            env={
                **os.environ,
                "LOG_LEVEL": "WARNING",
                "HEALTH_HOST": HOST,
                "HEALTH_PORT": str(health_port),
                "INSTANCE_ID": name.replace("_", "-"),
                **environment,
            },
            stdin=subprocess.PIPE,  # closed when this process ends, in whatever way
            start_new_session=True,  # Ctrl-C is for this process, which then stops the programs
        )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.health_port}/"

    def wait_until_ready(self) -> None:
        """Wait until the program accepts work. Raises `ProgramFailed` if it does not."""
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if (status := self._process.poll()) is not None:
                raise ProgramFailed(f"{self.name} has ended with exit status {status}")
            if time.monotonic() > deadline:
                raise ProgramFailed(f"{self.name} is not ready after {START_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End the program. Waits while its jobs finish."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill the program with SIGKILL, and wait for its end."""
        self._process.kill()
        with self._process:
            pass

    def _is_ready(self) -> bool:
        with suppress(OSError, HTTPException):
            return ask(self.health_port, "GET", "/health/ready")[0] == 200
        return False


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Send a request to a program, and return the status and the JSON of its answer."""
    connection = HTTPConnection(HOST, port, timeout=_REPLY_SECONDS)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def free_ports(number: int) -> list[int]:
    """Return ports that no program listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in sockets]
