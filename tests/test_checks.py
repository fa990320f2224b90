"""The ready-made checks other than that of Redis: disks and machines that are made up."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from consumers import Make
from helpers import Clock, ask, eventually

from shared_sync import HealthServer, WorkerMetrics, checks
from shared_sync.errors import ConfigurationError
from shared_sync.metrics import cgroup as metrics_cgroup

MIB = 2**20
GIB = 2**30


# --- disk -------------------------------------------------------------------------------------


Disk = Callable[..., None]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Makes up a disk of 100 GB and a thousand inodes; a tenth of the space is root's."""

    def make(*, available: float, inodes: int = 500, **other: int) -> None:
        blocks = 100 * GIB // 4096
        free = int(available * GIB / 4096)
        reserved = blocks // 10
        told = {
            "f_frsize": 4096,
            "f_blocks": blocks,
            "f_bavail": free,
            "f_bfree": free + reserved,
            "f_files": 1000,
            "f_ffree": inodes,
            "f_favail": inodes,
            **other,
        }
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**told))

    return make


def test_a_real_folder_has_values(tmp_path: Path) -> None:
    seen = checks.disk_space(tmp_path, degraded_below=0, unhealthy_below=0)()
    real = os.statvfs(tmp_path)
    assert seen["free_mb"] == pytest.approx(real.f_bavail * real.f_frsize / MIB, rel=0.5)
    assert 0 <= seen["free_ratio"] <= 1
    assert seen["details"] == {"path": str(tmp_path)}
    assert "status" not in seen


def test_what_is_reserved_for_root_is_neither_free_nor_counted(disk: Disk) -> None:
    disk(available=45)
    seen = checks.disk_space("/data")()
    assert seen["free_mb"] == 45 * 1024
    assert seen["free_ratio"] == 0.5
    assert seen["free_inodes_ratio"] == 0.5
    assert "status" not in seen


@pytest.mark.parametrize(
    ("available", "status", "reason"),
    [
        (7.2, "degraded", "8 % of the disk free, 7.2 GB"),
        (1.8, "unhealthy", "2 % of the disk free, 1.8 GB"),
        (0, "unhealthy", "0 % of the disk free, 0.0 GB"),
    ],
)
def test_little_space_is_reported_without_the_path(
    disk: Disk, available: float, status: str, reason: str
) -> None:
    disk(available=available)
    seen = checks.disk_space("/data/secret")()
    assert (seen["status"], seen["reasons"]) == (status, [reason])
    assert seen["details"] == {"path": "/data/secret"}


def test_the_limits_themselves_are_kept(disk: Disk) -> None:
    disk(available=45)
    assert "status" not in checks.disk_space(degraded_below=0.5, unhealthy_below=0.5)()
    assert checks.disk_space(degraded_below=0.51)()["status"] == "degraded"


def test_inodes_run_out_too_and_the_worse_of_both_counts(disk: Disk) -> None:
    disk(available=7.2, inodes=20)
    seen = checks.disk_space("/data")()
    assert seen["status"] == "unhealthy"
    assert seen["reasons"] == ["8 % of the disk free, 7.2 GB", "2 % of the disk's inodes free"]


def test_a_file_system_that_does_not_count_is_healthy(disk: Disk) -> None:
    disk(available=45, f_files=0, f_ffree=0, f_favail=0)
    seen = checks.disk_space("/data")()
    assert (seen["free_ratio"], seen["free_inodes_ratio"]) == (0.5, None)
    assert "status" not in seen
    disk(available=0, f_blocks=0, f_bfree=0, f_files=0, f_ffree=0, f_favail=0)
    seen = checks.disk_space("/data")()
    assert (seen["free_mb"], seen["free_ratio"]) == (None, None)
    assert "status" not in seen


def test_a_path_that_is_not_there_is_unhealthy_until_it_comes(tmp_path: Path) -> None:
    check = checks.disk_space(tmp_path / "spool", degraded_below=0, unhealthy_below=0)
    seen = check()
    assert seen == {
        "status": "unhealthy",
        "reasons": ["the disk cannot be inspected"],
        "free_mb": None,
        "free_ratio": None,
        "free_inodes_ratio": None,
        "details": {"path": str(tmp_path / "spool"), "error": "No such file or directory"},
    }
    (tmp_path / "spool").mkdir()
    assert "status" not in check()


def test_a_relative_path_is_meant_from_where_the_check_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check = checks.disk_space()
    monkeypatch.chdir("/")
    assert check()["details"] == {"path": str(tmp_path)}


# --- memory -----------------------------------------------------------------------------------


Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes up a machine of 1000 MiB, and the container in it."""

    def make(*, available: int, limit: int | None = None, used: int = 0) -> None:
        files = {"proc/self/cgroup": "0::/\n"}
        if limit is not None:
            files |= {
                "sys/fs/cgroup/memory.max": str(limit * MIB),
                "sys/fs/cgroup/memory.current": str(used * MIB),
            }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(
            metrics_cgroup, "container_memory", partial(metrics_cgroup.container_memory, tmp_path)
        )
        told = SimpleNamespace(total=1000 * MIB, available=available * MIB)
        monkeypatch.setattr(checks.psutil, "virtual_memory", lambda: told)

    return make


def test_this_very_machine_has_memory() -> None:
    seen = checks.memory_headroom(degraded_above=1, unhealthy_above=1)()
    assert seen["used_mb"] > 0
    assert seen["used_ratio"] == pytest.approx(seen["used_mb"] / seen["limit_mb"], abs=0.001)
    assert seen["limited_by"] in {"container", "machine"}


@pytest.mark.parametrize(
    ("used", "status", "reasons"),
    [
        (170, None, None),
        (180, "degraded", ["90 % of the container's memory in use"]),
        (196, "unhealthy", ["98 % of the container's memory in use"]),
        (210, "unhealthy", ["105 % of the container's memory in use"]),
    ],
)
def test_a_containers_limit_is_the_one_that_counts(
    machine: Machine, used: int, status: str | None, reasons: list[str] | None
) -> None:
    machine(available=10, limit=200, used=used)
    seen = checks.memory_headroom()()
    assert (seen.get("status"), seen.get("reasons")) == (status, reasons)
    assert seen["used_mb"] == used
    assert seen["limit_mb"] == 200
    assert seen["used_ratio"] == used / 200
    assert seen["limited_by"] == "container"


@pytest.mark.parametrize("limit", [None, 1001])
def test_without_a_limit_or_with_one_out_of_reach_it_is_the_machine(
    machine: Machine, limit: int | None
) -> None:
    machine(available=100, limit=limit, used=1)
    seen = checks.memory_headroom()()
    assert seen["reasons"] == ["90 % of the machine's memory in use"]
    assert seen["status"] == "degraded"
    assert (seen["used_mb"], seen["limit_mb"]) == (900, 1000)
    assert seen["limited_by"] == "machine"


# --- a consumer, and metrics ------------------------------------------------------------------


def test_a_consumer_reports_its_own_health(make: Make) -> None:
    consumer = make(lambda *_: None)
    check = checks.consumer(consumer)
    assert check() == consumer.get_health_data()
    consumer.start()
    eventually(lambda: check()["redis_connected"])
    assert check()["live"] is True


def test_metrics_without_alerts_are_healthy(metrics: WorkerMetrics) -> None:
    assert checks.metric_thresholds(metrics)() == {}


def test_an_alert_that_fires_is_reported_and_every_value_with_an_alert_is_shown(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.alert("queue_depth", above=10, status="degraded")
    metrics.alert("gpus", below=1, status="unhealthy")
    metrics.alert("later", above=1)
    check = checks.metric_thresholds(metrics)
    metrics.set_gauge("queue_depth", 5)
    metrics.set_gauge("gpus", 1)
    assert check() == {"queue_depth": 5, "gpus": 1, "later": None}
    metrics.set_gauge("queue_depth", 11)
    seen = check()
    assert seen["status"] == "degraded"
    assert seen["reasons"] == ["queue_depth is 11, above 10 for 0 s"]
    metrics.set_gauge("gpus", 0)
    assert check()["status"] == "unhealthy"
    assert len(check()["reasons"]) == 2


def test_a_metric_that_is_named_like_a_status_replaces_none() -> None:
    def get_alerts() -> list[dict[str, Any]]:
        common = {"status": "healthy", "reason": None}
        return [
            {"figure": name, "value": False, **common}
            for name in ("status", "live", "ready", "started", "reasons", "details", "jobs")
        ]

    assert checks.metric_thresholds(SimpleNamespace(get_alerts=get_alerts))() == {"jobs": False}


# --- all of them in a server ------------------------------------------------------------------


def test_a_health_server_shows_their_values_and_hides_their_details(
    redis_url: str, make: Make, metrics: WorkerMetrics, disk: Disk
) -> None:
    disk(available=7.2)
    metrics.alert("queue_depth", above=10, status="degraded")
    consumer = make(lambda *_: None)
    consumer.start()
    eventually(lambda: consumer.redis_connected)
    server = HealthServer("stt-1", 0, None, lambda: {}, host="127.0.0.1")
    server.add_check("redis", checks.redis(redis_url))
    server.add_check("disk", checks.disk_space("/data/secret"))
    server.add_check("memory", checks.memory_headroom(degraded_above=1, unhealthy_above=1))
    server.add_check("consumer", checks.consumer(consumer), liveness=True)
    server.add_check("metrics", checks.metric_thresholds(metrics))
    with server:
        eventually(lambda: ask(f"{server.url}/health")[1]["status"] == "degraded")
        eventually(lambda: ask(f"{server.url}/health/ready")[0] == 200)
        _, health = ask(f"{server.url}/health")
        assert ask(f"{server.url}/health/live")[0] == 200
    shown = health["checks"]
    assert set(shown) == {"redis", "disk", "memory", "consumer", "metrics"}
    assert {check["status"] for name, check in shown.items() if name != "disk"} == {"healthy"}
    assert shown["disk"]["reasons"] == ["8 % of the disk free, 7.2 GB"]
    assert shown["redis"]["round_trip_ms"] > 0
    assert shown["consumer"]["redis_connected"] is True
    assert "secret" not in str(health)
    assert redis_url not in str(health)


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_check", "told"),
    [
        (lambda: checks.redis("http://u:s3cret@x"), "redis_url"),
        (lambda: checks.redis(None), "redis_url"),
        (lambda: checks.redis("redis://x", timeout_seconds=0), "timeout_seconds"),
        (lambda: checks.redis("redis://x", timeout_seconds=True), "timeout_seconds"),
        (lambda: checks.redis("redis://x", timeout_seconds=1e300), "timeout_seconds"),
        (lambda: checks.disk_space(""), "path"),
        (lambda: checks.disk_space(b"/"), "path"),
        (lambda: checks.disk_space(7), "path"),
        (lambda: checks.disk_space("a\0b"), "path"),
        (lambda: checks.disk_space(degraded_below=10), "degraded_below"),
        (lambda: checks.disk_space(unhealthy_below=-0.1), "unhealthy_below"),
        (lambda: checks.disk_space(unhealthy_below=float("nan")), "unhealthy_below"),
        (lambda: checks.disk_space(unhealthy_below=0.2), "unhealthy_below must not be more"),
        (lambda: checks.memory_headroom(degraded_above="90 %"), "degraded_above"),
        (lambda: checks.memory_headroom(unhealthy_above=95), "unhealthy_above"),
        (lambda: checks.memory_headroom(degraded_above=0.99), "degraded_above must not be more"),
        (lambda: checks.consumer(None), "get_health_data"),
        (lambda: checks.consumer({}), "get_health_data"),
        (lambda: checks.metric_thresholds(None), "get_alerts"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_at_once(
    make_check: Callable[[], object], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told) as refused:
        make_check()
    assert "s3cret" not in str(refused.value)
