"""The link between a supervisor and one of its worker processes: lines of JSON over a socket.

Nobody else can reach it: it has no port, and no file. It also tells each side when the other has
ended, however it has ended.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any


class Link:
    """One end of a link. One thread may read; any thread may send."""

    def __init__(self, end: socket.socket) -> None:
        # Fixed after construction.
        self._socket = end
        self._lines = end.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> bool:
        """Send a message; return whether the other side has not ended. Blocks if it reads
        nothing."""
        line = json.dumps(message, default=str).encode() + b"\n"
        with self._sending, suppress(OSError):
            self._socket.sendall(line)
            return True
        return False

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield each message, and end when the other side does. Blocks in between."""
        with suppress(OSError, ValueError):  # also for half a line of a process that was killed
            for line in self._lines:
                yield json.loads(line)

    def close(self) -> None:
        """Close this end. The thread that reads must have ended."""
        with suppress(OSError):
            self._lines.close()
            self._socket.close()
