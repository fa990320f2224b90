"""One soak: messages, workers, and whatever disturbs them; then the checks and the report."""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from pprint import pformat
from typing import Any

import redis
from soak_crew import STILL_SECONDS, Crew
from soak_ledger import Fate, Ledger, Totals
from soak_traffic import Collector, Publisher
from soak_worker import GROUP, STREAM, job

KEY_PREFIX = f"{{{STREAM}}}:{GROUP}:"
PRESENCE, DUE, HISTORY = (f"{KEY_PREFIX}{name}" for name in ("presence", "due", "history"))
SHOWN = 20

OF_THE_GROUP = {"kept": 3, "outage": 3, "reports": 2, "events": 500}
"""Keys of which so many entries may stay: they are about the group, and no message adds to them.

Of `reports` those are its release and its last outage; the report of a worker must have gone.
"""


class SoakRun:
    """Runs a soak around a function that disturbs it. For one thread.

    The publisher and the collector have threads of their own; everything else happens in `pause`.
    """

    def __init__(
        self, options: argparse.Namespace, url: str, folder: Path, crew: Crew, ledger: Ledger
    ) -> None:
        self._options = options
        self._folder = folder
        self._ledger = ledger
        self._crew = crew
        self._client = redis.Redis.from_url(url, socket_timeout=2.0, protocol=2)
        self._publisher = Publisher(url, ledger, options.seed, options.rate)
        self._collector = Collector(url, ledger, folder / "ends.jsonl")
        self._started = self._next_minute = 0.0
        self._feeding = True
        self.disturbances: Counter[str] = Counter()
        """What disturbed it, and how often."""

    def run(self, disturb: Callable[[], None]) -> bool:
        """Run all of it and return whether nothing is wrong."""
        self._started = time.monotonic()
        self._next_minute = self._started + 60
        for _ in range(self._options.workers):
            self._crew.hire()
        self._collector.start()
        self._publisher.start()
        disturb()
        self._await("every reader has taken up again", lambda: self._crew.all_resumed)
        self._feeding = False
        self._publisher.stop()
        seconds = time.monotonic() - self._started
        self._await("every message is finished", self._all_finished, lambda: self._ledger.ended)
        self._await("only the living are present", self._only_the_living)
        self._crew.stop_all(self.pause)
        self._collector.stop()
        self._collector.finish()
        self._check_leftovers()
        return self._report(seconds)

    def pause(self, seconds: float) -> None:
        """Wait, and tend the workers meanwhile, at least once."""
        deadline = time.monotonic() + seconds
        while True:
            self._crew.tend(feeding=self._feeding)
            if time.monotonic() >= self._next_minute:
                self._print_minute()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.05, left))

    def wait_for(self, condition: Callable[[], bool], within: float) -> bool:
        """Wait until the condition holds; return whether it did in time."""
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() >= deadline:
                return False
            self.pause(0.05)
        return True

    def _await(
        self,
        what: str,
        condition: Callable[[], bool],
        progress: Callable[[], int] = lambda: 0,
    ) -> None:
        """Wait until the condition holds, as long as there is progress now and then."""
        before, deadline = progress(), time.monotonic() + STILL_SECONDS
        while not condition():
            if (now := progress()) != before:
                before, deadline = now, time.monotonic() + STILL_SECONDS
            if time.monotonic() >= deadline:
                self._ledger.problem(f"waited {STILL_SECONDS:.0f} s in vain until {what}")
                return
            self.pause(0.1)

    # --- what is left in Redis ---

    def _pending(self) -> int:
        summary: Any = self._client.xpending(STREAM, GROUP)
        return int(summary["pending"])

    def _all_finished(self) -> bool:
        return bool(self._client.xlen(STREAM) == self._pending() == 0)

    def _only_the_living(self) -> bool:
        """Whether the living workers are present, and nobody else, and SIGTERM drains each."""
        names: Any = self._client.zrange(PRESENCE, 0, -1)
        living = {worker.name for worker in self._crew.workers}
        ready = len(self._crew.ready) == len(self._crew.workers)
        return ready and {name.decode() for name in names} == living

    def _check_leftovers(self) -> None:
        if left := self._pending():
            self._ledger.problem(f"{left} entries are still pending")
        if left := self._client.xlen(STREAM):
            self._ledger.problem(f"{left} entries are left in the stream")
        size: dict[bytes, Callable[[str], Any]] = {
            b"stream": self._client.xlen,
            b"zset": self._client.zcard,
            b"hash": self._client.hlen,
        }
        for raw in self._client.scan_iter(match=f"{KEY_PREFIX}*"):
            key, kind = raw.decode(), self._client.type(raw)
            count = size[kind](key) if kind in size else math.inf  # type: ignore[index]
            if count <= OF_THE_GROUP.get(key.removeprefix(KEY_PREFIX), 0):
                continue
            # A stream stays when its last entry is deleted.
            self._ledger.problem(f"{key} is left with {count} entries")
        consumers: Any = self._client.xinfo_consumers(STREAM, GROUP)
        if names := {row["name"].decode() for row in consumers} - {"~parked"}:
            self._ledger.problem(f"the group still has the consumers {sorted(names)}")

    # --- what is printed and kept ---

    def _print_minute(self) -> None:
        minute = round((self._next_minute - self._started) / 60)
        self._next_minute += 60
        totals = self._ledger.totals()
        try:
            backlog = str(self._client.xlen(STREAM))
        except (redis.RedisError, OSError):
            backlog = "unknown"
        print(
            f"minute {minute}: published {totals.accepted}, finished {totals.done}, "
            f"dead {totals.dead}, faults {self.disturbances.total()}, backlog {backlog}",
            flush=True,
        )

    def _report(self, seconds: float) -> bool:
        totals = self._ledger.totals()
        mistakes = self._ledger.mistakes(lambda number: str(job(self._options.seed, number)["act"]))
        problems = self._ledger.problems
        self._show(totals, seconds)
        for problem in problems:
            print(f"WRONG: {problem}")
        for number, (mistake, fate) in list(mistakes.items())[:SHOWN]:
            print(f"WRONG: message {number} ({fate.id}): {mistake}")
        if len(mistakes) > SHOWN:
            print(f"WRONG: and {len(mistakes) - SHOWN} messages more")
        if mistakes or problems:
            self._keep_evidence(mistakes)
        well = not mistakes and not problems
        print(f"{'outcome':<19}{'nothing lost, nothing published twice' if well else 'BROKEN'}")
        return well

    def _show(self, totals: Totals, seconds: float) -> None:
        info: Any = self._client.info("server")
        resumed, after = self._crew.longest_resumption
        again = totals.cut_off + totals.done_again
        rows = {
            "minutes": f"{seconds / 60:.1f}",
            "messages": f"{totals.accepted} accepted: {totals.acknowledged} acknowledged, "
            f"{totals.unknown_accepted} of {totals.unknown} unanswered",
            "ended": f"{totals.done} results, {totals.dead} dead letters ({listed(totals.deaths)})",
            "lost": totals.lost,
            "published twice": totals.published_twice,
            "runs": f"{totals.runs}, of which {totals.failed} failed",
            "run twice": f"{again}: {totals.cut_off} cut off, {totals.done_again} done again",
            "died of others": f"{totals.innocent} messages that killed workers had fetched",
            "faults": f"{self.disturbances.total()}: {listed(self.disturbances)}",
            "workers": listed(self._crew.counts),
            "longest standstill": f"{resumed:.1f} s until every reader was at work again ({after})",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
            "versions": f"Python {platform.python_version()}, redis-py {redis.__version__}, "
            f"Redis {info['redis_version']}",
            "seed": self._options.seed,
        }
        print()
        for label, value in rows.items():
            print(f"{label:<19}{value}")

    def _keep_evidence(self, mistakes: dict[int, tuple[str, Fate]]) -> None:
        """Write what Redis still has about the wrong messages, and its data, to the folder."""
        evidence = {
            number: {
                "wrong": mistake,
                "job": job(self._options.seed, number),
                **asdict(fate),
                **self._state_in_redis(fate.id),
                "journals": self._journal_lines(number),
            }
            for number, (mistake, fate) in list(mistakes.items())[:SHOWN]
        }
        (self._folder / "evidence.txt").write_text(pformat(evidence, sort_dicts=False, width=120))
        data: Any = self._client.config_get("dir")
        shutil.copytree(data["dir"], self._folder / "redis", dirs_exist_ok=True)

    def _state_in_redis(self, message_id: str) -> dict[str, Any]:
        if not message_id:
            return {}
        return {
            "entry": self._client.xrange(STREAM, message_id, message_id),
            "pending": self._client.xpending_range(STREAM, GROUP, message_id, message_id, 1),
            "history": self._client.hget(HISTORY, message_id),
            "due": self._client.zscore(DUE, message_id),
        }

    def _journal_lines(self, number: int) -> list[str]:
        return [
            f"{path.stem}: {line.strip()}"
            for path in sorted(self._folder.glob("*.journal"))
            for line in path.read_text().splitlines()
            if line.split()[1:2] == [str(number)] and not line.startswith("ready")
        ]


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
