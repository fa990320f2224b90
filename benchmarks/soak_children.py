"""A child process is replaced many times; descriptors, threads and processes stay as they were.

    python benchmarks/soak_children.py [--replacements 1000]

Every way in which a child ends takes its turn: a job past its deadline, in Python and in C, a
crash, a close. Ends with 1 if anything is left behind.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from shared_sync.isolation.errors import ChildCrashed, DeadlinePassed
from shared_sync.isolation.process import ChildProcess

WAYS = ("loop", "loop in C", "segfault", "close")
DEADLINE_SECONDS = 0.1
GRACE_SECONDS = 0.05


def process(_: str, job: dict[str, Any]) -> None:
    """End this child in the way that the message says."""
    way = job["way"]
    if way == "segfault":
        ctypes.string_at(0)
    while way == "loop":
        pass
    while way == "loop in C":
        ctypes.PyDLL(None).usleep(900_000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--replacements", type=int, default=1000)
    count = parser.parse_args().replacements
    replace("close")  # threads that last are started now
    before = held()
    starts: list[float] = []
    endings: Counter[str] = Counter()
    for number in range(count):
        starts.append(replace(WAYS[number % len(WAYS)], endings))
    after = held()
    print(f"{count} replacements, start-up of a child {statistics.median(starts) * 1000:.0f} ms")
    for ending, times in endings.most_common():
        print(f"  {times} x {ending}")
    print("                 before  after")
    for name in before:
        print(f"{name:16} {before[name]:6} {after[name]:6}")
    sys.exit(before != after)


def replace(way: str, endings: Counter[str] | None = None) -> float:
    """Start a child, end it in this way; return how long its start has taken."""
    began = time.perf_counter()
    child = ChildProcess(
        {
            "argument": "message_processor",
            "path": "soak_children:process",
            "main_file": None,
            "reader": 1,
            "device": None,
            "logger": "soak",
            "levels": {},
            "argv": [],
            "binary_fields": [],
            "result_stream": None,
            "result_channel": None,
            "carry_fields": [],
        },
        {},
        on_record=lambda _: None,
        deadline_seconds=DEADLINE_SECONDS,
        kill_grace_seconds=GRACE_SECONDS if way != "close" else 5.0,
    )
    child.wait_until_loaded()
    seconds = time.perf_counter() - began
    ending = "closed"
    if way == "close":
        child.close()
    else:
        try:
            child.run({"messages": [("1-0", 1, 2)]}, [b"way", way.encode()])
        except (ChildCrashed, DeadlinePassed) as error:
            ending = f"{way}: {error}"
    if endings is not None:
        endings[ending] += 1
    return seconds


def held() -> dict[str, int]:
    """What this process has: descriptors, threads, children (zombies included), memory."""
    own = psutil.Process()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(own.children(recursive=True)),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
