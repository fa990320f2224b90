"""The status of a group as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from shared_sync.group_status.consumers import Consumer
from shared_sync.group_status.problems import Problem
from shared_sync.group_status.status import Status

_COLUMNS = ("consumer", "state", "heartbeat", "pending", "oldest", "process")


def lines(status: Status) -> list[str]:
    """Return the status as lines: health, problems, sizes, consumers."""
    shown = [f"group {status.keys.group} of stream {status.keys.stream}: {status.health}"]
    for problem in status.problems:
        shown += problem_lines(problem)
    return [*shown, "", *_sizes(status), "", *_consumers(status)]


def line(status: Status) -> str:
    """Return the status on one line."""
    reading = status.reading
    rates = ""
    if status.rates is not None:
        rates = f", +{status.rates.arrivals:.1f}/s -{status.rates.completions:.1f}/s"
    paused = ", paused" if reading.pause else ""
    return (
        f"{status.health}{paused}: depth {status.depth} (waiting {reading.waiting}, in flight "
        f"{reading.pending - reading.parked}, parked {reading.parked}), dead "
        f"{_count(reading.dead)}, consumers {status.alive}{rates}"
    )


def problem_lines(problem: Problem) -> list[str]:
    """Return a problem, and what to do about it."""
    return [f"  {problem.health}: {problem.text}", f"    what to do: {problem.remedy}"]


def duration(seconds: float) -> str:
    """Return a length of time in words, rounded."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows with aligned columns; the first row has the titles."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _sizes(status: Status) -> list[str]:
    reading = status.reading
    waited = status.oldest_waiting_seconds
    oldest = "" if not reading.waiting else ", the oldest for an unknown time"
    if reading.waiting and waited is not None:
        oldest = f", the oldest for {duration(waited)}"
    next_seconds = status.next_parked_seconds
    parked = "" if next_seconds is None else f", the next attempt in {duration(next_seconds)}"
    rows = [
        ("depth", "1 message is not finished")
        if status.depth == 1
        else ("depth", f"{status.depth} messages are not finished"),
        ("waiting", f"{reading.waiting}{oldest}"),
        ("in flight", f"{reading.pending - reading.parked}"),
        ("parked", f"{reading.parked}{parked}"),
        ("dead letters", _count(reading.dead)),
        ("scheduled", _count(reading.scheduled)),
        *_rates(status),
    ]
    pause = reading.pause
    if pause is not None:
        why = f": {pause.reason}" if pause.reason else ""
        since = duration(max(0.0, (reading.now_ms - pause.at_ms) / 1000))
        rows.append(("paused", f"for {since} by {pause.by}{why}"))
    return table(rows)


def _rates(status: Status) -> list[tuple[str, str]]:
    if status.rates is None:
        return [("rates", "not known: the server does not count, or may not be asked")]
    over = f"a second, measured over {duration(status.rates.seconds)}"
    seconds = status.seconds_to_empty
    to_empty = "never at these rates" if seconds is None else duration(seconds)
    if status.reading.pause is not None:
        to_empty = "not before the group is resumed"
    return [
        ("arrivals", f"{status.rates.arrivals:.1f} {over}"),
        ("completions", f"{status.rates.completions:.1f} {over}"),
        ("time to empty", to_empty if status.depth else "it is empty"),
    ]


def _consumers(status: Status) -> list[str]:
    if not status.consumers:
        return ["no consumers"]
    is_paused = status.reading.pause is not None
    rows = [_consumer(one, is_paused=is_paused) for one in status.consumers]
    more = status.reading.consumers_total - len(rows)
    return [*table([_COLUMNS, *rows]), *([f"and {more} more"] if more > 0 else [])]


def _consumer(one: Consumer, *, is_paused: bool) -> tuple[str, ...]:
    silence, oldest = one.last_heartbeat_seconds, one.oldest_pending_seconds
    state = f"{one.state.value}, paused" if is_paused and one.has_paused else one.state.value
    return (
        one.name,
        state,
        "-" if silence is None else f"{duration(silence)} ago",
        str(one.pending),
        "-" if oldest is None else duration(oldest),
        f"{one.pid} on {one.host}" if one.host else "-",
    )


def _count(number: int | None) -> str:
    return "not known" if number is None else str(number)
