"""How fast the library is beside loops written by hand, dramatiq and mayu, in one run.

    python benchmarks/bench_consumer.py [--cells empty,results] [--rounds N] [--messages N]
                                        [--python-313 PATH] [--json FILE] [--redis-server PATH]

The opponents are those worth beating:

- `one XACK a read`: the fastest loop on redis-py. 4 threads; all messages of a read are
  acknowledged with one XACK, and nothing is deleted, so that the stream grows for ever;
- `one XACK a message`: the usual one, an XACK for each message, all of a read in one pipeline;
- `XACK and XDEL`: the same work as ours, one XACK and one XDEL a read;
- dramatiq with a queue prefetch of 64 and no middleware but Retries, and mayu with
  `--mode thread --threads 4 --prefetch-multiplier 64`; all three on Python 3.13.

None of the loops has retries, dead letters, recovery or metrics; ours has all of them, and metrics
on. Each worker is a process of its own. The server runs on one core and the worker on another, and
the workers take turns, round after round. The medians of all rounds are compared with the bounds,
and the exit status is 1 if one is missed. Quote the ratios: absolute values are of the machine.

The cells: `empty` (empty jobs of 100 B), `results` (each with a result in a stream), `64k`
(64 KB), `queues` (dramatiq and mayu; left out without `--python-313`), `20ms` (jobs that sleep for
20 ms), `latency` (at 100 messages/s), `idle`, `startup` and `memory` (over 2 million messages).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import redis
from consumer_cells import BOUNDS, CELLS, Bench, Candidate, Effort, candidates_of
from measuring import describe_machine, pinned_redis
from report import Measurements, add_common_options, show_and_keep


def cells(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(CELLS):
        raise argparse.ArgumentTypeError(f"no such cell: {', '.join(sorted(unknown))}")
    return names


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=cells, default=list(CELLS), metavar="NAME,NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=300_000, help="empty messages of a round")
    parser.add_argument("--memory-messages", type=int, default=2_000_000)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of 20 ms of a round")
    parser.add_argument("--latency-seconds", type=float, default=10.0)
    parser.add_argument("--idle-seconds", type=float, default=10.0)
    parser.add_argument(
        "--python-313",
        metavar="PATH",
        help="a Python 3.13 with mayu, dramatiq[redis] and the dependencies of shared_sync",
    )
    add_common_options(parser)
    return parser.parse_args()


VERSIONS = """
import importlib.metadata, json, platform, sys
versions = {"Python": platform.python_version()}
for package in ("redis", "hiredis", "dramatiq", "mayu"):
    try:
        versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
json.dump(versions, sys.stdout)
"""


def versions_of(python: str) -> dict[str, str]:
    """Return the versions of Python and of the opponents that an interpreter has."""
    done = subprocess.run([python, "-c", VERSIONS], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def measure(bench: Bench, candidates: list[Candidate], rounds: int) -> Measurements:
    """Run all rounds; in each the workers take turns."""
    measured = Measurements()
    for number in range(1, rounds + 1):
        for candidate in candidates:
            if candidate.once and number > 1:
                continue
            values = candidate.measure(bench)
            measured.add(candidate.label, values)
            print(f"round {number}: {candidate.label}: {values}", file=sys.stderr, flush=True)
    return measured


def main() -> int:
    options = parse()
    names, versions = options.cells, {}
    if "queues" in names and options.python_313:
        versions = versions_of(options.python_313)
    elif "queues" in names:
        names = [name for name in names if name != "queues"]
        print("dramatiq and mayu are left out: no --python-313")
    missing = {"dramatiq", "mayu"} - set(versions)
    if versions and missing:
        print(f"{' and '.join(sorted(missing))} left out: not installed in {options.python_313}")
    effort = Effort(
        messages=options.messages,
        memory_messages=options.memory_messages,
        jobs=options.jobs,
        latency_seconds=options.latency_seconds,
        idle_seconds=options.idle_seconds,
        automatic=options.prefetch,
        python_313=options.python_313,
    )
    began = time.monotonic()
    with (
        pinned_redis(options.redis_server) as server,
        redis.Redis.from_url(server.url, protocol=2) as client,
    ):
        facts: dict[str, object] = {**describe_machine(server)}
        measured = measure(
            Bench(server, client, effort), candidates_of(names, missing), options.rounds
        )
    if versions:
        facts["queues on"] = ", ".join(" ".join(version) for version in versions.items())
    facts["run"] = (
        f"{options.rounds} rounds, {options.messages:,} messages, "
        f"prefetch {options.prefetch} where it is automatic, {time.monotonic() - began:.0f} s"
    )
    return show_and_keep(measured, BOUNDS, facts, options.json)


if __name__ == "__main__":
    sys.exit(main())
