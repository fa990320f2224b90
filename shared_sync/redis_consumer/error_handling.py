"""What a thread of the pool does about an error: log it once, repair what can be, and pause."""

from __future__ import annotations

import random
from collections.abc import Callable

from shared_sync.common import backoff
from shared_sync.common.guarded import ErrorRecorder, Logger
from shared_sync.connection.availability import Availability
from shared_sync.errors import (
    ConsumerBroken,
    GroupMissing,
    LoadingFailed,
    RedisRefused,
    SharedSyncError,
)
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.redis_consumer import identity
from shared_sync.redis_consumer.subscription import Subscription

FIRST_PAUSE_SECONDS = 0.1
FIRST_LOADING_PAUSE_SECONDS = 1.0
LONGEST_LOADING_PAUSE_SECONDS = 60.0
"""The longest pause between two attempts to load a processor."""


class ErrorHandling:
    """Handles the errors of all threads of one pool, each in its own thread."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        availability: Availability,
        recorder: ErrorRecorder,
        logger: Logger,
        longest_pause_seconds: float,
        on_broken: Callable[[ConsumerBroken], None],
        on_loading_failed: Callable[[LoadingFailed], None] = lambda _: None,
    ) -> None:
        self._subscription = subscription
        self._availability = availability
        self._recorder = recorder
        self._logger = logger
        self._longest_pause_seconds = longest_pause_seconds
        self._on_broken = on_broken
        self._on_loading_failed = on_loading_failed

    def handle(self, thread: str, error: BaseException, failures: int) -> float:
        """Handle an error of a thread; return how many seconds it is to pause.

        `failures` is how many passes in a row have failed.
        """
        if isinstance(error, GroupMissing):
            self._availability.found_no_group(thread)
            self._repair_group(thread)
        elif isinstance(error, RedisRefused) and error.code == "HELD":
            other = ProcessIdentity.parse(str(error).partition("HELD ")[2])
            self._on_broken(identity.in_use(self._subscription.commands.consumer, other))
        elif isinstance(error, LoadingFailed):
            self._on_loading_failed(error)
            return backoff.exponential(
                failures,
                base_seconds=FIRST_LOADING_PAUSE_SECONDS,
                max_seconds=LONGEST_LOADING_PAUSE_SECONDS,
                jitter=0.5,
                chance=random.random,
            )
        elif isinstance(error, SharedSyncError):
            if isinstance(error, RedisRefused) and error.code == "WRONGTYPE":
                error = self._subscription.explain_wrong_type(error)
            self._availability.failed(thread, error)
        else:
            self._recorder.record_error(error)
            self._logger.error("a consumer thread failed and goes on", exc_info=error)
        return backoff.exponential(
            failures,
            base_seconds=FIRST_PAUSE_SECONDS,
            max_seconds=self._longest_pause_seconds,
            jitter=0.5,
            chance=random.random,
        )

    def _repair_group(self, thread: str) -> None:
        try:
            self._subscription.repair_group()
            self._availability.succeeded(thread)
        except SharedSyncError as error:
            self._availability.failed(thread, error)
