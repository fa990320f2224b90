"""The names of connections: CLIENT LIST shows by them who has opened each."""

from __future__ import annotations

import os
import re
import socket
from typing import Any, Final

import redis

PREFIX: Final = "shared_sync"
_LONGEST: Final = 200
_NOT_ALLOWED: Final = re.compile(r"[^!-~]")


def of_consumer(consumer_id: str) -> str:
    """The name of the connections of a consumer."""
    return _clean(f"{PREFIX}:{consumer_id}")


def of_process(role: str) -> str:
    """The name of the connections of anything else; a forked process has another."""
    return _clean(f"{PREFIX}:{role}:{socket.gethostname()}:{os.getpid()}")


def _clean(name: str) -> str:
    return _NOT_ALLOWED.sub("_", name)[:_LONGEST]


class Greeting:
    """Sends what each new connection sends first: the user's credentials and the connection's name.

    The right to name it (`+client|setname`) is optional; if it is missing, no further name is sent.
    Connections in several threads may share one.
    """

    def __init__(self, name: str) -> None:
        # Fixed after construction.
        self._name = name
        # Written by any thread.
        self._may_name = True

    def __call__(self, connection: Any) -> None:
        """Is called by the driver when a connection has been made; raises what that raises."""
        connection.on_connect()
        if not self._may_name:
            return
        connection.send_command("CLIENT", "SETNAME", self._name, check_health=False)
        try:
            connection.read_response()
        except redis.ResponseError:
            self._may_name = False
