"""What a worker of the fault suite does with a message: its processor.

`acts` of a message says what to do in each of its attempts, the last for all that follow: `exit /
wait go, fail` ends the process in the first attempt; in the second it waits until there is a file
`go`, and fails.

A module of its own and a function at its top level, so that a child process can import it. What it
is told comes with the environment, which a child has, too.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from hiredis import Reader, pack_command

from shared_sync import Message, Reject, current_message

Job = Mapping[str, str | bytes]
DEVICE_FAULT = "CUDA error: an illegal memory access was encountered"
VARIABLE = "FAULTS_WORKER"


_device_is_broken = threading.Event()


class _Reports:
    """Redis, where the runs are noted. Any thread may call any method.

    Hundreds of child processes do so, and each would take a quarter of a second to load a client.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)

    def note(self, *command: str | int) -> None:
        """Send a command, and wait until Redis has done it."""
        replies = Reader()
        with socket.create_connection(self._address, timeout=10) as connection:
            connection.sendall(pack_command(command))
            reply: object = False
            while reply is False:
                received = connection.recv(4096)
                if not received:
                    raise ConnectionError("Redis has closed the connection")
                replies.feed(received)
                reply = replies.gets()
        if isinstance(reply, Exception):
            raise reply


class _Told(NamedTuple):
    name: str
    folder: Path
    reports: _Reports
    acts: str


def tell(name: str, folder: Path, reports_url: str, acts_by_default: str) -> None:
    """Say who this worker is, to it and its children."""
    told = {"name": name, "folder": str(folder), "reports": reports_url, "acts": acts_by_default}
    os.environ[VARIABLE] = json.dumps(told)


@lru_cache(maxsize=1)
def _told() -> _Told:
    told = json.loads(os.environ[VARIABLE])
    return _Told(told["name"], Path(told["folder"]), _Reports(told["reports"]), told["acts"])


def process(message_id: str, job: Job) -> object:
    """Report the attempt, and do what the message asks for."""
    return _process(message_id, job, current_message().attempt)


def process_batch(messages: Sequence[Message]) -> list[object]:
    """Do so with one message after the other, and note how many came together."""
    _told().reports.note("RPUSH", "batches", len(messages))
    return [_process(one.id, one.fields, one.attempt) for one in messages]


def _process(message_id: str, job: Job, attempt: int) -> object:
    told = _told()
    run = ("message", message_id, "worker", told.name, "pid", os.getpid(), "attempt", attempt)
    told.reports.note("XADD", "runs", "*", *run)
    attempts = str(job.get("acts", told.acts)).split("/")
    try:
        for act in attempts[min(attempt, len(attempts)) - 1].split(","):
            perform(act, told.folder)
    except MemoryError:
        raise
    except Exception:
        told.reports.note("XADD", "runs", "*", "failed", message_id)
        raise
    return {"number": job["number"], "worker": told.name, "attempt": attempt}


def perform(act: str, folder: Path) -> None:
    """Do one act."""
    verb, _, what = act.strip().partition(" ")
    if verb == "fault" or _device_is_broken.is_set():
        _device_is_broken.set()  # until this process ends
        raise RuntimeError(DEVICE_FAULT)
    if verb == "sleep":
        threading.Event().wait(float(what))
    elif verb == "wait":
        while not (folder / what).exists():
            threading.Event().wait(0.01)
    elif verb == "report":
        _report_until(folder / what)
    elif verb == "fail":
        raise ValueError("as asked for")
    elif verb == "reject":
        raise Reject("as asked for")
    elif verb == "exit":
        os._exit(1)
    elif verb == "segfault":
        ctypes.string_at(0)
    elif verb == "loop":
        if not (what and (folder / what).exists()):
            re.match("(a+)+$", 60 * "a" + "b")  # in C, for ages, with the interpreter's lock
    elif verb == "hoard":
        hoard: tuple[object, ...] = ()
        while True:
            hoard = (hoard,)
    else:
        assert not verb, f"no act: {act}"


def _report_until(file: Path) -> None:
    """Report progress that grows, again and again, until the file exists."""
    message, name = current_message(), _told().name
    resumed = (message.resume_data or {}).get("progress")
    for step in range(100_000):
        message.report_progress(step / 100_000, worker=name, resumed=resumed)
        if file.exists():
            return
        threading.Event().wait(0.005)
