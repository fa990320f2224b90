"""Speech recognition that holds the interpreter lock: processes beside threads, and the probes."""

from __future__ import annotations

import threading
import time
from importlib.util import find_spec
from itertools import pairwise
from multiprocessing import get_context
from typing import Any
from urllib.request import urlopen

import redis
from gpu_bench import RESULTS, Bench
from gpu_processors import RECORDINGS, speech
from report import Bound, percentile

from shared_sync.protocol.commands import LONGEST_HEARTBEAT_SECONDS

PASSES = 5
ASK_SECONDS = 0.02
LEASE_SECONDS = 30.0

ONE, THREADS, PROCESSES = "speech, 1 thread", "speech, 4 threads", "speech, 4 processes"
WORKERS: dict[str, dict[str, Any]] = {
    ONE: {"threads": 1},
    THREADS: {"threads": 4},
    PROCESSES: {"threads": 4, "isolation": "process"},
}
BOUNDS = (
    Bound(
        "speech: audio per second, processes / one thread",
        lambda found: found.median(PROCESSES, "audio s/s") / found.median(ONE, "audio s/s"),
        at_least=1.6,
    ),
    Bound(
        "speech, processes: p99 of /health/live, ms",
        lambda found: found.highest(PROCESSES, "p99 live ms"),
        at_most=100.0,
    ),
    Bound(
        "speech, processes: latest heartbeat, s",
        lambda found: found.highest(PROCESSES, "late heartbeat s"),
        at_most=1.0,
    ),
)


class Observer:
    """Asks a worker's probe for liveness, and reads its lease, until it is stopped."""

    def __init__(self, bench: Bench, port: int) -> None:
        # Fixed after construction.
        self._url = f"http://127.0.0.1:{port}/health/live"
        self._bench = bench
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._ask, self._read_leases)
        ]
        # Each owned by its thread until that has ended.
        self.answers: list[float] = []
        self.leases: list[float] = []
        self.ended = 0.0

    def _ask(self) -> None:
        while not self._end.wait(ASK_SECONDS):
            began = time.monotonic()
            with urlopen(self._url, timeout=60) as answer:
                answer.read()
            self.answers.append(time.monotonic() - began)

    def _read_leases(self) -> None:
        with redis.Redis.from_url(self._bench.url, protocol=2) as client:
            while not self._end.wait(ASK_SECONDS):
                lease: Any = client.zscore(self._bench.presence, "worker")
                if lease is not None and lease / 1000 not in self.leases[-1:]:
                    self.leases.append(lease / 1000)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.ended = time.time()
        self._end.set()
        for thread in self._threads:
            thread.join()

    def late_heartbeat(self) -> float:
        """Return by how many seconds the latest heartbeat was late, the one missing at the end too.

        A heartbeat was sent a lease before the lease that it brought ends.
        """
        moments = [*(lease - LEASE_SECONDS for lease in self.leases), self.ended]
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        return max(0.0, max(gaps, default=0.0) - LONGEST_HEARTBEAT_SECONDS)


def measure_speech(bench: Bench) -> None:
    """Recognize all recordings several times, with each kind of worker."""
    if find_spec("pocketsphinx") is None:
        print("speech: left out, pocketsphinx is not installed: pip install 'shared_sync[speech]'")
        return
    files = sorted(file.name for file in RECORDINGS.glob("*.wav"))
    if not files:
        print(f"speech: left out, there are no recordings in {RECORDINGS}")
        return
    messages = [{"file": file} for _ in range(bench.options.passes) for file in files]
    for processes in (1, 4):
        rate = _decode_alone(files * bench.options.passes, processes)
        bench.measured.add(f"without a consumer, {processes} at once", {"audio s/s": rate})
    for label, consumer in WORKERS.items():
        bench.publish(())
        with bench.worker(
            processor_factory="gpu_processors:speech",
            result_stream=RESULTS,
            lease_seconds=LEASE_SECONDS,
            **consumer,
        ) as worker:
            observer = Observer(bench, worker.read("ready")["port"])
            observer.start()
            bench.add(messages)
            seconds = bench.wait_until_done()
            observer.stop()
            worker.wait()
        audio = sum(float(result["seconds"]) for result in bench.results())
        bench.measured.add(
            label,
            {
                "audio s/s": audio / seconds,
                "p99 live ms": percentile(observer.answers, 0.99) * 1000,
                "late heartbeat s": observer.late_heartbeat(),
            },
        )


_decoder: Any = None
"""In a process of `_decode_alone`: what its factory has made."""


def _decode_alone(files: list[str], processes: int) -> float:
    """Return the seconds of audio a second that bare processes reach: what the machine can do."""
    with get_context("spawn").Pool(processes, initializer=_load) as pool:
        pool.map(_decode, files[:processes], chunksize=1)
        began = time.monotonic()
        seconds = sum(pool.map(_decode, files, chunksize=1))
        return seconds / (time.monotonic() - began)


def _load() -> None:
    global _decoder  # noqa: PLW0603
    _decoder = speech(None)


def _decode(file: str) -> float:
    return float(_decoder("", {"file": file})["seconds"])
