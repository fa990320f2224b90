"""The child's end of the channel beside the jobs: log records, metrics, progress; cancellations."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.isolation import frames
from shared_sync.isolation.wire import complete_frames, encode

WAIT_SECONDS: Final = 1.0
"""How long a record may wait for the parent to take others. Then records are dropped, until the
parent has taken what it was sent."""

_PEEKED_BYTES: Final = 512 * 1024
"""More bytes than the parent can have sent and this process not received."""


class SideChannel:
    """Sends at once, so that nothing is lost if the process dies, and blocks for a second at most.

    Any thread may call any method.
    """

    def __init__(self, end: socket.socket) -> None:
        # Fixed after construction.
        self._socket = end
        end.setblocking(False)
        self._poll = select.poll()
        self._poll.register(end, select.POLLOUT)
        # Guarded by the lock, which is re-entrant: a signal handler may log.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._rest = memoryview(b"")
        """What the parent has not taken of the last frame."""
        self._is_stuck = False
        """Whether the parent took nothing for WAIT_SECONDS."""
        self._dropped = 0
        self._sends = False
        """Whether a frame is being sent: a signal handler that logs must not send another then."""

    def log(self, record: dict[str, Any]) -> None:
        """Send a log record, or count it as dropped."""
        with self._lock:
            if self._sends or not self._finish_last():
                self._dropped += 1
                return
            if self._dropped:
                record["dropped"] = self._dropped
                self._dropped = 0
            self._send(frames.LOG, record)

    def metrics(self, take: Callable[[], dict[str, Any] | None]) -> None:
        """Send what this function returns, if it returns anything.

        It is not called while the parent has not taken what was sent before.
        """
        with self._lock:
            if not self._sends and self._finish_last():
                taken = take()
                if taken is not None:
                    self._send(frames.METRICS, taken)

    def progress(self, header: Sequence[Any]) -> None:
        """Send progress, or drop it: the last of each message is sent again with the outcome."""
        with self._lock:
            if not self._sends and self._finish_last():
                self._send(frames.PROGRESS, header)

    @property
    def told_to_end(self) -> bool:
        """Whether the parent has said that this process is to end, or has ended itself.

        Never blocks; safe in a signal handler. What was received is left where it is.
        """
        received = self._peek()
        if received is None:
            return False
        return not received or any(
            frame.kind == frames.END for frame, _ in complete_frames(received)
        )

    def cancelled(self, seconds: float) -> Sequence[str]:
        """Return the ids of cancelled messages that the parent has sent.

        Waits up to `seconds` for them, or until this process must end or the parent has ended. Only
        one thread may call it.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.poll(seconds * 1000)
        ids: list[str] = []
        received_bytes = 0
        for frame, end in complete_frames(self._peek() or b""):
            if frame.kind != frames.CANCEL:  # END stays, so that everybody sees it
                break
            ids += frame.header
            received_bytes = end
        if received_bytes:
            self._socket.recv(received_bytes)
        return ids

    def _peek(self) -> bytes | None:
        """Return the bytes that have arrived, and keep them; None for none, b"" at the end."""
        try:
            return self._socket.recv(_PEEKED_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    @property
    def parent_has_ended(self) -> bool:
        """Whether the parent has ended. Never blocks."""
        return self._peek() == b""

    def fileno(self) -> int:
        """Return the descriptor of this end."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end, such as that of a forked process."""
        self._socket.close()

    def _send(self, kind: int, header: dict[str, Any] | Sequence[Any]) -> None:
        frame = encode(kind, header)
        if self._rest:  # a finalizer that ran meanwhile has logged
            frame = bytes(self._rest) + frame
        self._rest = memoryview(frame)
        self._finish_last()

    def _finish_last(self) -> bool:
        """Send what is left of the last frame; return whether all of it is sent."""
        self._sends = True
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while self._rest:
                seconds = 0.0 if self._is_stuck else max(0.0, deadline - time.monotonic())
                if not self._poll.poll(seconds * 1000):
                    self._is_stuck = True
                    return False
                self._rest = self._rest[self._socket.send(self._rest) :]
            self._is_stuck = False
        except OSError:  # the parent has ended, and so does this process
            self._rest = memoryview(b"")
        finally:
            self._sends = False
        return True
