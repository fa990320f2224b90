"""The batches of all readers of a pool: what they share, and what a page shows of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared_sync.batching import Batching
from shared_sync.common.guarded import Logger, ThreadRecorder
from shared_sync.redis_consumer.batches.batches import Batches
from shared_sync.redis_consumer.batches.figures import BatchFigures
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.jobs.progress import EndJobs
from shared_sync.redis_consumer.running.runner import Runner
from shared_sync.redis_consumer.settling.outbox import Outbox
from shared_sync.redis_consumer.slot import Slot


class PoolBatches:
    """Makes the `Batches` of each reader whose processor takes several messages at once.

    Whether it does is known once it is loaded, so each reader asks for its own. Any thread may call
    any method.
    """

    def __init__(
        self,
        batching: Batching,
        *,
        is_wanted: bool,
        in_flight: InFlight,
        pauses: Pauses,
        logger: Logger,
        end_jobs: EndJobs,
    ) -> None:
        """`is_wanted` says that the program has asked for batches."""
        # Fixed after construction.
        self._batching = batching
        self._is_wanted = is_wanted
        self._in_flight = in_flight
        self._pauses = pauses
        self._logger = logger
        self._end_jobs = end_jobs
        # Only ever added to, by the readers.
        self._figures: list[BatchFigures] = []

    def maker(
        self,
        slot: Slot,
        *,
        outbox: Outbox,
        delivery: Delivery,
        runner: Runner,
        recorder: ThreadRecorder,
    ) -> Callable[[], Batches | None]:
        """Return what makes the batches of one reader, in its thread, once its processor is loaded.

        That makes None if the processor takes one message at a time.
        """

        def make() -> Batches | None:
            if not runner.takes_batches:
                if self._is_wanted:
                    self._logger.warning(
                        "%s runs one message at a time, although batch was given: what "
                        "processor_factory returned has no process_batch",
                        slot.name,
                    )
                return None
            figures = BatchFigures(slot.name, self._batching.max_size, recorder, self._figures)
            self._figures.append(figures)
            figures.begins()
            return Batches(
                self._batching,
                slot=slot,
                in_flight=self._in_flight,
                pauses=self._pauses,
                outbox=outbox,
                delivery=delivery,
                runner=runner,
                figures=figures,
                logger=self._logger,
                end_jobs=self._end_jobs,
            )

        return make

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each reader that runs batches, by its name."""
        return sorted((one.row() for one in self._figures.copy()), key=lambda row: row["reader"])
