"""A registry whose time and whose machine stand still, for the tests of what it shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helpers import Clock

from shared_sync.metrics import WorkerMetrics
from shared_sync.metrics.process import ProcessSample
from shared_sync.metrics.resources import ResourceSample

MEGABYTE = 1024**2


class StillResources:
    """Stands in for Resources of a process that never changes."""

    def __init__(self) -> None:
        self.values = ResourceSample(
            process=ProcessSample(
                memory_bytes=64 * MEGABYTE,
                cpu_percent=12.34,
                cpu_seconds=5.5,
                open_descriptors=9,
                threads=4,
            ),
            container=None,
            gpus=(),
            gc_collections=17,
            stall_seconds=0.0123,
            source_failures={},
        )

    def start(self) -> None:
        pass

    def sample(self) -> ResourceSample:
        return self.values

    def become(self, **changes: Any) -> None:
        """Let the next sample differ in these fields."""
        self.values = replace(self.values, **changes)


def registry(
    instance_id: str, clock: Clock, resources: StillResources, **options: Any
) -> WorkerMetrics:
    """Return a registry that raises what it cannot record, unless the options say otherwise."""
    options.setdefault("strict", True)
    return WorkerMetrics(
        instance_id,
        clock=clock,
        wall=lambda: 1_700_000_000.25,
        resources=resources,  # type: ignore[arg-type]
        **options,
    )
