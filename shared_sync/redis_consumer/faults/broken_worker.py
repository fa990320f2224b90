"""What becomes of a worker that is broken, and of the messages at which that showed.

A fault of a device is not the fault of the message that met it: the message goes back uncharged,
and the consumer ends, so that a supervisor starts another process. With child processes, the child
is replaced first, and the consumer ends if the next one breaks before it has finished any message.

But some messages break every worker that runs them: an index that is out of range in an embedding
triggers an assertion on the device. Such a message must not go from worker to worker for ever. So
each of its *faults* is noted, and from the second one on it is charged as a crash, which counts
towards `max_crashes`: provided that the worker had finished another message before, and so was not
broken already. A worker that fails at its first message says nothing about that message. There the
message goes back uncharged, and waits longer each time, so that the next worker can show with
others that it works. While other consumers live, one that has finished nothing yet leaves such a
message to them for a minute (`recover.lua`). Once a message was charged so, each further fault is.

Example with `max_crashes=3`: M breaks worker `a`, whose first message it was (noted, uncharged).
`b` has worked; it takes M and breaks: one crash. Two more workers break at M: it is a dead letter.
Messages that ran beside M when a worker broke have a fault, too, and no crash.

A message that is alone, as no other is published, breaks a worker every 10 minutes: nothing shows
whether the message or the device is at fault.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from shared_sync.common import backoff
from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.errors import ConsumerBroken, InvalidResult, Reject
from shared_sync.protocol.messages import Entry, Fault, HandBack
from shared_sync.redis_consumer.failures import Failure
from shared_sync.redis_consumer.faults.fatal_errors import FatalErrors
from shared_sync.redis_consumer.slot import Attempt

FIRST_DELAY_SECONDS = 10.0
"""How long a message waits after its second fault; twice as long after each further one."""

LONGEST_DELAY_SECONDS: Final = 600.0
"""`LONGEST_FAULT_DELAY` in `common.lua` says the same."""


class Decision(NamedTuple):
    """What becomes of a message at which its worker broke."""

    outcome: HandBack | Fault | None
    """None if it is charged with a crash."""


class BrokenWorker:
    """Ends the consumer once it is broken. Any thread may call any method; none blocks long."""

    def __init__(
        self, fatal_errors: FatalErrors, *, on_broken: Callable[[ConsumerBroken], None]
    ) -> None:
        """`on_broken` is called once, in the thread of a reader, and must not wait for it."""
        # Fixed after construction.
        self.fatal_errors = fatal_errors
        self._on_broken = on_broken
        # Guarded by the lock.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        # Written under the lock; read without it.
        self.is_broken = False

    def end_if_fatal(self, error: BaseException) -> None:
        """End the consumer if this error says that it is broken, such as one of loading again."""
        cause = self.fatal_errors.find(error)
        if cause is not None:
            self.end(cause)

    def end(self, error: BaseException) -> None:
        """End the consumer because of this error, unless it ends already."""
        with self._lock:
            if self.is_broken:
                return
            self.is_broken = True
        failure = Failure.of(error)
        reason = f"the worker is broken: {failure.error_type}"
        broken = ConsumerBroken(f"{reason}: {failure.error}", reason=reason)
        broken.__cause__ = error
        self._on_broken(broken)


class Faults:
    """Decides about the messages of one reader at which its worker breaks. For its thread."""

    def __init__(
        self,
        worker: BrokenWorker,
        *,
        successes: Callable[[], int],
        replace: Callable[[], None] | None = None,
    ) -> None:
        """`successes` returns how many messages have been finished on the same device.

        `replace` replaces the child process of the reader; None if it has none.
        """
        # Fixed after construction.
        self._worker = worker
        self._successes = successes
        self._replace = replace
        # Owned by the reader's thread.
        self._successes_before = 0
        """Successes when the child process was replaced last."""
        self._replaced_for: str | None = None
        """The message because of which it was, if it was."""
        self._had_worked = False
        """Whether the child process that was replaced had finished any message."""
        self._attempt = 0
        """The number of the attempt that was decided about last: a batch comes once for each of its
        messages."""
        self._has_worked = False
        """Whether its worker had finished any message before."""

    def is_fault(self, error: BaseException) -> bool:
        """Return whether an error says that the worker is broken, or comes of that."""
        return self._worker.fatal_errors.find(error) is not None or self._comes_of_one(error)

    def decide(self, entry: Entry, error: BaseException, attempt: Attempt) -> Decision | None:
        """Return what becomes of a message that failed with this error; None if it is a failure.

        Ends the consumer, or replaces the child process, before it returns: a message that goes
        back could come here again otherwise.
        """
        cause = self._worker.fatal_errors.find(error)
        if cause is None:
            return Decision(HandBack(entry.id)) if self._comes_of_one(error) else None
        if attempt.number != self._attempt:
            self._attempt = attempt.number
            self._has_worked = self._successes() > self._successes_before
            self._end_or_replace(entry, cause)
        was_charged = entry.faults and entry.crashes
        if was_charged or (self._has_worked and (entry.faults or entry.crashes)):
            return Decision(None)
        return Decision(Fault(entry.id, round(1000 * _delay_seconds(entry.faults))))

    def _comes_of_one(self, error: BaseException) -> bool:
        """What fails while a broken worker ends most likely fails for the same reason."""
        return self._worker.is_broken and not isinstance(error, (Reject, InvalidResult))

    def _end_or_replace(self, entry: Entry, cause: BaseException) -> None:
        """Replace the child process unless it is the second that breaks without having worked.

        If both broke at the same message, and the first one had worked, one more is tried: that
        message may be the cause.
        """
        is_second = self._replaced_for is not None and not self._has_worked
        may_be_the_message = self._replaced_for == entry.id and self._had_worked
        if self._replace is None or (is_second and not may_be_the_message):
            self._worker.end(cause)
            return
        self._replaced_for, self._had_worked = entry.id, self._has_worked
        self._replace()
        self._successes_before = self._successes()


def _delay_seconds(faults: int) -> float:
    """Return how long a message waits that has had so many faults before this one."""
    if faults == 0:
        return 0.0
    return backoff.exponential(
        faults, base_seconds=FIRST_DELAY_SECONDS, max_seconds=LONGEST_DELAY_SECONDS, jitter=0.25
    )
