"""What the workers of a group report of themselves, read at once, and what it says together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.connection import driver_errors, scripts
from shared_sync.connection.scripts import Command
from shared_sync.errors import SharedSyncError
from shared_sync.metrics.histogram import Histogram
from shared_sync.protocol.events import Event, parse_event
from shared_sync.protocol.group_memory import GroupMemory, Vanished
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.worker_reports import StoredReport, parse_report

MOST_WORKERS: Final = 100
MOST_JOBS: Final = 100
MOST_EVENTS: Final = 100
"""Of each so many are shown."""


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What was read. Where it was refused, the error stands in its place."""

    now_ms: int
    """The time of the server."""
    alive: int
    """How many consumers live."""
    reports: Sequence[StoredReport] | SharedSyncError
    """By name; `MOST_WORKERS` at most, and only of consumers that live."""
    events: Sequence[Event] | SharedSyncError
    """The newest first; none if there are no new ones."""


def read(keys: Keys, *, known_event: str, most_reports: int = MOST_WORKERS) -> Command:
    """Return the command that reads it; the reply is for `parse()`.

    `known_event` is the id of the newest event of the last reading; '' to read them in any case.
    """
    keys_used = [keys.presence, keys.reports, keys.events]
    return scripts.call("group_report", keys_used, most_reports, MOST_EVENTS, known_event)


def parse(reply: Any) -> GroupReport:
    """Return what the server says."""
    now_ms, alive, reports, events = reply
    found = [] if isinstance(reports, bytes) else [parse_report(*one) for one in reports]
    entries = [] if isinstance(events, bytes) else [parse_event(entry) for entry in events]
    return GroupReport(
        now_ms,
        alive,
        _refusal(reports) or [one for one in found if one is not None],
        _refusal(events) or [event for event in entries if event is not None],
    )


def _refusal(part: Any) -> SharedSyncError | None:
    return driver_errors.refusal(part) if isinstance(part, bytes) else None


# --- as JSON, for the page ---


def to_json(found: GroupReport | SharedSyncError, memory: GroupMemory) -> dict[str, Any]:
    """Return the report of the group, with what this process remembers of the last hour.

    `found` is the error if Redis has refused to say anything.
    """
    if isinstance(found, SharedSyncError):
        return {"reasons": [_why_not_shown("the workers' reports and the events", found)]}
    reasons = [
        _why_not_shown(what, part)
        for what, part in (("the workers' reports", found.reports), ("the events", found.events))
        if isinstance(part, SharedSyncError)
    ]
    reports = () if isinstance(found.reports, SharedSyncError) else found.reports
    jobs, jobs_total = _jobs(reports, found.now_ms)
    releases = Counter(one.report.process.release for one in reports)
    if found.alive > len(reports):
        releases[""] += found.alive - len(reports)
    rates = [one.report.done_per_second for one in reports]
    known_rates = [rate for rate in rates if rate is not None]
    return {
        "window_seconds": max((one.report.window_seconds for one in reports), default=0.0),
        "latency": _durations(one.report.latency for one in reports),
        "queue_wait": _durations(one.report.queue_wait for one in reports),
        "done_per_second": _rate(sum(known_rates)) if known_rates else None,
        "workers_measured": sum(one.report.latency is not None for one in reports),
        "workers_total": found.alive,
        "releases": dict(releases),
        "workers": [_show_worker(one, found.now_ms) for one in reports],
        "jobs": jobs,
        "jobs_total": jobs_total,
        "alive": memory.alive(),
        "vanished": [_show_vanished(one, found.now_ms) for one in memory.vanished()],
        "events": [_show_event(event, found.now_ms) for event in memory.events()[:MOST_EVENTS]],
    } | ({"reasons": reasons} if reasons else {})


def _why_not_shown(what: str, error: SharedSyncError) -> str:
    """Return the reason in our own words, since those of the server have the user's name."""
    code = getattr(error, "code", None)
    why = f"Redis refused it ({code})" if code else "this Redis user may not read them"
    return f"{what} are not shown: {why}"


def _durations(parts: Iterable[Histogram | None]) -> dict[str, Any] | None:
    merged = Histogram.merged(part for part in parts if part is not None)
    if not merged.count:
        return None
    shown = {"mean_ms": merged.mean(), "max_ms": merged.maximum()}
    names = ("p50_ms", "p95_ms", "p99_ms")
    shown |= dict(zip(names, merged.quantiles(0.5, 0.95, 0.99), strict=True))
    in_ms = {name: round((seconds or 0.0) * 1000, 3) for name, seconds in shown.items()}
    return {"count": merged.count, **in_ms}


def _rate(per_second: float) -> float:
    return round(per_second, 3)


def _seconds(from_ms: float, to_ms: float) -> float:
    """Return the time between two moments; 0 if the clock of one of them is ahead."""
    return round(max(0.0, to_ms - from_ms) / 1000, 1)


def _show_worker(stored: StoredReport, now_ms: int) -> dict[str, Any]:
    report, process = stored.report, stored.report.process
    rate = report.done_per_second
    return {
        "name": stored.name,
        "host": process.host,
        "pid": process.pid,
        "version": process.version,
        "release": process.release or None,
        "state": report.state,
        "paused": list(report.paused),
        "started_seconds": _seconds(process.started_at * 1000, now_ms),
        "report_seconds": _seconds(stored.at_ms, now_ms),
        "threads": process.threads,
        "running": process.running,
        "done": report.done,
        "retried": report.retried,
        "dead": report.dead,
        "done_per_second": None if rate is None else _rate(rate),
        "latency": _durations([report.latency]),
        "queue_wait": _durations([report.queue_wait]),
    }


def _jobs(reports: Sequence[StoredReport], now_ms: int) -> tuple[list[dict[str, Any]], int]:
    """Return the running messages, the longest first, and how many there are in all."""
    rows: list[dict[str, Any]] = [
        {
            "message_id": job.message_id,
            "worker": stored.name,
            "reader": job.reader,
            "state": job.state,
            "attempt": job.attempt,
            "seconds": round(job.seconds + _seconds(stored.at_ms, now_ms), 1),
            "progress": job.progress,
        }
        for stored in reports
        for job in stored.report.jobs
    ]
    rows.sort(key=lambda row: row["seconds"], reverse=True)
    total = sum(max(stored.report.process.running, len(stored.report.jobs)) for stored in reports)
    return rows[:MOST_JOBS], total


def _show_vanished(vanished: Vanished, now_ms: int) -> dict[str, Any]:
    return {
        "name": vanished.name,
        "host": vanished.host or None,
        "pid": vanished.pid or None,
        "release": vanished.release or None,
        "seconds_ago": _seconds(vanished.at_ms, now_ms),
        "pending": vanished.pending,
        "message_ids": list(vanished.message_ids),
    }


def _show_event(event: Event, now_ms: int) -> dict[str, Any]:
    return {
        "id": event.id,
        "time": min(event.at_ms, now_ms) / 1000,
        "seconds_ago": _seconds(event.at_ms, now_ms),
        "kind": event.kind,
        "worker": event.worker or None,
        "who": event.who or None,
        "text": event.text,
    }
