"""Ready-made checks for HealthServer.add_check: Redis, disk, memory, a consumer, metrics.

    server.add_check("redis", checks.redis("redis://localhost:6379/0"))
    server.add_check("disk", checks.disk_space("/var/spool/audio"))
    server.add_check("memory", checks.memory_headroom())
    server.add_check("consumer", checks.consumer(consumer), liveness=True)
    server.add_check("metrics", checks.metric_thresholds(metrics))

Each of these functions validates its arguments at once, and raises `ConfigurationError` for one
that cannot work. It returns the check: a function without arguments that returns health data.
`HealthServer` calls it from a background thread, one call at a time. A check raises nothing.

Names of machines and files and texts of errors are under the key `details`, which the server only
shows if it was made with `details=True`. Values that are not known are None. Only `redis()` loads
Redis.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import psutil

from shared_sync.common import arguments as arguments_check
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.errors import ConfigurationError
from shared_sync.metrics import alerts as metrics_alerts
from shared_sync.metrics import cgroup, labels

Check: TypeAlias = Callable[[], Mapping[str, Any]]
"""A function for `HealthServer.add_check`."""

_MEGABYTE: Final = 1024**2
_GIGABYTE: Final = 1024**3

_MEANINGS: Final = frozenset({"status", "reasons", "live", "ready", "started", "details"})
"""Keys of health data with a meaning, which no metric may replace."""


class HasHealthData(Protocol):
    """What `consumer()` takes, such as a RedisStreamConsumer."""

    def get_health_data(self) -> Mapping[str, Any]: ...


class HasAlerts(Protocol):
    """What `metric_thresholds()` takes, such as a WorkerMetrics."""

    def get_alerts(self) -> list[dict[str, Any]]: ...


def redis(
    redis_url: str,
    *,
    timeout_seconds: float = 1.5,
    credential_provider: CredentialProvider | None = None,
) -> Check:
    """Return a check that Redis answers: unhealthy if it does not.

    The check sends PING over one connection, which stays open and is opened again after an error.
    If the user lacks the right to PING, it sends TIME instead, which is among the least rights of a
    worker; a server that is still loading its data counts as healthy then. `redis_url` and
    `credential_provider` are as for a consumer; for a cluster, any node may answer.

    The check blocks for up to `timeout_seconds` (0.01 to 60) for the answer, and as long again for
    a new connection. Its value `round_trip_ms` is the time of the answer alone.
    """
    from shared_sync.connection.ping import RedisPing  # noqa: PLC0415 - loads Redis

    arguments_check.number("timeout_seconds", timeout_seconds, 0.01, 60)
    return RedisPing(
        redis_url, timeout_seconds=timeout_seconds, credential_provider=credential_provider
    )


def disk_space(
    path: str | os.PathLike[str] = ".",
    *,
    degraded_below: float = 0.10,
    unhealthy_below: float = 0.05,
) -> Check:
    """Return a check of the free space on the disk that holds `path`, for users other than root.

    The limits are ratios from 0 to 1, and apply to space and to inodes (the number of files). Like
    `df`, the check does not count space that is reserved for root. Its values are `free_mb`,
    `free_ratio` and `free_inodes_ratio`, None if the file system does not count them. A path that
    does not exist is unhealthy. A relative path is resolved now.

    The check blocks as long as the file system does; a network file system may block for ever.
    """
    _check_ratios(unhealthy_below=unhealthy_below, degraded_below=degraded_below)
    folder = _absolute(path)

    def check() -> dict[str, Any]:
        try:
            disk = os.statvfs(folder)
        except OSError as error:
            return {
                **_health_of(("unhealthy", "the disk cannot be inspected")),
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
            **_health_of(*problems),
            "free_mb": None if space is None else round(free_bytes / _MEGABYTE, 2),
            "free_ratio": space,
            "free_inodes_ratio": inodes,
            "details": {"path": folder},
        }

    return check


def memory_headroom(*, degraded_above: float = 0.85, unhealthy_above: float = 0.95) -> Check:
    """Return a check of the memory in use, of the container's limit or else of the machine.

    The limits are ratios from 0 to 1. In a container the check counts the memory that the kernel
    cannot drop, in the container with the tightest limit if several are nested; a limit above the
    machine's memory does not count. The values are `used_mb`, `limit_mb` and `used_ratio`, and
    `limited_by` is "container" or "machine".
    """
    _check_ratios(degraded_above=degraded_above, unhealthy_above=unhealthy_above)

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
            **_health_of(*problems),
            "used_mb": round(used / _MEGABYTE, 2),
            "limit_mb": round(limit / _MEGABYTE, 2),
            "used_ratio": round(ratio, 4),
            "limited_by": limited_by,
        }

    return check


def consumer(consumer: HasHealthData) -> Check:
    """Return a check of a consumer: its `get_health_data()`.

    Register it with `liveness=True`: a consumer that is not live makes no progress until its
    process is restarted. A consumer that cannot reach Redis is still live, because a restart would
    not help.
    """
    if not callable(getattr(consumer, "get_health_data", None)):
        raise ConfigurationError(
            "consumer must have get_health_data(), such as a RedisStreamConsumer; "
            f"not {labels.shown(consumer)}"
        )
    return consumer.get_health_data


def metric_thresholds(metrics: HasAlerts) -> Check:
    """Return a check of the alerts of a WorkerMetrics: as unhealthy as the worst alert that fires.

    Shows the value of each metric that has an alert. Without alerts it is always healthy.
    """
    if not callable(getattr(metrics, "get_alerts", None)):
        raise ConfigurationError(
            f"metrics must have get_alerts(), such as a WorkerMetrics; not {labels.shown(metrics)}"
        )

    def check() -> dict[str, Any]:
        states = metrics.get_alerts()
        values = {state["figure"]: state["value"] for state in states}
        shown = {name: value for name, value in values.items() if name not in _MEANINGS}
        return {**shown, **metrics_alerts.health_of(states)}

    return check


# --- inside -----------------------------------------------------------------------------------


def _check_ratios(**limits: float) -> None:
    """Raise unless the limits are ratios from 0 to 1, in ascending order."""
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
    """Return the ratio of what users may still take to that plus what is in use; None for 0 / 0."""
    whole = total - free + available
    return round(available / whole, 4) if whole > 0 else None


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"


def _health_of(*problems: tuple[str, str]) -> dict[str, Any]:
    """Return `status` and `reasons` of some problems, each a status and a reason."""
    if not problems:
        return {}
    return {
        "status": max((status for status, _ in problems), key=metrics_alerts.STATUSES.index),
        "reasons": [reason for _, reason in problems],
    }
