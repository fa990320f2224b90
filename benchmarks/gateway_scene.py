"""A speech service with three gateways, whose workers, Redis and gateways are killed; then count.

    python benchmarks/gateway_scene.py [--requests N] [--rate N] [--lease S] [--reply-ttl S]
                                       [--isolation thread|process] [--redis-server PATH] [--keep]

Clients send requests through three gateways. Two speech-to-text workers turn audio into text and
hand it on to a translation worker, whose result goes back to the gateway that asked. Meanwhile

- a speech-to-text worker is killed with SIGKILL, and another one started;
- Redis (AOF, appendfsync always) is killed with SIGKILL, is away for 2 s, and starts again;
- all workers are terminated with SIGTERM, one after the other, and others are started;
- a gateway is killed with SIGKILL, and another one sends the rest of its requests.

The exit status is 1 if a gateway that lived to the end misses a result or has one twice or wrong,
if anything is left behind in Redis, or if the reply stream of the killed gateway outlives its time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import redis
from scene_journal import GatewayJournal
from scene_process import AUDIO, TEXTS

from shared_sync.connection.embedded import EmbeddedRedis

PROGRAM = Path(__file__).with_name("scene_process.py")
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
REPLIES = "{speech}:*:replies:*"
GATEWAYS = 3
KILLED = "gateway-3"
REDIS_AWAY_SECONDS = 2.0
EXIT_SECONDS = 30.0
END_SECONDS = 90.0
"""Longest that results may still come in after the last request."""
LATE_SECONDS = 1.0
"""How much later than its time a stream may be gone."""
POLL_SECONDS = 0.1


class Process:
    """One process of the scene."""

    def __init__(self, folder: Path, log: str, **given: Any) -> None:
        with (folder / f"{log}.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(EXIT_SECONDS)

    def dismiss(self) -> int:
        """Close its standard input, at which a gateway leaves, and return the exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(EXIT_SECONDS)


class Scene:
    """The service: its processes, and what is done to them."""

    def __init__(self, options: argparse.Namespace, server: EmbeddedRedis, folder: Path) -> None:
        # Fixed after construction.
        self._options = options
        self._server = server
        self._folder = folder
        self._client = redis.Redis.from_url(server.url, decode_responses=True)
        self._each = options.requests // GATEWAYS
        self._per_second = options.rate / GATEWAYS
        self.mistakes: list[str] = []
        # Those that run now, by name.
        self._workers: dict[str, Process] = {}
        self._gateways: dict[str, Process] = {}
        self._streams_at_kill: set[str] = set()
        self._killed_at = 0.0
        self._gone_after: float | None = None

    def play(self) -> bool:
        """Play the scene, print its figures, and return whether nothing was wrong."""
        for name in ("stt-1", "stt-2", "translation-1"):
            self._start_worker(name)
        self._until(lambda: len(self._client.keys("{speech}:*:presence")) == 2, EXIT_SECONDS)
        started = time.monotonic()
        for number in range(1, GATEWAYS + 1):
            self._start_gateway(f"gateway-{number}", first=0)
        seconds = self._each / self._per_second
        acts = (
            (0.15, self._kill_worker),
            (0.35, self._restart_redis),
            (0.6, self._restart_workers),
            (0.8, self._restart_gateway),
        )
        for share, act in acts:
            time.sleep(max(0.0, started + share * seconds - time.monotonic()))
            print(f"{time.monotonic() - started:5.1f} s: {act.__doc__}", flush=True)
            act()
        if not self._until(self._all_answered, seconds + END_SECONDS):
            self.mistakes.append("not every request has ended")
        self._until(self._old_stream_is_gone, self._options.reply_ttl + 2 * LATE_SECONDS)
        self._judge()
        return not self.mistakes

    def close(self) -> None:
        for process in (*self._workers.values(), *self._gateways.values()):
            process.kill()
        self._client.close()

    # --- the acts ---

    def _kill_worker(self) -> None:
        """a speech-to-text worker is killed, and another one started"""
        self._workers.pop("stt-1").kill()
        self._start_worker("stt-3")

    def _restart_redis(self) -> None:
        """Redis is killed, and started again 2 s later"""
        self._server.kill()
        time.sleep(REDIS_AWAY_SECONDS)
        self._server.start()

    def _restart_workers(self) -> None:
        """all workers are terminated, one after the other, and others started"""
        for name in tuple(self._workers):
            role, _, number = name.partition("-")
            status = self._workers.pop(name).terminate()
            if status != 0:
                self.mistakes.append(f"{name} has ended with exit status {status}")
            self._start_worker(f"{role}-{int(number) + 3}")

    def _restart_gateway(self) -> None:
        """a gateway is killed, and another one sends the rest of its requests"""
        self._streams_at_kill = set(self._client.keys(REPLIES))
        self._gateways.pop(KILLED).kill()
        self._killed_at = time.monotonic()
        self._start_gateway("gateway-4", max(self._journal(KILLED).sent, default=-1) + 1)

    # --- the end ---

    def _all_answered(self) -> bool:
        self._old_stream_is_gone()  # to note when
        journals = {name: self._journal(name) for name in self._gateways}
        made = sum(len(journal.sent) for journal in journals.values())
        killed = len(self._journal(KILLED).sent)
        return made + killed >= self._each * GATEWAYS and all(
            journal.is_complete for journal in journals.values()
        )

    def _old_stream_is_gone(self) -> bool:
        if self._gone_after is None and self._streams_at_kill - set(self._client.keys(REPLIES)):
            self._gone_after = time.monotonic() - self._killed_at
        return self._gone_after is not None

    def _judge(self) -> None:
        """Compare the journals with what is in Redis, and print both."""
        journals = {name: self._journal(name) for name in self._gateways}
        for name, journal in journals.items():
            self.mistakes += [f"{name}: {text}" for text in journal.mistakes()]
        written = self._entries_written()
        requests = sum(len(journal.sent) for journal in journals.values())
        if written is not None and written != requests:
            self.mistakes.append(f"{written} results were written for {requests} requests")
        latencies = sorted(one for journal in journals.values() for one in journal.latencies())
        killed = self._journal(KILLED)
        print(f"requests of living gateways    {requests}")
        ended = sum(len(journal.ended) for journal in journals.values())
        print(f"results                        {ended}")
        print(f"results written                {'unknown' if written is None else written}")
        print(
            f"of the killed gateway          {len(killed.sent)} requests, "
            f"{len(killed.sent) - len(killed.ended)} without a result when it was killed"
        )
        if len(latencies) > 1:
            print(
                f"seconds to the result          p50 {median(latencies):.2f}, "
                f"p95 {quantiles(latencies, n=20)[-1]:.2f}, longest {latencies[-1]:.2f}"
            )
        self._judge_leftovers()
        for text in self.mistakes:
            print(f"WRONG: {text}")
        print("nothing is wrong" if not self.mistakes else f"{len(self.mistakes)} mistakes")

    def _entries_written(self) -> int | None:
        """Count the results that living gateways were ever sent; None if Redis does not count."""
        streams = self._client.keys(REPLIES)
        counts = [self._client.xinfo_stream(key).get("entries-added") for key in streams]
        # A stream was made with one entry, which was removed.
        return None if None in counts else sum(counts) - len(counts)

    def _judge_leftovers(self) -> None:
        """Dismiss the gateways, and look for what should not be in Redis any more."""
        if self._gone_after is None:
            self.mistakes.append("the reply stream of the killed gateway is still there")
        else:
            print(f"its reply stream was gone      {self._gone_after:.1f} s after the kill")
        for name in tuple(self._gateways):
            if self._gateways.pop(name).dismiss() != 0:
                self.mistakes.append(f"{name} has not ended well")
        for stream in (AUDIO, TEXTS):
            if left := self._client.xlen(stream):
                self.mistakes.append(f"{left} messages are left in {stream}")
        for pattern in (REPLIES, "{speech}:*:dead"):
            if keys := self._client.keys(pattern):
                self.mistakes.append(f"left in Redis: {', '.join(sorted(keys))}")

    # --- processes ---

    def _start_worker(self, name: str) -> None:
        role = name.partition("-")[0]
        given = {
            "role": role,
            "url": self._server.url,
            "name": name,
            "lease_seconds": self._options.lease,
            "isolation": self._options.isolation,
        }
        self._workers[name] = Process(self._folder, name, **given)

    def _start_gateway(self, name: str, first: int) -> None:
        given = {
            "role": "gateway",
            "url": self._server.url,
            "name": name,
            "journal": str(self._folder / f"{name}.journal"),
            "first": first,
            "count": self._each - first,
            "per_second": self._per_second,
            "ttl": self._options.reply_ttl,
        }
        self._gateways[name] = Process(self._folder, name, **given)

    def _journal(self, name: str) -> GatewayJournal:
        return GatewayJournal.read(self._folder / f"{name}.journal")

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rate", type=float, default=12.0, help="requests a second")
    parser.add_argument("--lease", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--reply-ttl", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--isolation", default="thread", choices=("thread", "process"))
    parser.add_argument("--redis-server", type=Path, metavar="PATH")
    parser.add_argument("--keep", action="store_true", help="keep the logs and journals")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scene-"))
    well = False
    try:
        with EmbeddedRedis(options.redis_server, extra_args=DURABLE) as server:
            scene = Scene(options, server, folder)
            try:
                well = scene.play()
            finally:
                scene.close()
    finally:
        if well and not options.keep:
            shutil.rmtree(folder)
        else:
            print(f"logs and journals are in {folder}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
