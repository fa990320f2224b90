"""Work for minutes while workers and Redis are killed, frozen and cut off; then count.

    python benchmarks/soak.py [--minutes M] [--workers N] [--rate N] [--lease S] [--fault-every S]
                              [--seed N] [--redis-server PATH] [--keep]

A Redis of its own (AOF, appendfsync always), worker processes of 4 threads, a publisher that keeps
the queue fed, a collector that reads results and dead letters, and a random fault every few
seconds. Some messages fail, some are rejected, some take their worker down. Then the faults end,
everything is worked off, and the exit status is 1 unless each accepted message has ended exactly
once, as a result or as a dead letter, with nothing left behind in Redis.

A line a minute and a summary are printed. The logs of the workers, the journals of what they ran
and all ends are in a temporary folder, which is kept when something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from pprint import pformat
from types import FrameType
from typing import Any

import redis
from soak_ledger import Fate, Figures, Ledger
from soak_worker import BROKEN, CRASHED, GROUP, RESULTS, STREAM, THREADS, UNAVAILABLE, job

from shared_sync import DeadLetters, RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import QueueFull, RedisUnavailable
from shared_sync.protocol.commands import Keys

KEYS = Keys.of(STREAM, GROUP)
WORKER = Path(__file__).with_name("soak_worker.py")
TICK_SECONDS = 0.1
MAX_QUEUE_DEPTH = 3000
LONGEST_DOWN_SECONDS = 2.0
LONGEST_FREEZE_SECONDS = 8.0
READY_SECONDS = 15.0
EXIT_SECONDS = 15.0
"""Most that a worker may take to end after SIGTERM; it may drain for 5 s."""
STILL_SECONDS = 60.0
"""Most that a reader may be without a message while there are some, or a drain without an end."""
SHOWN = 20

Pause = Callable[[float], None]


# --- publishing and collecting ------------------------------------------------------------------


class Service:
    """A thread that repeats a step until it is stopped; an error that it cannot bear is told."""

    def __init__(self, ledger: Ledger, pause_seconds: float) -> None:
        self.ledger = ledger
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def step(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause_seconds):
                self.step()
        except Exception as error:
            self.ledger.trouble(f"{type(self).__name__} ended: {type(error).__name__}: {error}")


class Publisher(Service):
    """Publishes at a steady rate. A number is used again only if it is certain not to be in."""

    def __init__(self, url: str, ledger: Ledger, seed: int, rate: float) -> None:
        super().__init__(ledger, TICK_SECONDS)
        self._seed = seed
        self._most = max(1, round(2 * rate * TICK_SECONDS) - 1)
        self._chance = random.Random(f"{seed}/publisher")
        self._producer = RedisStreamProducer(
            url, STREAM, max_queue_depth=MAX_QUEUE_DEPTH, timeout_seconds=2.0
        )
        self._next = 0

    def step(self) -> None:
        batch = range(self._next, self._next + self._chance.randint(1, self._most))
        try:
            ids = self._producer.publish_many(job(self._seed, number) for number in batch)
            self._next = batch.stop
        except QueueFull as full:
            ids = list(full.published)
            self._next += len(ids)
        except RedisUnavailable as error:
            ids = list(error.published)
            self.ledger.unanswered(batch[len(ids) :])
            self._next = batch.stop
        self.ledger.acknowledged(batch[: len(ids)], ids)

    def stop(self) -> None:
        super().stop()
        self._producer.close()


class Collector(Service):
    """Reads results and dead letters as they come and removes them from Redis."""

    def __init__(self, url: str, ledger: Ledger, ends: Path) -> None:
        super().__init__(ledger, 0.05)
        self._client = redis.Redis.from_url(url, socket_timeout=5.0, protocol=2)
        self._letters = DeadLetters(url, STREAM, GROUP, timeout_seconds=5.0)
        self._ends = ends.open("a")
        self._last_result = "0-0"
        self._last_letter = ""
        self._unpurged: list[str] = []

    def step(self) -> None:
        with suppress(redis.RedisError, OSError):
            self._read_results()
        with suppress(RedisUnavailable):
            self._read_letters()

    def finish(self) -> None:
        """Read what is left, when nothing is added any more."""
        self._read_results()
        self._read_letters()
        self._ends.close()
        self._client.close()
        self._letters.close()

    def _read_results(self) -> None:
        while True:
            reply: Any = self._client.xread({RESULTS: self._last_result}, count=500)
            if not reply:
                return
            ((_, entries),) = reply
            for entry_id, raw in entries:
                fields = {name.decode(): value.decode() for name, value in raw.items()}
                self._last_result = entry_id.decode()
                self._note("result", fields)
                self.ledger.result(int(fields["n"]), fields["message_id"], fields["status"])
            self._client.xtrim(RESULTS, minid=self._last_result, approximate=False)

    def _read_letters(self) -> None:
        while page := self._letters.list(after=self._last_letter):
            for letter in page:
                self._last_letter = letter.id
                self._unpurged.append(letter.id)
                number, act = int(letter.fields["n"]), letter.fields["act"].decode()
                facts = {
                    "n": number,
                    "message_id": letter.message_id,
                    "reason": letter.reason,
                    "attempts": letter.attempts,
                    "crashes": letter.crashes,
                    "history": letter.history,
                }
                self._note("dead letter", facts)
                self.ledger.letter(number, letter.message_id, act, letter.reason)
            self._letters.purge(self._unpurged)
            self._unpurged.clear()
        if self._unpurged:  # the answer to their removal was lost
            self._letters.purge(self._unpurged)
            self._unpurged.clear()

    def _note(self, kind: str, facts: dict[str, Any]) -> None:
        self._ends.write(json.dumps({"end": kind, **facts}) + "\n")
        self._ends.flush()


# --- the workers --------------------------------------------------------------------------------


class Worker:
    """One worker process, and how far its journal has been read."""

    def __init__(self, name: str, journal: Path, command: list[str]) -> None:
        self.name = name
        self.ready = False
        self.contended = False
        """Its name is, or was, wanted by two processes, so one of them may end itself."""
        self.began: dict[str, float] = {}
        """When each of its readers last began a message."""
        journal.touch()
        self._lines = journal.open("rb")
        with journal.with_suffix(".log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def read_journal(self, ledger: Ledger) -> None:
        """Take in the lines that are complete."""
        while line := self._lines.readline():
            if not line.endswith(b"\n"):
                self._lines.seek(-len(line), os.SEEK_CUR)
                return
            event, number, _attempt, thread, moment = line.decode().split()
            if event == "ready":
                self.ready = True
                continue
            ledger.ran(event, int(number))
            if event == "run":
                self.began[thread] = float(moment)

    def resumed(self, since: float) -> float | None:
        """The moment from which every reader had begun a message after `since`; None if not yet."""
        later = [moment for moment in self.began.values() if moment >= since]
        return max(later) if len(later) == THREADS else None

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._lines.close()


class Crew:
    """Keeps the workers at their number, reads their journals, and judges how they end."""

    def __init__(self, url: str, ledger: Ledger, folder: Path, options: argparse.Namespace) -> None:
        self._ledger = ledger
        self._folder = folder
        self._url = url
        self._seed = options.seed
        self._lease = options.lease
        self._chance = random.Random(f"{options.seed}/crew")
        self._hired = self._names = 0
        self.workers: list[Worker] = []
        self.superseded: list[Worker] = []
        """Frozen past their lease while another process took their name."""
        self.counts: Counter[str] = Counter()
        self._unresumed: dict[Worker, tuple[float, str]] = {}
        self.longest_resumption: tuple[float, str] = (0.0, "no fault")

    def hire(self, name: str | None = None) -> Worker:
        if name is None:
            self._names += 1
            name = f"w{self._names}"
        self._hired += 1
        journal = self._folder / f"worker-{self._hired:04}-{name}.journal"
        arguments = [self._url, name, str(journal), str(self._seed), str(self._lease)]
        worker = Worker(name, journal, [sys.executable, str(WORKER), *arguments])
        self.workers.append(worker)
        return worker

    def replace(self, worker: Worker, after: str) -> None:
        """Another process in a worker's place, under its name or a new one."""
        self.retire(worker)
        name = worker.name if self._chance.random() < 0.5 else None
        self.counts["replaced under the same id" if name else "replaced under a new id"] += 1
        replacement = self.hire(name)
        replacement.contended = worker.contended and name is not None
        self._unresumed[replacement] = (time.monotonic(), after)

    def retire(self, worker: Worker) -> None:
        """Forget a worker whose process has ended; its journal counts to its end."""
        worker.read_journal(self._ledger)
        worker.close()
        for group in (self.workers, self.superseded):
            if worker in group:
                group.remove(worker)
        self._unresumed.pop(worker, None)

    def expect_all(self, after: str) -> None:
        """A fault is over: from now on every reader of every worker should take up again."""
        now = time.monotonic()
        for worker in self.workers:
            self._unresumed[worker] = (now, after)

    @property
    def all_resumed(self) -> bool:
        return not self._unresumed

    def tend(self, *, feeding: bool = True) -> None:
        """Read the journals and replace those who have ended."""
        for worker in [*self.workers, *self.superseded]:
            worker.read_journal(self._ledger)
            self._measure(worker)
            if feeding:
                self._check_progress(worker)
            status = worker.process.poll()
            if status is not None:
                self.departed(worker, status)

    def _measure(self, worker: Worker) -> None:
        since, after = self._unresumed.get(worker, (0.0, ""))
        moment = worker.resumed(since) if after else None
        if moment is not None:
            del self._unresumed[worker]
            self.longest_resumption = max(self.longest_resumption, (moment - since, after))

    def _check_progress(self, worker: Worker) -> None:
        for thread, moment in worker.began.items():
            if time.monotonic() - moment > STILL_SECONDS and worker in self.workers:
                self._ledger.trouble(f"{thread} ran nothing for {STILL_SECONDS:.0f} s")
                worker.began[thread] = time.monotonic()

    def departed(self, worker: Worker, status: int, *allowed: int, after: str = "") -> None:
        """A worker has ended: judge its exit status and fill its place."""
        if status in allowed:
            pass
        elif status == CRASHED:
            self.counts["workers taken down by a message"] += 1
            after = "a message took a worker down"
        elif status == UNAVAILABLE:
            self.counts["starts repeated, Redis was away"] += 1
            after = "a start without Redis"
        elif status == BROKEN and worker.contended:
            self.counts["ended themselves, their name was taken"] += 1
        else:
            self._ledger.trouble(f"worker {worker.name} ended with exit status {status}")
        if worker in self.superseded:
            self.retire(worker)
            return
        self.replace(worker, after or "the end of a worker")

    def stop_all(self, pause: Pause) -> None:
        """SIGTERM to all; each has to drain and end with exit status 0."""
        leaving, self.workers = self.workers, []
        for worker in leaving:
            worker.process.terminate()
        for worker in leaving:
            status = wait_for_exit(worker, pause)
            if status != 0:
                self._ledger.trouble(f"SIGTERM ended worker {worker.name} with {status}")
            self.retire(worker)

    def kill_all(self) -> None:
        for worker in [*self.workers, *self.superseded]:
            worker.process.kill()
            worker.process.wait()
            self.retire(worker)


def wait_for_exit(worker: Worker, pause: Pause) -> int | None:
    """The exit status; kills the worker and returns None if that takes too long."""
    deadline = time.monotonic() + EXIT_SECONDS
    while (status := worker.process.poll()) is None:
        if time.monotonic() >= deadline:
            worker.process.kill()
            worker.process.wait()
            return None
        pause(0.02)
    return status


# --- the faults ---------------------------------------------------------------------------------


class Storm:
    """Does one fault at a time. `pause` goes on tending the crew meanwhile."""

    def __init__(
        self,
        crew: Crew,
        server: EmbeddedRedis,
        ledger: Ledger,
        pause: Pause,
        options: argparse.Namespace,
    ) -> None:
        self._crew = crew
        self._server = server
        self._ledger = ledger
        self._pause = pause
        self._lease = options.lease
        self._chance = random.Random(f"{options.seed}/faults")
        self.counts: Counter[str] = Counter()
        self._faults: dict[str, tuple[int, Callable[[str], None]]] = {
            "worker killed": (4, self._kill_worker),
            "worker terminated": (4, self._terminate_worker),
            "worker frozen past its lease": (3, self._freeze_worker),
            "worker frozen and its name taken": (2, self._take_name),
            "Redis killed and restarted": (3, self._kill_redis),
            "Redis frozen": (3, self._freeze_redis),
            "all connections cut": (3, self._cut_connections),
        }

    def strike(self) -> None:
        weights = [weight for weight, _ in self._faults.values()]
        (name,) = self._chance.choices(list(self._faults), weights)
        self.counts[name] += 1
        self._faults[name][1](name)

    def _victim(self) -> Worker:
        """A worker that is at work, so that a signal finds it with its handlers in place."""
        if not self._wait(lambda: any(self._ready()), READY_SECONDS):
            raise SystemExit(f"no worker was ready within {READY_SECONDS:.0f} s")
        return self._chance.choice(self._ready())

    def _ready(self) -> list[Worker]:
        return [worker for worker in self._crew.workers if worker.ready]

    def _wait(self, condition: Callable[[], bool], within: float) -> bool:
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() >= deadline:
                return False
            self._pause(0.05)
        return True

    def _kill_worker(self, name: str) -> None:
        victim = self._victim()
        victim.process.kill()
        self._crew.departed(victim, victim.process.wait(), -signal.SIGKILL, after=name)

    def _terminate_worker(self, name: str) -> None:
        """It is waited for apart from the crew, which would fill its place at once."""
        victim = self._victim()
        self._crew.workers.remove(victim)
        victim.process.terminate()
        status = wait_for_exit(victim, self._pause)
        if status is None:
            self._ledger.trouble(f"worker {victim.name} did not end in time after SIGTERM")
        self._crew.departed(victim, status or 0, 0, after=name)

    def _freeze_worker(self, name: str) -> None:
        victim = self._victim()
        victim.process.send_signal(signal.SIGSTOP)
        self._pause(self._lease + self._chance.uniform(0.5, 2.0))
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
        took = self._wait(
            lambda: heir.ready or heir not in self._crew.workers, self._lease + READY_SECONDS
        )
        if not took:
            self._ledger.trouble(f"nobody could take the name {heir.name} of a frozen worker")
        victim.process.send_signal(signal.SIGCONT)
        if not self._wait(lambda: victim not in self._crew.superseded, EXIT_SECONDS):
            if heir in self._crew.workers:
                self._ledger.trouble(f"worker {victim.name} went on after its name was taken")
            victim.process.terminate()
            self._crew.departed(victim, wait_for_exit(victim, time.sleep) or 0, 0)
        heir.contended = False
        self._crew.expect_all(name)

    def _kill_redis(self, name: str) -> None:
        self._server.kill()
        self._pause(self._chance.uniform(0.0, LONGEST_DOWN_SECONDS))
        self._server.start()
        self._crew.expect_all(name)

    def _freeze_redis(self, name: str) -> None:
        os.kill(self._server.pid, signal.SIGSTOP)
        self._pause(self._chance.uniform(0.5, LONGEST_FREEZE_SECONDS))
        os.kill(self._server.pid, signal.SIGCONT)
        self._crew.expect_all(name)

    def _cut_connections(self, name: str) -> None:
        with redis.Redis.from_url(self._server.url, protocol=2) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        self._crew.expect_all(name)


# --- the whole ----------------------------------------------------------------------------------


class Soak:
    def __init__(self, options: argparse.Namespace, server: EmbeddedRedis, folder: Path) -> None:
        self._options = options
        self._server = server
        self._folder = folder
        self.ledger = Ledger()
        self._client = redis.Redis.from_url(server.url, socket_timeout=2.0, protocol=2)
        self.publisher = Publisher(server.url, self.ledger, options.seed, options.rate)
        self.collector = Collector(server.url, self.ledger, folder / "ends.jsonl")
        self.crew = Crew(server.url, self.ledger, folder, options)
        self.storm = Storm(self.crew, server, self.ledger, self.pause, options)
        self._started = self._next_minute = 0.0
        self._feeding = True

    def run(self) -> bool:
        """The whole of it; whether all is well."""
        self._started = time.monotonic()
        self._next_minute = self._started + 60
        for _ in range(self._options.workers):
            self.crew.hire()
        self.collector.start()
        self.publisher.start()
        end = self._started + self._options.minutes * 60
        next_fault = self._started
        while (next_fault := next_fault + self._options.fault_every) < end:
            self.pause(next_fault - time.monotonic())
            self.storm.strike()
            next_fault = max(next_fault, time.monotonic() - self._options.fault_every)
        self.pause(end - time.monotonic())
        self._await("every reader has taken up again", lambda: self.crew.all_resumed)
        self._feeding = False
        self.publisher.stop()
        seconds = time.monotonic() - self._started
        self._await("everything is worked off", self._worked_off, self._ended)
        self._await("only the living are present", self._only_the_living)
        self.crew.stop_all(self.pause)
        self.collector.stop()
        self.collector.finish()
        self._check_leftovers()
        return self._report(seconds)

    def pause(self, seconds: float) -> None:
        """Tend to everything for so long, and at least once."""
        deadline = time.monotonic() + seconds
        while True:
            self.crew.tend(feeding=self._feeding)
            if time.monotonic() >= self._next_minute:
                self._tell_minute()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.05, left))

    def _await(
        self,
        what: str,
        condition: Callable[[], bool],
        progress: Callable[[], int] = lambda: 0,
    ) -> None:
        """Wait until the condition holds, as long as there is progress at least now and then."""
        before, deadline = progress(), time.monotonic() + STILL_SECONDS
        while not condition():
            if (now := progress()) != before:
                before, deadline = now, time.monotonic() + STILL_SECONDS
            if time.monotonic() >= deadline:
                self.ledger.trouble(f"waited {STILL_SECONDS:.0f} s in vain until {what}")
                return
            self.pause(0.1)

    def _ended(self) -> int:
        return self.ledger.ended

    def _worked_off(self) -> bool:
        pending: Any = self._client.xpending(STREAM, GROUP)
        return bool(self._client.xlen(STREAM) == pending["pending"] == 0)

    def _only_the_living(self) -> bool:
        """Also that each has its signal handlers in place."""
        names: Any = self._client.zrange(KEYS.presence, 0, -1)
        living = {worker.name for worker in self.crew.workers}
        ready = all(worker.ready for worker in self.crew.workers)
        return ready and {name.decode() for name in names} == living

    def _check_leftovers(self) -> None:
        pending: Any = self._client.xpending(STREAM, GROUP)
        if pending["pending"]:
            self.ledger.trouble(f"{pending['pending']} entries are still pending")
        size: dict[bytes, Callable[[str], Any]] = {
            b"none": lambda _: 0,
            b"stream": self._client.xlen,
            b"zset": self._client.zcard,
            b"hash": self._client.hlen,
        }
        for key in KEYS.all():
            kind: Any = self._client.type(key)
            left = size[kind](key)
            if left:
                self.ledger.trouble(f"{key} has {left} entries left")
        consumers: Any = self._client.xinfo_consumers(STREAM, GROUP)
        names = {row["name"].decode() for row in consumers} - {"~parked"}
        if names:
            self.ledger.trouble(f"the group still has the consumers {sorted(names)}")

    # --- what is told ---

    def _tell_minute(self) -> None:
        minute = round((self._next_minute - self._started) / 60)
        self._next_minute += 60
        figures = self.ledger.figures()
        try:
            backlog = str(self._client.xlen(STREAM))
        except (redis.RedisError, OSError):
            backlog = "unknown"
        print(
            f"minute {minute}: published {figures.accepted}, finished {figures.done}, "
            f"dead {figures.dead}, faults {self.storm.counts.total()}, backlog {backlog}",
            flush=True,
        )

    def _report(self, seconds: float) -> bool:
        figures = self.ledger.figures()
        wrongs = self.ledger.wrongs(lambda number: str(job(self._options.seed, number)["act"]))
        troubles = self.ledger.troubles
        self._show(figures, seconds)
        for trouble in troubles:
            print(f"WRONG: {trouble}")
        for number, (wrong, fate) in list(wrongs.items())[:SHOWN]:
            print(f"WRONG: message {number} ({fate.id}): {wrong}")
        if len(wrongs) > SHOWN:
            print(f"WRONG: and {len(wrongs) - SHOWN} messages more")
        if wrongs or troubles:
            self._keep_evidence(wrongs)
        well = not wrongs and not troubles
        print(f"verdict            {'nothing lost, nothing doubled' if well else 'BROKEN'}")
        return well

    def _show(self, figures: Figures, seconds: float) -> None:
        info: Any = self._client.info("server")
        resumed, after = self.crew.longest_resumption
        deaths = listed(figures.deaths)
        again = figures.cut_off + figures.done_again
        rows = {
            "minutes": f"{seconds / 60:.1f}",
            "messages": f"{figures.accepted} accepted: {figures.acknowledged} acknowledged, "
            f"{figures.unknown_accepted} of {figures.unknown} unanswered",
            "ended": f"{figures.done} results, {figures.dead} dead letters ({deaths})",
            "lost": figures.lost,
            "published twice": figures.published_twice,
            "runs": f"{figures.runs}, of which {figures.failed} failed",
            "run twice": f"{again}: {figures.cut_off} cut off, {figures.done_again} done again",
            "died of others": f"{figures.innocent} messages that were in killed workers' hands",
            "faults": f"{self.storm.counts.total()}: {listed(self.storm.counts)}",
            "workers": listed(self.crew.counts),
            "longest standstill": f"{resumed:.1f} s until every reader was at work again ({after})",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
            "versions": f"Python {platform.python_version()}, redis-py {redis.__version__}, "
            f"Redis {info['redis_version']}",
            "seed": self._options.seed,
        }
        print()
        for label, value in rows.items():
            print(f"{label:<19}{value}")

    def _keep_evidence(self, wrongs: dict[int, tuple[str, Fate]]) -> None:
        """All that Redis still has about the wrong messages, and its data, into the folder."""
        told = {
            number: {
                "wrong": wrong,
                "job": job(self._options.seed, number),
                **asdict(fate),
                **self._sight(fate.id),
                "journals": self._journal_lines(number),
            }
            for number, (wrong, fate) in list(wrongs.items())[:SHOWN]
        }
        (self._folder / "evidence.txt").write_text(pformat(told, sort_dicts=False, width=120))
        data: Any = self._client.config_get("dir")
        shutil.copytree(data["dir"], self._folder / "redis", dirs_exist_ok=True)

    def _sight(self, message_id: str) -> dict[str, Any]:
        if not message_id:
            return {}
        return {
            "entry": self._client.xrange(STREAM, message_id, message_id),
            "pending": self._client.xpending_range(STREAM, GROUP, message_id, message_id, 1),
            "history": self._client.hget(KEYS.history, message_id),
            "due": self._client.zscore(KEYS.due, message_id),
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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=80.0, help="messages a second")
    parser.add_argument("--lease", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--fault-every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--redis-server", type=Path, metavar="PATH")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.randrange(10_000)
    signal.signal(signal.SIGTERM, exit_on_signal)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"seed {options.seed}, logs and journals in {folder}", flush=True)
    well = False
    with ExitStack() as stack:
        args = ["--appendonly", "yes", "--appendfsync", "always"]
        server = EmbeddedRedis(options.redis_server, extra_args=args, start_timeout=60.0)
        stack.enter_context(server)
        soak = Soak(options, server, folder)
        stack.callback(soak.crew.kill_all)
        well = soak.run()
    if well and not options.keep:
        shutil.rmtree(folder)
    else:
        print(f"the evidence is in {folder}")
    return 0 if well else 1


def exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
