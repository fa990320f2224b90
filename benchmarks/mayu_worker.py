"""Mayu as an opponent of bench_consumer.py: its tasks, and the publishing before the worker runs.

    MAYU_BROKER=URL MAYU_RESULT_TTL=0 BENCH_MESSAGES=N python benchmarks/mayu_worker.py
    MAYU_BROKER=URL MAYU_RESULT_TTL=0 BENCH_MESSAGES=N python -m mayu worker mayu_worker:app ...

The first line publishes, the second starts a worker. Results are off, as ours are in that cell.
"""

from __future__ import annotations

import itertools
import os
import signal
import time

from mayu import App
from worker_reports import at_end_of_input, write_report

MESSAGES = int(os.environ["BENCH_MESSAGES"])
PAYLOAD = "x" * 88
app = App()
_began: list[tuple[float, float]] = []
_count = itertools.count(1).__next__


@app.task(name="bench.run")
def run(_n: str, _data: str) -> None:
    if not _began:
        _began.append((time.monotonic(), time.process_time()))
    if _count() == MESSAGES:
        ended, cpu = time.monotonic(), time.process_time()
        write_report(began=_began[0][0], ended=ended, cpu=cpu - _began[0][1])


if __name__ == "__main__":
    for number in range(MESSAGES):
        run.send(f"{number:07}", PAYLOAD)
else:  # mayu's worker has imported it
    at_end_of_input(lambda: os.kill(os.getpid(), signal.SIGTERM))
