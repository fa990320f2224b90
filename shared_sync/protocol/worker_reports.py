"""Worker reports: what a worker says of itself with its heartbeats, and how others read it.

A report is stored as three lines: the server's time in ms, the token of the process and the number
of its last event; who the worker is, and which messages it runs; and the rest. The last two are
JSON. If the worker dies, the second line becomes part of the event that says so.

Reports are written by other processes, perhaps by hostile ones: reading one never fails, and what
makes no sense in it is unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.connection import scripts
from shared_sync.connection.scripts import Command
from shared_sync.metrics.histogram import Histogram
from shared_sync.protocol.keys import Keys

MOST_JOBS: Final = 20
"""Running messages of a worker that are reported one by one."""

MOST_IDS: Final = 10
MOST_REASONS: Final = 5
MAY_NOT_EXPIRE: Final = 2
"""The reply to a report of a user who may not let keys expire."""

LONGEST_TEXT: Final = 200
LARGEST_NUMBER: Final = 1e15
STATES: Final = ("loading", "running", "paused", "draining")
JOB_STATES: Final = ("running", "late", "stuck")


@dataclass(frozen=True, slots=True)
class ReportedProcess:
    """Who a worker is, and what it runs."""

    host: str
    pid: int
    version: str
    """Of this library."""
    release: str
    """Of the program, as it says; '' if it does not."""
    started_at: float
    """In seconds since 1970, by the server's clock."""
    threads: int
    running: int
    """How many messages it runs."""
    message_ids: Sequence[str]
    """The ids of some of them, `MOST_IDS` at most."""

    def to_line(self) -> str:
        """Return the line that `parse_process()` reads."""
        fields = {
            **{"host": self.host, "pid": self.pid, "version": self.version},
            **{"release": self.release, "started_at": round(self.started_at, 3)},
            **{"threads": self.threads, "running": self.running},
            "ids": list(self.message_ids[:MOST_IDS]),
        }
        return json.dumps(fields)


@dataclass(frozen=True, slots=True)
class ReportedJob:
    """A message that a worker runs."""

    message_id: str
    reader: str
    state: str
    """`running`, `late` or `stuck`."""
    attempt: int
    seconds: float
    """For how long it ran when that was reported."""
    progress: float | None
    """The share that is done, 0 to 1."""

    def to_list(self) -> list[Any]:
        """Return the form that a report has."""
        seconds = round(self.seconds, 1)
        return [self.message_id, self.reader, self.state, self.attempt, seconds, self.progress]


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker reports of itself."""

    process: ReportedProcess
    state: str
    """`loading`, `running`, `paused` or `draining`."""
    paused: Sequence[str]
    """Why it takes no messages, `MOST_REASONS` at most."""
    done: int
    retried: int
    dead: int
    """How many messages had each outcome since it started."""
    done_per_second: float | None
    """Over the last minute; None if it has just started."""
    jobs: Sequence[ReportedJob]
    """The messages that have run longest, `MOST_JOBS` at most."""
    window_seconds: float = 0.0
    latency: Histogram | None = None
    queue_wait: Histogram | None = None
    """Durations of the last `window_seconds`; None if the worker measures none."""


@dataclass(frozen=True, slots=True)
class StoredReport:
    """A report as it was read."""

    name: str
    """The consumer."""
    at_ms: int
    """When it was stored, by the server's clock."""
    report: WorkerReport


def rest_of_report(
    report: WorkerReport,
    *,
    latency: Mapping[str, Any] | None,
    queue_wait: Mapping[str, Any] | None,
) -> str:
    """Return the third line of a report. The durations are as `recent_durations()` returns them."""
    fields = {
        "state": report.state,
        "paused": [reason[:LONGEST_TEXT] for reason in report.paused[:MOST_REASONS]],
        "outcomes": [report.done, report.retried, report.dead],
        "per_second": report.done_per_second,
        "jobs": [job.to_list() for job in report.jobs[:MOST_JOBS]],
        "latency": latency,
        "queue_wait": queue_wait,
    }
    return json.dumps(fields, separators=(",", ":"))


def publish(
    keys: Keys,
    who: tuple[str, str, str],
    lease_ms: int,
    process: ReportedProcess,
    rest: str,
    first_event: int,
    events: Sequence[tuple[int, Sequence[bytes]]],
    *,
    expires: bool = True,
) -> Command:
    """Return the command that stores a report, and records events that the worker has noticed.

    `who` is the consumer, its identity, and a token of the process. Each event is one of
    `event_items()`, with the ms within which the group needs only one of its kind; 0 for all.
    `first_event` is the number of the first one: 1 for the first that the process has. `expires`
    lets the keys expire in a week. The reply is 1, or `MAY_NOT_EXPIRE`, or 0 if another process has
    claimed the name.
    """
    keys_used = [keys.presence, keys.holders, keys.outage, keys.reports, keys.events]
    arguments: list[object] = [*who, process.release, process.to_line(), rest]
    arguments += (first_event, "1" if expires else "", lease_ms, len(events))
    for within_ms, items in events:
        arguments += (within_ms, len(items), *items)
    return scripts.call("worker_report", keys_used, *arguments)


def sign_off(keys: Keys, consumer: str, identity: str, event: Sequence[bytes]) -> Command:
    """Return the command that removes the report of a worker that leaves."""
    keys_used = [keys.holders, keys.reports, keys.events]
    return scripts.call("sign_off", keys_used, consumer, identity, *event)


# --- reading ---


def parse_report(name: bytes, stored: bytes) -> StoredReport | None:
    """Return the report of a consumer, or None if it cannot be read."""
    try:
        first, process_line, rest_line = stored.split(b"\n", 2)
        at_ms = int(first.partition(b" ")[0])
        rest = json.loads(rest_line)
    except (ValueError, RecursionError):
        return None
    process = parse_process(process_line)
    if process is None or not isinstance(rest, dict) or not 0 <= at_ms <= LARGEST_NUMBER:
        return None
    outcomes = _list(rest.get("outcomes"))
    done, retried, dead = [_whole(number) for number in [*outcomes[:3], 0, 0, 0][:3]]
    latency, queue_wait = rest.get("latency"), rest.get("queue_wait")
    windows = [
        _number(one.get("seconds")) for one in (latency, queue_wait) if isinstance(one, dict)
    ]
    reasons = [_text(reason) for reason in _list(rest.get("paused"))[:MOST_REASONS]]
    jobs = [_parse_job(job) for job in _list(rest.get("jobs"))[:MOST_JOBS]]
    report = WorkerReport(
        process=process,
        state=_one_of(STATES, rest.get("state")),
        paused=[reason for reason in reasons if reason],
        done=done,
        retried=retried,
        dead=dead,
        done_per_second=_number(rest.get("per_second")),
        jobs=[job for job in jobs if job is not None],
        window_seconds=max((window for window in windows if window is not None), default=0.0),
        latency=Histogram.parse(latency),
        queue_wait=Histogram.parse(queue_wait),
    )
    return StoredReport(_text(name.decode(errors="backslashreplace")), at_ms, report)


def parse_process(line: bytes) -> ReportedProcess | None:
    """Return who a worker is, or None if the line says nothing that can be read."""
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        return None
    ids = [_text(one) for one in _list(facts.get("ids"))[:MOST_IDS]]
    return ReportedProcess(
        host=_text(facts.get("host")),
        pid=_whole(facts.get("pid")),
        version=_text(facts.get("version")),
        release=_text(facts.get("release")),
        started_at=_number(facts.get("started_at")) or 0.0,
        threads=_whole(facts.get("threads")),
        running=_whole(facts.get("running")),
        message_ids=[one for one in ids if one],
    )


def _parse_job(form: object) -> ReportedJob | None:
    parts = [*_list(form), *[None] * 6][:6]
    message_id, seconds, progress = _text(parts[0]), _number(parts[4]), _number(parts[5])
    if not message_id:
        return None
    if progress is not None and progress > 1:
        progress = None
    state = _one_of(JOB_STATES, parts[2])
    return ReportedJob(
        message_id, _text(parts[1]), state, _whole(parts[3]), seconds or 0.0, progress
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    """Return a text without what is no valid Unicode, cut to a length; '' for anything else."""
    if not isinstance(value, str):
        return ""
    return value[:LONGEST_TEXT].encode(errors="replace").decode()


def _number(value: object) -> float | None:
    """Return a number of 0 or more that is not absurd; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= LARGEST_NUMBER else None


def _whole(value: object) -> int:
    number = _number(value)
    return 0 if number is None else math.floor(number)


def _one_of(names: Sequence[str], value: object) -> str:
    return value if isinstance(value, str) and value in names else "running"
