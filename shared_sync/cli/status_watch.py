"""Shows the status of a group again and again, also while Redis is away."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import TextIO

from shared_sync.cli import status_text
from shared_sync.cli.output import Output
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisRefused, RedisUnavailable
from shared_sync.group_status import GroupStatus, Problem, Status
from shared_sync.group_status.problems import UNHEALTHY

_DRAW_ANEW = "\x1b[H\x1b[2J"
"""Moves the cursor of a terminal to its first line, and clears the screen."""


def watch(
    group: GroupStatus,
    connection: Connection,
    output: Output,
    *,
    period_seconds: float,
    file: TextIO,
) -> None:
    """Show the status until Ctrl-C. A terminal is drawn anew each time, all else gets lines."""
    shown_problems: list[str] = []
    away_since: float | None = None
    try:
        while True:
            try:
                status = group.read(connection)
            except (RedisUnavailable, RedisRefused) as error:
                since = time.monotonic() if away_since is None else away_since
                _show_outage(output, error, since, file, is_new=away_since is None)
                away_since = since
            else:
                away_since = None
                shown_problems = _show(output, status, shown_problems, file)
            threading.Event().wait(period_seconds)
    except KeyboardInterrupt:
        return


def _show(output: Output, status: Status, before: list[str], file: TextIO) -> list[str]:
    """Show a status; return what is wrong, so that a line says it only when it begins."""
    if file.isatty():
        _clear(output, file)
        output.show(status.to_json(), f"{_now()}  Ctrl-C ends it", *status_text.lines(status))
        return []
    new = [one for one in status.problems if one.text not in before]
    problems = [line for one in new for line in status_text.problem_lines(one)]
    output.show(status.to_json(), f"{_now()} {status_text.line(status)}", *problems)
    return [one.text for one in status.problems]


def _show_outage(
    output: Output, error: Exception, since: float, file: TextIO, *, is_new: bool
) -> None:
    """Say that Redis does not answer. What was shown before is not current, so it goes."""
    length = "does not answer"
    if not is_new:
        length = f"has not answered for {status_text.duration(time.monotonic() - since)}"
    problem = Problem(
        "redis_away",
        UNHEALTHY,
        f"Redis {length}: {error}",
        "see whether the server runs and can be reached; this goes on by itself",
    )
    _clear(output, file)
    output.show(
        {"health": problem.health, "problems": [problem.to_json()]},
        f"{_now()} {problem.health}: {problem.text}",
        *([f"    what to do: {problem.remedy}"] if is_new or file.isatty() else []),
    )


def _clear(output: Output, file: TextIO) -> None:
    if file.isatty() and not output.is_json:
        print(_DRAW_ANEW, end="", file=file, flush=True)


def _now() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
