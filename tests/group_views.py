"""What tests of the view of a group share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile

import redis
from consumers import DEAD, GROUP, STREAM
from helpers import start_program
from protocol_client import KEYS

from shared_sync.connection import discovery
from shared_sync.protocol.inspection import GroupView

EMPTY: dict[str, object] = {
    "stream": STREAM,
    "group": GROUP,
    "consumers": [],
    "consumers_total": 0,
    "parked": [],
    "parked_total": 0,
    "dead_letters": [],
    "dead_letters_total": 0,
}

EMPTY_REPORT = {
    "window_seconds": 0.0,
    "latency": None,
    "queue_wait": None,
    "done_per_second": None,
    "workers_measured": 0,
    "workers_total": 0,
    "releases": {},
    "workers": [],
    "jobs": [],
    "jobs_total": 0,
    "vanished": [],
    "events": [],
}


def view_of(url: str) -> GroupView:
    return GroupView(discovery.connector(url, key=STREAM, reply_timeout_seconds=5), KEYS)


def add_dead_letter(client: redis.Redis, **metadata: object) -> str:
    """Add a dead letter as a consumer writes it, or as something else does; return its id."""
    fields = {"audio": b"\xff\x00", **{f"dead.{name}": value for name, value in metadata.items()}}
    added = client.xadd(DEAD, fields)
    return added.decode() if isinstance(added, bytes) else ""  # a pipeline has no id yet


def commands_during(client: redis.Redis, act: Callable[[], object]) -> list[tuple[str, str]]:
    """Return the commands that the server runs meanwhile, each with who sent it.

    That is "lua" for a command of a script.
    """
    with client.monitor() as monitor:
        act()
        client.ping()
        lines = iter(monitor.next_command, None)
        until_ping = takewhile(lambda line: line["command"] != "PING", lines)
        return [(line["client_type"], line["command"]) for line in until_ping]


@contextmanager
def worker_process(url: str, *, lease_seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, whose processor never returns."""
    code = (
        "import sys, threading\n"
        "from shared_sync import RedisStreamConsumer\n"
        "RedisStreamConsumer(\n"
        f"    sys.argv[1], {STREAM!r}, {GROUP!r}, 'doomed', None,\n"
        f"    lambda *_: threading.Event().wait(), lease_seconds={lease_seconds},\n"
        ").start_consuming()\n"
    )
    process = start_program([sys.executable, "-c", code, url])
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
