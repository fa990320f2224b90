"""Ready-made checks for HealthServer.add_check: Redis, disk, memory, a consumer, metrics.

    server.add_check("redis", checks.redis("redis://localhost:6379/0"))
    server.add_check("disk", checks.disk_space("/var/spool/audio"))
    server.add_check("memory", checks.memory_headroom())
    server.add_check("consumer", checks.consumer(consumer), liveness=True)
    server.add_check("metrics", checks.metric_thresholds(metrics))

Each of these functions looks at its arguments at once, and raises `ConfigurationError` for one that
cannot work. It returns the check: a function without arguments that returns health data, which
`HealthServer` calls from a thread of its own, never two calls of one check at the same time.

What may name machines, files and errors is under `details`, which the server keeps to itself unless
it was told otherwise. A figure that is not known is None. Redis is loaded by `redis()` only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import psutil

from shared_sync.common import arguments as arguments_check
from shared_sync.errors import ConfigurationError
from shared_sync.metrics import alerts as metrics_alerts
from shared_sync.metrics import cgroup, labels

Check: TypeAlias = Callable[[], Mapping[str, Any]]
"""A function for `HealthServer.add_check`."""

_MEGABYTE: Final = 1024**2
_GIGABYTE: Final = 1024**3

_MEANINGS: Final = frozenset({"status", "reasons", "live", "ready", "started", "details"})
"""What is no figure in health data."""


class HasHealthData(Protocol):
    """What `consumer()` takes, such as a RedisStreamConsumer."""

    def get_health_data(self) -> Mapping[str, Any]: ...


class HasAlerts(Protocol):
    """What `metric_thresholds()` takes, such as a WorkerMetrics."""

    def get_alerts(self) -> list[dict[str, Any]]: ...


def redis(redis_url: str, *, timeout_seconds: float = 1.5) -> Check:
    """Return a check that Redis answers: unhealthy where it does not.

    It asks PING over one connection, which is kept and opened anew after an error. A user without
    the right to PING is asked for TIME instead, which is among a worker's least rights; then a
    server that still loads its data counts as healthy. `redis_url` is as for a consumer; that of a
    cluster asks any of its nodes.

    Blocks up to `timeout_seconds` for the answer, and as long again for a new connection. The
    figure `round_trip_ms` is the time of the answer alone.
    """
    from shared_sync.connection.ping import RedisPing  # noqa: PLC0415 - loads Redis

    arguments_check.number("timeout_seconds", timeout_seconds, 0.01, 60)
    return RedisPing(redis_url, timeout_seconds=timeout_seconds)


def disk_space(
    path: str | os.PathLike[str] = ".",
    *,
    degraded_below: float = 0.10,
    unhealthy_below: float = 0.05,
) -> Check:
    """Return a check of what is free on the disk that has `path`, for users other than root.

    The limits are shares from 0 to 1, of space and of inodes: files there may be. Like `df` it
    counts no space that is reserved for root. The figures are `free_mb`, `free_ratio` and
    `free_inodes_ratio`, None where the file system does not count. A path that is not there is
    unhealthy. A relative path is meant from the folder that is the current one now.

    Blocks as long as the file system does; a network's may do so for ever.
    """
    _check_shares(unhealthy_below=unhealthy_below, degraded_below=degraded_below)
    folder = _absolute(path)

    def check() -> dict[str, Any]:
        try:
            disk = os.statvfs(folder)
        except OSError as error:
            return {
                **_verdict(("unhealthy", "the disk cannot be looked at")),
                **dict.fromkeys(("free_mb", "free_ratio", "free_inodes_ratio")),
                "details": {"path": folder, "error": error.strerror},
            }
        free_bytes = disk.f_bavail * disk.f_frsize
        space = _free_ratio(disk.f_blocks, disk.f_bfree, disk.f_bavail)
        inodes = _free_ratio(disk.f_files, disk.f_ffree, disk.f_favail)
        problems = []
        for ratio, free in (
            (space, f"of the disk free, {free_bytes / _GIGABYTE:.1f} GB"),
            (inodes, "of the disk's inodes free"),
        ):
            if ratio is not None and ratio < degraded_below:
                status = "unhealthy" if ratio < unhealthy_below else "degraded"
                problems.append((status, f"{_percent(ratio)} {free}"))
        return {
            **_verdict(*problems),
            "free_mb": None if space is None else round(free_bytes / _MEGABYTE, 2),
            "free_ratio": space,
            "free_inodes_ratio": inodes,
            "details": {"path": folder},
        }

    return check


def memory_headroom(*, degraded_above: float = 0.85, unhealthy_above: float = 0.95) -> Check:
    """Return a check of the memory in use, of the container's limit or else of the machine.

    The limits are shares from 0 to 1. What counts of a container is what the kernel cannot drop,
    itself or one around it, whichever has the tightest limit; one that is beyond the machine's
    memory is none. The figures are `used_mb`, `limit_mb` and `used_ratio`, and `limited_by` is
    "container" or "machine".
    """
    _check_shares(degraded_above=degraded_above, unhealthy_above=unhealthy_above)

    def check() -> dict[str, Any]:
        machine = psutil.virtual_memory()
        container = cgroup.container_memory()
        if container is not None and container.limit_bytes <= machine.total:
            limited_by, used, limit = "container", container.used_bytes, container.limit_bytes
            ratio = container.used_ratio
        else:
            limited_by, used, limit = "machine", machine.total - machine.available, machine.total
            ratio = used / limit
        problems = []
        if ratio > degraded_above:
            status = "unhealthy" if ratio > unhealthy_above else "degraded"
            problems.append((status, f"{_percent(ratio)} of the {limited_by}'s memory in use"))
        return {
            **_verdict(*problems),
            "used_mb": round(used / _MEGABYTE, 2),
            "limit_mb": round(limit / _MEGABYTE, 2),
            "used_ratio": round(ratio, 4),
            "limited_by": limited_by,
        }

    return check


def consumer(consumer: HasHealthData) -> Check:
    """Return a check that passes on what a consumer tells of itself by `get_health_data()`.

    Give it to `add_check` with `liveness=True`: a consumer that is not live makes no progress until
    its process is restarted. Its `redis_connected` does not count as live: a restart brings no
    Redis back.
    """
    if not callable(getattr(consumer, "get_health_data", None)):
        raise ConfigurationError(
            "consumer must have get_health_data(), such as a RedisStreamConsumer; "
            f"not {labels.shown(consumer)}"
        )
    return consumer.get_health_data


def metric_thresholds(metrics: HasAlerts) -> Check:
    """Return a check of the alerts of a WorkerMetrics: as bad as the worst one that fires.

    Each figure that has an alert is shown with its value. Without alerts it is always healthy.
    """
    if not callable(getattr(metrics, "get_alerts", None)):
        raise ConfigurationError(
            f"metrics must have get_alerts(), such as a WorkerMetrics; not {labels.shown(metrics)}"
        )

    def check() -> dict[str, Any]:
        states = metrics.get_alerts()
        figures = {state["figure"]: state["value"] for state in states}
        named = {name: value for name, value in figures.items() if name not in _MEANINGS}
        return {**named, **metrics_alerts.health_of(states)}

    return check


# --- inside -----------------------------------------------------------------------------------


def _check_shares(**limits: float) -> None:
    """Raise unless these are shares of a whole, in ascending order."""
    for name, limit in limits.items():
        arguments_check.number(name, limit, 0, 1)
    (lower_name, lower), (upper_name, upper) = limits.items()
    if lower > upper:
        raise ConfigurationError(
            f"{lower_name} must not be more than {upper_name}, and {lower!r} is more than {upper!r}"
        )


def _absolute(path: object) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(
            f"path must be a folder or file on the disk, as text or a Path, "
            f"not {labels.shown(path)}"
        )
    return os.path.abspath(text)


def _free_ratio(total: int, free: int, available: int) -> float | None:
    """The share that is left to users, of what is in use or left to them; None of nothing."""
    whole = total - free + available
    return round(available / whole, 4) if whole > 0 else None


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"


def _verdict(*problems: tuple[str, str]) -> dict[str, Any]:
    """The `status` and `reasons` of these problems, each a status and a reason."""
    if not problems:
        return {}
    return {
        "status": max((status for status, _ in problems), key=metrics_alerts.STATUSES.index),
        "reasons": [reason for _, reason in problems],
    }
