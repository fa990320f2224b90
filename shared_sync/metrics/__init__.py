"""WorkerMetrics: a thread-safe registry of counters, gauges, durations and errors."""

from shared_sync.metrics.error_categories import CATEGORIES
from shared_sync.metrics.labels import MAX_LABEL_SETS
from shared_sync.metrics.names import MAX_ERROR_TYPES
from shared_sync.metrics.registry import WorkerMetrics
from shared_sync.metrics.snapshot import MetricsSnapshot

__all__ = ["CATEGORIES", "MAX_ERROR_TYPES", "MAX_LABEL_SETS", "MetricsSnapshot", "WorkerMetrics"]
