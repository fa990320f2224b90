"""JobHandle: a published job whose result comes back to this process."""

from __future__ import annotations

import os
from collections.abc import Callable

from shared_sync.common import arguments
from shared_sync.errors import ConsumerStateError
from shared_sync.protocol.cancelling import ENDED
from shared_sync.redis_producer.awaited_results import AwaitedResult
from shared_sync.result_listener.result import Result


class JobHandle:
    """A job whose result comes back to this process. Safe from any thread.

    `RedisStreamProducer.submit()` returns it. The result is kept as long as the handle; if you drop
    the handle, its result is dropped as well.
    """

    def __init__(
        self,
        awaited: AwaitedResult,
        cancel: Callable[[str], str],
        status: Callable[[str], str],
    ) -> None:
        # Fixed after construction.
        self._awaited = awaited
        self._cancel = cancel
        self._status = status
        self._process = os.getpid()

    @property
    def id(self) -> str:
        """The id of the job, as in its result."""
        return self._awaited.job_id

    @property
    def done(self) -> bool:
        """Whether the final result has arrived, so that `result()` returns at once."""
        return self._awaited.final is not None

    @property
    def progress(self) -> Result | None:
        """The newest progress that has arrived; None before the first."""
        return self._awaited.progress

    def result(self, timeout: float | None = None) -> Result:
        """Return the final result, whatever its status is. May be called again.

        Blocks up to `timeout` seconds. None for no limit: then this may block for ever, because the
        result may never arrive if Redis lost its data or was away for longer than
        `reply_ttl_seconds`. If in doubt, call `status()`. `result().raise_for_status()` raises an
        error for a job that is not done.

        Raises:
            ResultTimeout: The result has not arrived in time. The job continues.
            ConsumerStateError: The producer was closed before the result arrived, or this is
                another process than the one that published the job, such as a fork.
        """
        if timeout is not None:
            arguments.number("timeout", timeout, 0)
        self._check_process()
        return self._awaited.wait(timeout)

    def wait_for_update(self, *, after: str = "", timeout: float | None = None) -> Result | None:
        """Return the newest result, final or progress, once it is another one than `after`.

        `after` is the `entry_id` of the result that the caller has seen; "" if it has seen none.
        Between two calls several reports of progress may arrive; only the newest is returned. This
        suits a request of a browser that waits until there is something new to show.

        Blocks up to `timeout` seconds, and then returns None; None for no limit. If `after` is the
        final result, returns None at once, because nothing follows it.

        Raises:
            ConsumerStateError: As `result()` does.
        """
        if timeout is not None:
            arguments.number("timeout", timeout, 0)
        self._check_process()
        return self._awaited.wait_for_update(after, timeout)

    def _check_process(self) -> None:
        if not self.done and os.getpid() != self._process:
            raise ConsumerStateError(
                f"the result of {self.id!r} goes to process {self._process}, which has submitted "
                "the job; wait for it there, or submit the job in this process"
            )

    def cancel(self) -> str:
        """Cancel the job, and return the state in which it was, as the producer's `cancel()` does.

        If the final result has arrived, this only returns "ended". Otherwise "ended" may also mean
        that the job was forwarded to another stream; then it is cancelled there.
        """
        return ENDED if self.done else self._cancel(self.id)

    def status(self) -> str:
        """Return the state of the job, as `RedisStreamProducer.status()` does.

        If the final result has arrived, this returns its status, such as "done", and asks nobody.
        """
        final = self._awaited.final
        return self._status(self.id) if final is None else final.status

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"
