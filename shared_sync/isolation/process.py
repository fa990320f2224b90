"""A child process, as its parent sees it: started, given jobs, ended, and never left behind."""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from subprocess import TimeoutExpired
from typing import IO, Any, Final

from shared_sync.common.clock import StallTolerantClock
from shared_sync.common.fork import renew_in_forks
from shared_sync.isolation import frames, spawning
from shared_sync.isolation.errors import ChildCrashed, DeadlinePassed, GracePassed
from shared_sync.isolation.wire import Channel, ChannelClosed, Frame

CHECK_SECONDS: Final = 1.0
"""How often a wait for the child is interrupted, to see whether it lasts too long."""

CHECKS_PER_DEADLINE: Final = 4

END_SECONDS: Final = 1.0
"""How long the end of a child may take that has nothing to do any more, and the receipt of the
last that it has logged."""

UNKILLABLE_SECONDS: Final = 5.0
"""After how long a killed child is not waited for any more: its system call does not return."""

MAX_STACK_BYTES: Final = 20_000
_LONGEST_PAUSE_SECONDS: Final = 0.05


MOST_CANCELLED: Final = 100
"""Ids of one frame, so that it is short enough to be sent as a whole or not at all."""


class _Overdue(Exception):
    """The job has run past its deadline."""


class _Ignored(Exception):
    """All messages of the job are cancelled, and it has gone on for the grace."""


class ChildProcess:
    """A child that is started by the constructor. Methods belong to one thread, except
    `interrupt()` and `cancel()`.

    Args:
        setup: The first frame: what the child loads.
        environment: What changes in the child's environment.
        on_record: Called with each frame that comes beside the jobs, in a thread of its own. Must
            not raise.
        deadline_seconds: How long a job may run; None for no limit. Time in which this process
            stood still does not count.
        kill_grace_seconds: From SIGTERM to SIGKILL, how long closing the processor may take, and
            how long a job may continue after all its messages were cancelled.
    """

    def __init__(
        self,
        setup: Mapping[str, Any],
        environment: Mapping[str, str],
        *,
        on_record: Callable[[Frame], None],
        deadline_seconds: float | None,
        kill_grace_seconds: float,
    ) -> None:
        # Fixed after construction.
        self._on_record = on_record
        self._deadline_seconds = deadline_seconds
        self._kill_grace_seconds = kill_grace_seconds
        self._check_seconds = CHECK_SECONDS
        if deadline_seconds is not None:
            self._check_seconds = min(CHECK_SECONDS, deadline_seconds / CHECKS_PER_DEADLINE)
        # Owned by the thread that uses the child.
        self._clock = StallTolerantClock(2 * self._check_seconds)
        self._overdue_at = math.inf
        self._is_cleared_up = False
        """Whether the child has ended and was waited for."""
        self._waits_at_most = 0.0
        self._ignored_at = math.inf
        """When a job that ignores its cancellation is ended."""
        self._running: Sequence[Sequence[Any]] = ()
        """The messages of the running job; the first item of each is its id."""
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._cancelled: set[str] = set()
        self._told: set[str] = set()
        """The cancelled messages of which the child was notified."""
        # Written by any thread.
        self._is_interrupted = False
        # Fixed after construction.
        self._stacks = _stacks_file()
        ours, theirs = socket.socketpair()
        our_side, their_side = socket.socketpair()
        self._jobs = Channel(ours, self._on_wait)
        self._side = Channel(our_side)
        try:
            with theirs, their_side:
                descriptors = (theirs.fileno(), their_side.fileno(), self._stacks.fileno())
                self._process = spawning.spawn(descriptors, environment)
        except BaseException:
            self._close_descriptors()
            our_side.close()
            raise
        self.pid = self._process.pid
        self._records = threading.Thread(
            target=self._receive_records, name=f"child-{self.pid}", daemon=True
        )
        renew_in_forks(self, ChildProcess._leave_to_parent)
        try:
            self._records.start()
            ours.sendall(spawning.search_path())
            self._jobs.send(frames.LOAD, {**setup, "parent": os.getpid()})
        except (OSError, ChannelClosed):
            pass  # it has ended, which waiting for it will find
        except BaseException:
            self._clear_up()
            raise

    def wait_until_loaded(self) -> Frame:
        """Wait until the child is ready, and return its answer: READY or FAILED.

        Raises `ChildCrashed` if the child ends before. There is no child any more then.
        """
        try:
            return self._exchange(None)
        except ChannelClosed:
            raise self.crashed(loading=True) from None

    def run(self, header: Mapping[str, Any], parts: Sequence[bytes]) -> Frame:
        """Have a job run, and return the answer: DONE or FAILED.

        Raises `ChildCrashed` if the child ends, `DeadlinePassed` if it was ended because the job
        ran for too long, and `GracePassed` if it was ended because the messages of the job are
        cancelled. There is no child any more if this raises.
        """
        self._running = header["messages"]
        if self._deadline_seconds is not None:
            self._overdue_at = self._clock.advance() + self._deadline_seconds
        try:
            return self._exchange((frames.JOB, header, parts))
        except ChannelClosed:
            raise self.crashed() from None
        except _Overdue:
            raise DeadlinePassed(self._deadline_seconds or math.inf, stack=self._end()) from None
        except _Ignored:
            self._end()
            raise GracePassed(self._kill_grace_seconds) from None
        finally:
            self._overdue_at = self._ignored_at = math.inf
            self._running = ()
            if self._cancelled:
                with self._lock:
                    self._cancelled.clear()
                    self._told.clear()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended. Never blocks."""
        if not hasattr(os, "waitid"):  # not on macOS before Python 3.13
            return self._process.poll() is not None
        try:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.pid, options) is not None
        except ChildProcessError:  # somebody else has waited for it, and its number is free
            self._process.returncode = self._process.returncode or 0
            return True

    def crashed(self, *, loading: bool = False) -> ChildCrashed:
        """Return how a child that was not asked to end has ended."""
        self._wait_for_end(END_SECONDS)
        returncode, stack = self._clear_up()
        if self._is_interrupted:
            returncode = -signal.SIGTERM
        return ChildCrashed(returncode, stack=stack, loading=loading)

    def interrupt(self) -> None:
        """End the child at once, whatever it does; `ChildCrashed` then says SIGTERM.

        Any thread may call it; never blocks.
        """
        self._is_interrupted = True
        self._process.send_signal(signal.SIGKILL)  # does nothing once it was waited for

    def cancel(self, ids: Sequence[str]) -> None:
        """Tell the child that messages are cancelled. If all are, it is ended after the grace.

        Any thread may call it, also again for the same messages; never blocks. If the child cannot
        receive just now, the next call tells it.
        """
        with self._lock:
            self._cancelled.update(ids)
            news = [one for one in ids if one not in self._told][:MOST_CANCELLED]
            with suppress(ChannelClosed):
                if news and self._side.send_at_once(frames.CANCEL, news):
                    self._told.update(news)

    def close(self) -> None:
        """Have the processor closed, and the child end by itself; end it if that takes too long.

        Does nothing if the child has ended before.
        """
        if self._is_cleared_up:
            return
        with suppress(ChannelClosed):
            self._jobs.send(frames.CLOSE, None)
        if not self._wait_for_end(self._kill_grace_seconds):
            self._terminate()
            self._wait_for_end(END_SECONDS)
        self._clear_up()

    # --- inside ---

    def _exchange(self, job: tuple[int, object, Sequence[bytes]] | None) -> Frame:
        self._wait_at_most(self._check_seconds)
        try:
            if job is not None:
                self._jobs.send(*job)
            return self._jobs.receive()
        except (ChannelClosed, _Overdue, _Ignored):
            raise
        except BaseException:
            self._clear_up()
            raise

    def _on_wait(self) -> None:
        """Give up if the job is overdue, or the child has ended and its own one has the socket.

        The same if the job is cancelled and the grace has passed.
        """
        now = self._clock.advance()
        if now >= self._overdue_at:
            raise _Overdue
        if now >= self._ignored_at:
            raise _Ignored
        if self.has_ended:
            raise ChannelClosed("the child has ended")
        if self._running and all(one[0] in self._cancelled for one in self._running):
            self._ignored_at = min(self._ignored_at, now + self._kill_grace_seconds)
        self._wait_at_most(min(self._check_seconds, self._overdue_at - now, self._ignored_at - now))

    def _wait_at_most(self, seconds: float) -> None:
        """Let no send and no receipt block for longer; zero would be no limit."""
        if seconds != self._waits_at_most:
            self._waits_at_most = seconds
            whole, fraction = divmod(max(seconds, 0.001), 1.0)
            limit = struct.pack("@ll", int(whole), int(fraction * 1e6))
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._jobs.socket.setsockopt(socket.SOL_SOCKET, option, limit)

    def _end(self) -> str:
        """End a child in the middle of a job; return where its threads were."""
        with suppress(OSError):
            os.lseek(self._stacks.fileno(), 0, os.SEEK_SET)  # its own place, too
            self._stacks.truncate(0)
        self._terminate()
        self._wait_for_end(self._kill_grace_seconds)
        _, stack = self._clear_up()
        return stack

    def _terminate(self) -> None:
        """Ask the child to end, in the middle of a message if one runs: it raises `ToldToEnd`."""
        with suppress(ChannelClosed), self._lock:
            self._side.send_at_once(frames.END, None)
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def _wait_for_end(self, seconds: float) -> bool:
        """Wait until the process has ended, but not so that its number is free again."""
        deadline = time.monotonic() + seconds
        pause = 0.001
        while not self.has_ended:
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return True

    def _clear_up(self) -> tuple[int, str]:
        """Kill what is left of the child's process group, and return how the child has ended.

        That is its return code, and the stack that it has left behind.
        """
        self._is_cleared_up = True
        if self._process.returncode is None:  # else its number may be another process's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        try:
            returncode = self._process.wait(UNKILLABLE_SECONDS)
        except TimeoutExpired:
            returncode = -signal.SIGKILL
            threading.Thread(target=self._process.wait, name="unkillable", daemon=True).start()
        if self._records.ident is None:  # the system gave no more threads
            self._side.close()
        else:
            self._records.join(END_SECONDS)
        with suppress(OSError):  # another process may have the other end
            self._side.socket.shutdown(socket.SHUT_RDWR)
        stack = ""
        with suppress(OSError):
            stack = os.pread(self._stacks.fileno(), MAX_STACK_BYTES, 0).decode(errors="replace")
        self._close_descriptors()
        return returncode, stack

    def _close_descriptors(self) -> None:
        self._jobs.close()
        self._stacks.close()

    def _receive_records(self) -> None:
        """Receive what the child logs and records, until it ends."""
        with self._side.socket, suppress(ChannelClosed):
            while True:
                self._on_record(self._side.receive())

    def _leave_to_parent(self) -> None:
        """In a forked process: have nothing to do with the parent's child."""
        self._close_descriptors()
        self._side.close()
        self._lock = threading.Lock()
        self._process.returncode = 0  # nobody is to wait for it here


def _stacks_file() -> IO[bytes]:
    """Return a file for what a fatal signal finds on the stack of the child."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("stacks"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
