"""Child processes for tests that do without a consumer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from shared_sync.isolation import frames
from shared_sync.isolation.process import ChildProcess
from shared_sync.isolation.wire import Frame


class Records:
    """Keeps what a child sends beside its answers."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def __call__(self, frame: Frame) -> None:
        self.frames.append(frame)

    def of(self, kind: int) -> list[Any]:
        """The headers of the frames of a kind."""
        return [frame.header for frame in self.frames if frame.kind == kind]


def start(
    processor: str,
    *,
    argument: str = "message_processor",
    environment: Mapping[str, str] | None = None,
    records: Records | None = None,
    deadline_seconds: float | None = None,
    kill_grace_seconds: float = 5.0,
    **setup: Any,
) -> ChildProcess:
    """Start a child that runs a function of `child_processors.py`."""
    usual = {
        "argument": argument,
        "path": f"child_processors:{processor}",
        "main_file": None,
        "reader": 1,
        "device": None,
        "logger": "tests.child",
        "levels": {},
        "argv": ["worker.py"],
        "stream": "jobs",
        "group": "workers",
        "consumer": "c1",
        "is_cluster": False,
        "max_age_seconds": None,
        "binary_fields": [],
        "result_stream": "results",
        "result_channel": None,
        "carry_fields": [],
        "tracing": None,
    }
    return ChildProcess(
        {**usual, **setup},
        environment or {},
        on_record=records or Records(),
        deadline_seconds=deadline_seconds,
        kill_grace_seconds=kill_grace_seconds,
    )


@contextmanager
def running(processor: str, **options: Any) -> Iterator[ChildProcess]:
    """A child that has loaded its processor; it is closed in the end."""
    child = start(processor, **options)
    try:
        answer = child.wait_until_loaded()
        assert answer.kind == frames.READY, answer
        yield child
    finally:
        child.close()


def run(child: ChildProcess, **fields: object) -> Frame:
    """Have a child run one message; return its answer."""
    items = [str(part).encode() for pair in fields.items() for part in pair]
    return child.run({"messages": [("1-0", 1, len(items))], "number": 1, "clock": 0.0}, items)


def result(answer: Frame) -> dict[str, str]:
    """The fields of the result of the one message of a job."""
    assert answer.kind == frames.DONE, answer
    (outcome,) = answer.header["outcomes"]
    items = [item.decode() for item in answer.parts[: outcome["items"]]]
    return dict(zip(items[::2], items[1::2], strict=True))


def children() -> list[psutil.Process]:
    """The child processes of this one that run a processor."""
    return [child for child in psutil.Process().children() if runs_processor(child)]


def runs_processor(process: psutil.Process) -> bool:
    try:
        return any("shared_sync.isolation" in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def is_alive(pid_file: Path) -> bool:
    """Whether the process is alive whose id is in a file."""
    try:
        return psutil.Process(int(pid_file.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
