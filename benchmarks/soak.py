"""Work for minutes while workers and Redis are killed, frozen and cut off; then count.

    python benchmarks/soak.py [--minutes M] [--workers N] [--rate N] [--lease S] [--fault-every S]
                              [--prefetch auto|N] [--isolation thread|process] [--seed N]
                              [--redis-server PATH] [--keep]

A Redis of its own (AOF, appendfsync always), worker processes of 4 threads, a publisher that keeps
the queue fed, a collector that reads results and dead letters, and a random fault every few
seconds. Some messages fail, some are rejected, some take their worker down, or the child process in
which it runs them. Then the faults end,
everything is finished, and the exit status is 1 unless each accepted message has ended exactly
once, as a result or as a dead letter, with nothing left behind in Redis.

A line a minute and a summary are printed. The logs of the workers, the journals of what they ran
and all ends are in a temporary folder, which is kept when something is wrong.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from soak_crew import Crew, Release
from soak_faults import Faults
from soak_ledger import Ledger
from soak_run import SoakRun

from shared_sync.connection.embedded import EmbeddedRedis

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def soak(options: argparse.Namespace, server: EmbeddedRedis, folder: Path) -> bool:
    """Run the soak and return whether nothing is wrong."""
    ledger = Ledger()
    release = Release("this release", prefetch=options.prefetch, isolation=options.isolation)
    crew = Crew(server.url, ledger, folder, release, seed=options.seed, lease=options.lease)
    run = SoakRun(options, server.url, folder, crew, ledger)
    faults = Faults(run, crew, server, ledger, options)

    def disturb() -> None:
        started = time.monotonic()
        end = started + options.minutes * 60
        next_fault = started
        while (next_fault := next_fault + options.fault_every) < end:
            run.pause(next_fault - time.monotonic())
            faults.cause_one()
            next_fault = max(next_fault, time.monotonic() - options.fault_every)
        run.pause(end - time.monotonic())

    try:
        return run.run(disturb)
    finally:
        crew.kill_all()


@contextmanager
def folder_for(options: argparse.Namespace) -> Iterator[tuple[Path, Callable[[bool], int]]]:
    """A folder for logs and journals, and a function that turns the outcome into an exit status.

    The folder is removed if all is well and `--keep` is not given.
    """
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"seed {options.seed}, logs and journals in {folder}", flush=True)
    outcomes: list[bool] = []

    def exit_status(well: bool) -> int:
        outcomes.append(well)
        return 0 if well else 1

    try:
        yield folder, exit_status
    finally:
        if outcomes == [True] and not options.keep:
            shutil.rmtree(folder)
        else:
            print(f"the evidence is in {folder}")


def parser_of(text: str) -> argparse.ArgumentParser:
    """A parser with the options that every soak has."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=80.0, help="messages a second")
    parser.add_argument("--lease", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--redis-server", type=Path, metavar="PATH")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    return parser


def exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--fault-every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--prefetch", default="auto", metavar="auto|N")
    parser.add_argument("--isolation", default="thread", choices=("thread", "process"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, exit_on_signal)
    with (
        folder_for(options) as (folder, exit_status),
        EmbeddedRedis(options.redis_server, extra_args=DURABLE, start_timeout=60.0) as server,
    ):
        return exit_status(soak(options, server, folder))


if __name__ == "__main__":
    sys.exit(main())
