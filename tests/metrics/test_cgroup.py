"""The container's memory, read from folders that are made up; and from this very machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_sync.metrics import cgroup as metrics_cgroup
from shared_sync.metrics.cgroup import ContainerMemory, container_memory

MIB = 2**20
V1_NO_LIMIT = 2**63 - 4096
POD = "/kubepods/pod7"
CONTAINER = f"{POD}/abc"


class Machine:
    """A machine whose files are written by the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cgroups = root / "sys/fs/cgroup"

    def write(self, file: str, text: str) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process_is_in(self, *lines: str) -> None:
        self.write("proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def v2(self, path: str, *, limit: object, used: int, inactive: int, at: str = "") -> None:
        folder = f"sys/fs/cgroup{at}{path.rstrip('/')}"
        self.write(f"{folder}/memory.max", f"{limit}\n")
        self.write(f"{folder}/memory.current", f"{used}\n")
        stat = f"anon 1\ninactive_anon 7\ninactive_file {inactive}\nactive_file 9\n"
        self.write(f"{folder}/memory.stat", stat)

    def v1(self, path: str, *, limit: int, used: int, inactive: int) -> None:
        folder = f"sys/fs/cgroup/memory{path.rstrip('/')}"
        self.write(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{folder}/memory.usage_in_bytes", f"{used}\n")
        stat = f"cache 1\ninactive_file 3\ntotal_inactive_file {inactive}\n"
        self.write(f"{folder}/memory.stat", stat)

    def memory(self) -> ContainerMemory | None:
        return container_memory(self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- version 2 --------------------------------------------------------------------------------


def test_used_is_what_is_charged_without_the_inactive_file_pages(machine: Machine) -> None:
    machine.process_is_in(f"0::{CONTAINER}")
    machine.v2(CONTAINER, limit=100 * MIB, used=60 * MIB, inactive=20 * MIB)
    memory = machine.memory()
    assert memory == ContainerMemory(used_bytes=40 * MIB, limit_bytes=100 * MIB)
    assert memory.used_ratio == pytest.approx(0.4)


def test_in_a_namespace_of_its_own_the_container_is_at_the_mount(machine: Machine) -> None:
    machine.process_is_in("0::/")
    machine.v2("/", limit=100 * MIB, used=60 * MIB, inactive=0)
    assert machine.memory() == ContainerMemory(60 * MIB, 100 * MIB)


@pytest.mark.parametrize("path", [CONTAINER, "/../other", f"{CONTAINER} (deleted)"])
def test_a_path_that_is_not_under_the_mount_is_the_hosts_and_the_mount_is_meant(
    machine: Machine, path: str
) -> None:
    machine.process_is_in(f"0::{path}")
    machine.v2("/", limit=100 * MIB, used=60 * MIB, inactive=0)
    machine.v2("/../other", limit=1 * MIB, used=1 * MIB, inactive=0)
    assert machine.memory() == ContainerMemory(60 * MIB, 100 * MIB)


def test_a_tighter_limit_further_up_counts_with_what_is_used_there(machine: Machine) -> None:
    machine.process_is_in(f"0::{CONTAINER}")
    machine.v2(CONTAINER, limit=100 * MIB, used=60 * MIB, inactive=0)
    machine.v2(POD, limit=80 * MIB, used=75 * MIB, inactive=0)
    machine.v2("/kubepods", limit=200 * MIB, used=190 * MIB, inactive=0)
    assert machine.memory() == ContainerMemory(75 * MIB, 80 * MIB)


def test_of_equal_limits_the_one_further_up_counts(machine: Machine) -> None:
    machine.process_is_in(f"0::{CONTAINER}")
    machine.v2(CONTAINER, limit=80 * MIB, used=60 * MIB, inactive=0)
    machine.v2(POD, limit=80 * MIB, used=75 * MIB, inactive=0)
    assert machine.memory() == ContainerMemory(75 * MIB, 80 * MIB)


def test_a_cgroup_without_a_limit_is_passed_over(machine: Machine) -> None:
    machine.process_is_in(f"0::{CONTAINER}")
    machine.v2(CONTAINER, limit="max", used=60 * MIB, inactive=0)
    machine.v2(POD, limit=80 * MIB, used=75 * MIB, inactive=0)
    assert machine.memory() == ContainerMemory(75 * MIB, 80 * MIB)
    machine.v2(POD, limit="max", used=75 * MIB, inactive=0)
    assert machine.memory() is None


def test_a_limit_larger_than_any_machine_is_a_limit(machine: Machine) -> None:
    machine.process_is_in("0::/")
    machine.v2("/", limit=2**50, used=60 * MIB, inactive=0)
    assert machine.memory() == ContainerMemory(60 * MIB, 2**50)


def test_used_is_never_below_zero_and_no_limit_divides_by_zero(machine: Machine) -> None:
    machine.process_is_in("0::/")
    machine.v2("/", limit=0, used=10, inactive=4096)
    assert machine.memory() == ContainerMemory(0, 0)
    assert ContainerMemory(0, 0).used_ratio == 1.0


# --- version 1, and both ----------------------------------------------------------------------


def test_version_1_counts_the_inactive_pages_of_the_cgroups_below_too(machine: Machine) -> None:
    machine.process_is_in("5:cpu,cpuacct:/", f"4:memory:{CONTAINER}", "1:name=systemd:/init")
    machine.v1(CONTAINER, limit=100 * MIB, used=60 * MIB, inactive=20 * MIB)
    machine.v1("/", limit=V1_NO_LIMIT, used=900 * MIB, inactive=0)
    assert machine.memory() == ContainerMemory(40 * MIB, 100 * MIB)


@pytest.mark.parametrize("page", [4096, 65536])
def test_version_1_says_no_limit_as_a_very_large_number(machine: Machine, page: int) -> None:
    machine.process_is_in("4:memory:/")
    machine.v1("/", limit=2**63 - page, used=60 * MIB, inactive=0)
    assert machine.memory() is None


def test_version_1_has_the_container_at_the_mount_when_its_path_is_the_hosts(
    machine: Machine,
) -> None:
    machine.process_is_in("4:memory:/docker/abc")
    machine.v1("/", limit=100 * MIB, used=60 * MIB, inactive=0)
    assert machine.memory() == ContainerMemory(60 * MIB, 100 * MIB)


def test_with_both_versions_the_memory_is_where_its_controller_is(machine: Machine) -> None:
    machine.process_is_in("1:name=systemd:/a", f"4:memory:{CONTAINER}", "0::/a")
    machine.v1(CONTAINER, limit=100 * MIB, used=60 * MIB, inactive=0)
    (machine.cgroups / "unified/a").mkdir(parents=True)
    assert machine.memory() == ContainerMemory(60 * MIB, 100 * MIB)
    machine.v2("/a", limit=50 * MIB, used=30 * MIB, inactive=0, at="/unified")
    assert machine.memory() == ContainerMemory(30 * MIB, 50 * MIB)


def test_a_cgroup_that_happens_to_be_called_unified_is_no_mount(machine: Machine) -> None:
    machine.process_is_in("0::/a")
    machine.write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
    machine.v2("/a", limit=100 * MIB, used=60 * MIB, inactive=0)
    machine.v2("/unified", limit=1 * MIB, used=1 * MIB, inactive=0)
    assert machine.memory() == ContainerMemory(60 * MIB, 100 * MIB)


# --- what is missing --------------------------------------------------------------------------


def test_a_machine_without_cgroups_has_no_container(machine: Machine) -> None:
    assert machine.memory() is None
    machine.process_is_in("0::/")
    assert machine.memory() is None


def test_a_limit_without_a_usage_is_of_no_use(machine: Machine) -> None:
    machine.process_is_in("0::/")
    machine.write("sys/fs/cgroup/memory.max", "4096\n")
    assert machine.memory() is None


def test_without_the_statistics_all_that_is_charged_is_in_use(machine: Machine) -> None:
    machine.process_is_in("0::/")
    machine.write("sys/fs/cgroup/memory.max", "4096\n")
    machine.write("sys/fs/cgroup/memory.current", "1024\n")
    assert machine.memory() == ContainerMemory(1024, 4096)


def test_files_that_may_not_be_read_are_as_good_as_missing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.process_is_in("0::/")
    machine.v2("/", limit=4096, used=1024, inactive=0)

    def refuse(self: Path) -> bytes:
        raise PermissionError(self)

    monkeypatch.setattr(metrics_cgroup.Path, "read_bytes", refuse)
    assert machine.memory() is None


def test_a_path_of_any_bytes_and_with_colons_is_followed(machine: Machine) -> None:
    machine.process_is_in()
    (machine.root / "proc/self/cgroup").write_bytes(b"0::/a:\xff\n")
    folder = machine.cgroups / "a:\udcff"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text("4096")
    (folder / "memory.current").write_text("1024")
    assert machine.memory() == ContainerMemory(1024, 4096)


def test_a_file_that_makes_no_sense_is_an_error(machine: Machine) -> None:
    machine.process_is_in("0::/")
    machine.v2("/", limit="plenty", used=1024, inactive=0)
    with pytest.raises(ValueError, match="plenty"):
        machine.memory()


def test_this_very_machine_can_be_asked() -> None:
    memory = container_memory()
    assert memory is None or memory.used_bytes > 0
