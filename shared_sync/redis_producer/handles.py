"""JobHandle: a job that was published, and whose result comes back to this process."""

from __future__ import annotations

import os
from collections.abc import Callable

from shared_sync.common import arguments
from shared_sync.errors import ConsumerStateError
from shared_sync.redis_producer.waiting import Awaited
from shared_sync.result_listener.result import Result


class JobHandle:
    """A job whose result comes back to this process. Safe from any thread.

    `RedisStreamProducer.submit()` returns it. A result is kept as long as the handle is; if you
    drop the handle, its result is dropped as well.
    """

    def __init__(
        self,
        awaited: Awaited,
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
        """The id of the job, which results and logs have as well."""
        return self._awaited.job_id

    @property
    def done(self) -> bool:
        """Whether the final result has come, so that `result()` returns at once."""
        return self._awaited.final is not None

    @property
    def progress(self) -> Result | None:
        """The last progress that has come; None before the first."""
        return self._awaited.progress

    def result(self, timeout: float | None = None) -> Result:
        """Return the final result, whatever its status is; it may be asked for again.

        Blocks up to `timeout` seconds; None for ever, which it may be: if Redis has lost its data,
        or was away for longer than `reply_ttl_seconds`, the result may never come. In doubt, ask
        for the `status()`. `result().raise_for_status()` raises an error for a job that is not
        done.

        Raises:
            ResultTimeout: It has not come in time. The job goes on.
            ConsumerStateError: The producer was closed before it came. Or this is another process,
                such as a fork, to which it never comes.
        """
        if timeout is not None:
            arguments.number("timeout", timeout, 0)
        if not self.done and os.getpid() != self._process:
            raise ConsumerStateError(
                f"the result of {self.id!r} goes to process {self._process}, which has submitted "
                "the job; wait for it there, or submit the job in this process"
            )
        return self._awaited.wait(timeout)

    def cancel(self) -> str:
        """Cancel the job, and return how far it was, as `RedisStreamProducer.cancel()` does.

        Nothing is sent, and "ended" returned, if the final result has come. Until then "ended" may
        also mean that the job was forwarded to another stream; then it is cancelled there.
        """
        return "ended" if self.done else self._cancel(self.id)

    def status(self) -> str:
        """Return how far the job is, as `RedisStreamProducer.status()` does.

        Once the final result has come it is that of the result, such as "done", and nothing is
        sent.
        """
        final = self._awaited.final
        return self._status(self.id) if final is None else final.status

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"
