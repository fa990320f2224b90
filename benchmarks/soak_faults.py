"""The faults of soak.py: workers and Redis are killed, frozen and cut off."""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis
from soak_crew import EXIT_SECONDS, Crew, Worker, wait_for_exit
from soak_ledger import Ledger
from soak_run import SoakRun

from shared_sync.connection.embedded import EmbeddedRedis

LONGEST_DOWN_SECONDS = 2.0
LONGEST_FREEZE_SECONDS = 8.0
READY_SECONDS = 15.0


class Faults:
    """Does one fault at a time. The workers are tended meanwhile."""

    def __init__(
        self,
        run: SoakRun,
        crew: Crew,
        server: EmbeddedRedis,
        ledger: Ledger,
        options: argparse.Namespace,
    ) -> None:
        self._run = run
        self._crew = crew
        self._server = server
        self._ledger = ledger
        self._lease = options.lease
        self._chance = random.Random(f"{options.seed}/faults")
        self._faults: dict[str, tuple[int, Callable[[str], None]]] = {
            "worker killed": (4, self._kill_worker),
            "worker terminated": (4, self._terminate_worker),
            "worker frozen past its lease": (3, self._freeze_worker),
            "worker frozen and its name taken": (2, self._take_name),
            "Redis killed and restarted": (3, self._kill_redis),
            "Redis frozen": (3, self._freeze_redis),
            "all connections cut": (3, self._cut_connections),
        }
        if options.isolation == "process":
            self._faults["child killed"] = (6, self._kill_child)

    def cause_one(self) -> None:
        """Cause a fault that is drawn by chance, and return when it is over."""
        weights = [weight for weight, _ in self._faults.values()]
        (name,) = self._chance.choices(list(self._faults), weights)
        self._run.disturbances[name] += 1
        self._faults[name][1](name)

    def _victim(self) -> Worker:
        """Return a worker whose signal handlers are in place."""
        if not self._run.wait_for(lambda: bool(self._crew.ready), READY_SECONDS):
            raise SystemExit(f"no worker was ready within {READY_SECONDS:.0f} s")
        return self._chance.choice(self._crew.ready)

    def _kill_worker(self, name: str) -> None:
        self._crew.kill(self._victim(), name)

    def _kill_child(self, _name: str) -> None:
        """Its worker starts another one; what it ran is charged with a crash."""
        children = children_of(self._victim().process.pid)
        if children:  # it may have ended by itself, or start one just now
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(children), signal.SIGKILL)

    def _terminate_worker(self, name: str) -> None:
        self._crew.terminate(self._victim(), self._run.pause, name)

    def _freeze_worker(self, name: str) -> None:
        victim = self._victim()
        victim.process.send_signal(signal.SIGSTOP)
        self._run.pause(self._lease + self._chance.uniform(0.5, 2.0))
        victim.process.send_signal(signal.SIGCONT)
        self._crew.expect_all(name)

    def _take_name(self, name: str) -> None:
        """Another process gets the frozen one's name; when that goes on it has to end itself."""
        victim = self._victim()
        victim.process.send_signal(signal.SIGSTOP)
        victim.contended = True
        self._crew.workers.remove(victim)
        self._crew.superseded.append(victim)
        heir = self._crew.hire(victim.name)
        heir.contended = True
        # It may be replaced meanwhile: a message may take it down.
        took = self._run.wait_for(
            lambda: heir.ready or heir not in self._crew.workers, self._lease + READY_SECONDS
        )
        if not took:
            self._ledger.problem(f"nobody could take the name {heir.name} of a frozen worker")
        victim.process.send_signal(signal.SIGCONT)
        if not self._run.wait_for(lambda: victim not in self._crew.superseded, EXIT_SECONDS):
            if heir in self._crew.workers:
                self._ledger.problem(f"worker {victim.name} went on after its name was taken")
            victim.process.terminate()
            self._crew.departed(victim, wait_for_exit(victim, time.sleep) or 0, 0)
        heir.contended = False
        self._crew.expect_all(name)

    def _kill_redis(self, name: str) -> None:
        self._server.kill()
        self._run.pause(self._chance.uniform(0.0, LONGEST_DOWN_SECONDS))
        self._server.start()
        self._crew.expect_all(name)

    def _freeze_redis(self, name: str) -> None:
        os.kill(self._server.pid, signal.SIGSTOP)
        self._run.pause(self._chance.uniform(0.5, LONGEST_FREEZE_SECONDS))
        os.kill(self._server.pid, signal.SIGCONT)
        self._crew.expect_all(name)

    def _cut_connections(self, name: str) -> None:
        with redis.Redis.from_url(self._server.url, protocol=2) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        self._crew.expect_all(name)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == pid:
                    found.append(int(entry.name))
    return sorted(found)
