"""The processors of all readers of a pool: what they are made with, and what they share."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Final

from shared_sync.common.detached_logger import DetachedLogger
from shared_sync.common.guarded import GuardedRecorder
from shared_sync.metrics import WorkerMetrics
from shared_sync.processors import ProcessorContext, ProcessorSource
from shared_sync.protocol.live_job import JobContext
from shared_sync.redis_consumer.faults.circuit_breakers import CircuitBreakers
from shared_sync.redis_consumer.options import Options
from shared_sync.redis_consumer.running.isolation import ChildTracing, ProcessRunner, runner_for
from shared_sync.redis_consumer.running.loading import Loading
from shared_sync.redis_consumer.running.reader_processor import ReaderProcessor
from shared_sync.redis_consumer.running.runner import AttemptHook
from shared_sync.redis_consumer.slot import Slot

_UNREAD: Final = "unread"
"""The name of a registry that is there for processors to record in, and is never read."""


class PoolProcessors:
    """Makes the `ReaderProcessor` of each reader. Any thread may call any method."""

    def __init__(
        self,
        options: Options,
        source: ProcessorSource,
        *,
        circuit_breakers: CircuitBreakers,
        recorder: GuardedRecorder,
        logger: DetachedLogger,
    ) -> None:
        # Fixed after construction.
        self._options = options
        self._source = source
        self._circuit_breakers = circuit_breakers
        self._recorder = recorder
        given = recorder.given
        # A registry that nobody reads takes the same calls as one that is read.
        self._metrics = WorkerMetrics(_UNREAD) if given is None else given
        self._logger = logger
        has_children = options.isolation == "process"
        self.loading = Loading(
            options.threads,
            takes_time=source.takes_time or has_children,
            one_by_one=not has_children,
        )
        self._replacing = threading.Lock()
        # Fixed before the pool starts.
        self._all: list[ReaderProcessor] = []

    def add(
        self,
        number: int,
        slot: Slot,
        hooks: Sequence[AttemptHook],
        jobs: JobContext,
        tracing: ChildTracing | None = None,
    ) -> ReaderProcessor:
        """Return the processor of a reader (1, 2, ...), before the pool starts; it loads later."""
        options = self._options
        context = ProcessorContext(
            reader=number,
            device=options.device_of(number),
            metrics=self._metrics,
            logger=self._logger.direct,
        )
        runner = runner_for(
            options,
            self._source,
            context,
            hooks,
            jobs=jobs,
            tracing=tracing,
            recorder=self._recorder,
            circuit_breakers=self._circuit_breakers,
        )
        max_jobs = options.max_jobs_per_processor
        processor = ReaderProcessor(
            runner,
            context,
            slot,
            loading=self.loading,
            turn=self._replacing,
            recorder=self._recorder,
            logger=self._logger,
            max_jobs=math.inf if max_jobs is None else max_jobs,
            may_be_replaced=max_jobs is not None or options.isolation == "process",
        )
        self._all.append(processor)
        return processor

    @property
    def children(self) -> list[ProcessRunner]:
        """The runners that have child processes."""
        runners = (processor.runner for processor in self._all)
        return [one for one in runners if isinstance(one, ProcessRunner)]

    @property
    def problems(self) -> list[str]:
        """Why readers have no processor."""
        return [one.problem for one in self._all if one.problem is not None]
