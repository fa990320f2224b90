"""The workers of a supervisor, shown as one: their health, their tables, their metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from shared_sync.cli.worker import merging
from shared_sync.cli.worker.supervised_worker import SupervisedWorker
from shared_sync.metrics import WorkerMetrics

ANSWER_SECONDS: Final = 1.5
"""How long to wait for the answers of the workers; less than the health server waits."""

RESTARTS: Final = "worker_restarts"
RUNNING: Final = "workers_running"


def make_metrics(name: str) -> WorkerMetrics:
    """Return the metrics of the supervisor itself."""
    metrics = WorkerMetrics(name)
    metrics.declare(RESTARTS, "counter", "Worker processes that ended and were started again.")
    metrics.declare(RUNNING, "gauge", "Worker processes that run.")
    return metrics


class Crew:
    """What a health server needs of a consumer and of metrics. Any thread may call any method."""

    def __init__(
        self,
        workers: Sequence[SupervisedWorker],
        own_metrics: WorkerMetrics,
        *,
        stream: str,
        group: str,
        read_group: Callable[[], dict[str, Any]],
    ) -> None:
        # Fixed after construction.
        self._workers = workers
        self._named = {"stream": stream, "group": group}
        self._read_group = read_group
        self._own = own_metrics

    # --- as a consumer ---

    def get_health_data(self) -> dict[str, Any]:
        """Return the health of all workers together; each is a check of its own beside it."""
        running = [worker.process for worker in self._workers if worker.process is not None]
        reported = [process.health for process in running if process.health is not None]
        is_down = not running and any(worker.restarts for worker in self._workers)
        down = {"status": "unhealthy", "reasons": ["no worker runs"]} if is_down else {}
        return {
            **down,
            "ready": bool(running),
            "workers": len(self._workers),
            "workers_running": len(running),
            "worker_restarts": sum(worker.restarts for worker in self._workers),
            **merging.health(reported),
        }

    def get_views(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return the tables of the page: those of all workers' readers, and those of the group."""
        return {"readers": self._readers, "group": self._read_group}

    def _readers(self) -> dict[str, Any]:
        tables = self._ask("readers")
        return {**self._named, **merging.tables(tables)}

    # --- as metrics ---

    def get_metrics_data(self) -> dict[str, Any]:
        """Return the metrics of all workers, merged, with those of the supervisor itself."""
        own = self._own_metrics().get_metrics_data()
        return merging.metrics([own, *self._ask("metrics").values()])

    def render_prometheus(self) -> bytes:
        """Return the series of all workers and of the supervisor, told apart by `instance_id`."""
        texts = self._ask("render_prometheus").values()
        return merging.exposition([self._own_metrics().render_prometheus().decode(), *texts])

    def render_openmetrics(self) -> bytes:
        """Return the same in the format of OpenMetrics."""
        texts = self._ask("render_openmetrics").values()
        own = self._own_metrics().render_openmetrics().decode()
        return merging.exposition([own, *texts], end="# EOF\n")

    def _own_metrics(self) -> WorkerMetrics:
        self._own.set_gauge(RUNNING, sum(one.process is not None for one in self._workers))
        return self._own

    def _ask(self, question: str) -> Mapping[str, Any]:
        """Return the answers of the workers that answer in time, by their names."""
        deadline = time.monotonic() + ANSWER_SECONDS
        running = [(one.name, one.process) for one in self._workers if one.process is not None]
        asked = [(name, process.ask(question)) for name, process in running]
        answers = ((name, answer.wait(deadline)) for name, answer in asked)
        return {name: answer for name, answer in answers if answer is not None}
