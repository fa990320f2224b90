"""WorkerMetrics: a thread-safe registry of counters, gauges, durations and errors."""

from shared_sync.metrics.registry import WorkerMetrics

__all__ = ["WorkerMetrics"]
