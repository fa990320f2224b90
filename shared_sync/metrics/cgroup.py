"""The container's memory: its limit, and how much of that is in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class ContainerMemory:
    """Memory of the container at one moment, in bytes.

    `used_bytes` is the working set as Kubernetes counts it: all that is charged to the container,
    without the file pages that the kernel would drop first. When it reaches `limit_bytes`, the
    kernel kills a process in the container.
    """

    used_bytes: int
    limit_bytes: int

    @property
    def used_ratio(self) -> float:
        """The share of the limit that is in use; can be more than 1 for a moment."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 1.0


class _Files(NamedTuple):
    """The names of the files in one version of cgroups, and of a line in memory.stat."""

    limit: str
    usage: str
    inactive: str


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")
_NO_LIMIT = 2**62  # without a limit v1 reports 2**63 less a page, whatever the size of a page


def container_memory(root: Path = Path("/")) -> ContainerMemory | None:
    """Return the memory of the cgroup that limits this process most, itself or one above it.

    None if there is no limit, no cgroup, or nothing that may be read. A limit is reported even if
    it is larger than the machine's memory. Raises ValueError if a file contains something else than
    it should. Blocks for a few reads of files that the kernel answers from memory.

    Written after the kernel's Documentation/admin-guide/cgroup-v2.rst (memory.max, memory.current,
    memory.stat; /proc/self/cgroup and namespaces) and cgroup-v1/memory.rst (section 5.2, stat
    file). Both versions are read, because a machine may run them side by side.
    """
    limits = [
        (limit, folder, files)
        for folder, files in _cgroups(root)
        if (limit := _limit(folder / files.limit)) is not None
    ]
    if not limits:
        return None
    # Of equal limits min returns the first, which is the outermost: that one is reached first.
    limit, folder, files = min(limits, key=lambda found: found[0])
    usage = _read(folder / files.usage)
    if usage is None:
        return None
    used = int(usage) - _inactive(folder, files)
    return ContainerMemory(used_bytes=max(0, used), limit_bytes=limit)


def _cgroups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """Yield the folder of every cgroup this process is in, from the outermost one down."""
    base = root / "sys/fs/cgroup"
    beside_v1 = base / "unified"  # where systemd puts v2 when v1 has the controllers
    v2 = base if (base / "cgroup.controllers").exists() or not beside_v1.is_dir() else beside_v1
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from ((folder, _V2) for folder in _way_down(v2, path))
        elif "memory" in controllers.split(","):
            yield from ((folder, _V1) for folder in _way_down(base / "memory", path))


def _way_down(mount: Path, path: str) -> list[Path]:
    """Return the folders from the mount down to the cgroup, or only the mount.

    A path that does not exist, or leads out of the mount, is that of the host. Then the mount
    begins at the container's own cgroup.
    """
    parts = [part for part in path.split("/") if part]
    if ".." in parts or not mount.joinpath(*parts).is_dir():
        return [mount]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _limit(file: Path) -> int | None:
    text = _read(file)
    if text is None or text == "max":
        return None
    return None if int(text) >= _NO_LIMIT else int(text)


def _inactive(folder: Path, files: _Files) -> int:
    """Return the bytes of inactive file pages; 0 if they are not reported."""
    for line in (_read(folder / "memory.stat") or "").splitlines():
        name, _, number = line.partition(" ")
        if name == files.inactive:
            return int(number)
    return 0


def _read(file: Path) -> str | None:
    """Return the text of a file, or None if it cannot be read."""
    try:
        return os.fsdecode(file.read_bytes()).strip()
    except OSError:
        return None
