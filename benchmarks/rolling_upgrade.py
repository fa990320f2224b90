"""Upgrade the workers of a group from an older release to this one, and back, under load.

    python benchmarks/rolling_upgrade.py --old PATH [--rounds N] [--step-seconds S] [--workers N]
        [--rate N] [--lease S] [--old-prefetch N] [--new-prefetch auto|N]
        [--new-isolation thread|process] [--rights TEXT]
        [--seed N] [--redis-server PATH] [--keep]

PATH is a checkout of the older release. All workers begin as that release. One after the other is
replaced by this release, by SIGTERM and by SIGKILL in turn, half of them under the same id; then
all of them are replaced by the old release again. Between two replacements a worker is killed
now and then, and starts again as what it was. All the time messages are published, as in soak.py:
some fail, some are rejected, some take their worker down.

The workers of both releases log in as a Redis user with the least rights that the older release
names in its README or docs, and no others; `--rights` replaces them. The exit status is 1 unless
each accepted message has ended exactly once, with nothing left behind in Redis.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import redis
from measuring import environment_with
from soak import DURABLE, exit_on_signal, folder_for, parser_of
from soak_crew import Crew, Release, Worker
from soak_ledger import Ledger
from soak_run import SoakRun
from soak_worker import RESULTS, STREAM

from shared_sync.connection.embedded import EmbeddedRedis

USER, PASSWORD = "worker", "least-rights"
README_STREAM = "audio:jobs"
READY_SECONDS = 30.0
KILLED_BETWEEN = 0.5
"""How often a worker is killed between two replacements."""


def least_rights(checkout: Path) -> str:
    """Return the rights of a worker's Redis user that a release names, for the soak's stream."""
    for page in (checkout / "README.md", *sorted((checkout / "docs").glob("*.md"))):
        rights = re.search(rf"^ +(~{README_STREAM} .*\+xreadgroup\b.*)$", page.read_text(), re.M)
        if rights:
            return rights.group(1).replace(README_STREAM, STREAM)
    raise SystemExit(f"{checkout} does not name the rights of a worker's user: give --rights")


def create_user(server: EmbeddedRedis, rights: str) -> str:
    """Create the user of the workers and return the URL that they log in with."""
    with redis.Redis.from_url(server.url) as client:
        # Releases may name these apart, as optional ones. Without them the group would have to be
        # there already, and would keep the names of workers that have ended.
        rights += " +xgroup|create +xgroup|delconsumer"
        rules = ("reset", "on", f">{PASSWORD}", *rights.split(), f"~{RESULTS}")
        client.execute_command("ACL", "SETUSER", USER, *rules)
    return server.url.replace("redis://", f"redis://{USER}:{PASSWORD}@")


def check_release(release: Release) -> None:
    """End the program if Python would not import the release from its folder."""
    found = subprocess.run(
        [sys.executable, "-c", "import shared_sync; print(shared_sync.__file__)"],
        env=environment_with(release.package),
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if Path(found).parents[1].resolve() != release.package.resolve():
        raise SystemExit(f"the {release.name} is imported from {found}, not {release.package}")


class Rollout:
    """Replaces the workers one after the other."""

    def __init__(self, run: SoakRun, crew: Crew, options: argparse.Namespace) -> None:
        self._run = run
        self._crew = crew
        self._step_seconds = options.step_seconds
        self._chance = random.Random(f"{options.seed}/rollout")
        self._signals = itertools.cycle(("SIGTERM", "SIGKILL"))

    def to(self, release: Release) -> None:
        """Replace every worker of another release by one of this release."""
        while any(worker.release != release for worker in self._crew.workers):
            self._run.pause(self._step_seconds)
            if self._chance.random() < KILLED_BETWEEN:
                self._run.disturbances["worker killed"] += 1
                self._crew.kill(self._victim(None), "worker killed")
                self._run.pause(self._step_seconds)
            self._replace_one(release)
        self._run.pause(self._step_seconds)

    def _replace_one(self, release: Release) -> None:
        outdated = self._victim(release)
        by = next(self._signals)
        what = f"replaced by the {release.name} after {by}"
        self._run.disturbances[what] += 1
        if by == "SIGTERM":
            self._crew.terminate(outdated, self._run.pause, what, release)
        else:
            self._crew.kill(outdated, what, release)

    def _victim(self, release: Release | None) -> Worker:
        """Return a worker that is ready; not of the given release, if one is given."""

        def candidates() -> list[Worker]:
            return [worker for worker in self._crew.ready if worker.release != release]

        if not self._run.wait_for(lambda: bool(candidates()), READY_SECONDS):
            raise SystemExit(f"no worker was ready within {READY_SECONDS:.0f} s")
        return self._chance.choice(candidates())


def upgrade(options: argparse.Namespace, server: EmbeddedRedis, folder: Path) -> bool:
    """Run the upgrades and rollbacks; return whether nothing is wrong."""
    old = Release("old release", options.old, options.old_prefetch)
    new = Release("new release", prefetch=options.new_prefetch, isolation=options.new_isolation)
    for release in (old, new):
        check_release(release)
    rights = options.rights or least_rights(options.old)
    print(f"rights of the workers: {rights}")
    url = create_user(server, rights)
    ledger = Ledger()
    crew = Crew(url, ledger, folder, old, seed=options.seed, lease=options.lease)
    run = SoakRun(options, server.url, folder, crew, ledger)
    rollout = Rollout(run, crew, options)

    def disturb() -> None:
        run.pause(options.step_seconds)
        for _ in range(options.rounds):
            rollout.to(new)
            rollout.to(old)

    try:
        return run.run(disturb)
    finally:
        crew.kill_all()


def main() -> int:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--old", type=Path, required=True, metavar="PATH")
    parser.add_argument("--rounds", type=int, default=3, help="upgrades, each with a rollback")
    parser.add_argument("--step-seconds", type=float, default=3.0)
    parser.add_argument("--old-prefetch", default="5", metavar="N")
    parser.add_argument("--new-prefetch", default="auto", metavar="auto|N")
    parser.add_argument("--new-isolation", default="thread", choices=("thread", "process"))
    parser.add_argument("--rights", metavar="TEXT")
    options = parser.parse_args()
    options.old = options.old.resolve()
    signal.signal(signal.SIGTERM, exit_on_signal)
    with (
        folder_for(options) as (folder, exit_status),
        EmbeddedRedis(options.redis_server, extra_args=DURABLE, start_timeout=60.0) as server,
    ):
        return exit_status(upgrade(options, server, folder))


if __name__ == "__main__":
    sys.exit(main())
