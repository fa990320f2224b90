"""Batches, child processes, and faults of devices and dependencies, as GPU workers meet them.

    python benchmarks/bench_gpu.py [SECTION ...] [--kills N] [--passes N] [--jobs N] [--rounds N]
                                   [--json FILE] [--redis-server PATH]

No GPU is needed. The sections, all of them by default:

speech    pocketsphinx, which holds the interpreter lock while it decodes, over the recordings in
          ../shared/audio: 4 jobs at a time in child processes, 4 in threads, and one thread.
          Meanwhile the worker's `/health/live` is asked 50 times a second, and its heartbeats are
          read from Redis. Left out if pocketsphinx or the recordings are missing
faults    1 of 50 messages ends its process by a segmentation fault, or loops for ever in C;
          singly and in batches of 8
batches   1 of 32 messages of a batch is bad; a model whose memory is enough for 8 messages; a model
          that takes 20 ms and 1 ms for each message, alone and in batches of 16
kills     a worker is killed with SIGKILL while its 4 children work; 1,000 attempts are killed at
          their deadline
broken    a worker whose GPU fails every message at once, beside a healthy one
breaker   a circuit breaker around a dependency that is dead for 20 s
overhead  what isolation="process" costs, for messages of 100 B, 64 KB and 10 MB, and the start of a
          child

The exit status is 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import redis
from gpu_batches import BOUNDS as BATCHES
from gpu_batches import JOBS, measure_batches
from gpu_bench import Bench
from gpu_faults import BOUNDS as FAULTS
from gpu_faults import measure_faults, measure_kills
from gpu_outside import BOUNDS as OUTSIDE
from gpu_outside import measure_breaker, measure_broken
from gpu_overhead import measure_overhead
from gpu_speech import BOUNDS as SPEECH
from gpu_speech import PASSES, measure_speech
from measuring import describe_machine
from report import show_and_keep

from shared_sync.connection.embedded import EmbeddedRedis

SECTIONS = {
    "speech": measure_speech,
    "faults": measure_faults,
    "batches": measure_batches,
    "kills": measure_kills,
    "broken": measure_broken,
    "breaker": measure_breaker,
    "overhead": measure_overhead,
}
BOUNDS = (*SPEECH, *FAULTS, *BATCHES, *OUTSIDE)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--kills", type=int, default=1000, help="attempts killed at their deadline")
    parser.add_argument("--passes", type=int, default=PASSES, help="over the recordings")
    parser.add_argument("--jobs", type=int, default=JOBS, help="of the section batches")
    parser.add_argument("--rounds", type=int, default=3, help="of the section overhead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results there as well")
    parser.add_argument("--redis-server", type=Path, metavar="PATH")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    chosen = options.sections or list(SECTIONS)
    with (
        EmbeddedRedis(options.redis_server, start_timeout=60.0) as server,
        redis.Redis.from_url(server.url, protocol=2) as client,
    ):
        facts: dict[str, object] = {**describe_machine(server), "server and worker": "not pinned"}
        bench = Bench(server.url, client, options)
        began = time.monotonic()
        for name in chosen:
            section_began = time.monotonic()
            SECTIONS[name](bench)
            print(f"({name}: {time.monotonic() - section_began:.0f} s)", flush=True)
        facts["run"] = (
            f"{', '.join(chosen)}; {options.passes} passes over the recordings, "
            f"{options.kills:,} kills, {options.rounds} rounds of overhead, "
            f"{time.monotonic() - began:.0f} s"
        )
        return show_and_keep(bench.measured, BOUNDS, facts, options.json)


if __name__ == "__main__":
    sys.exit(main())
