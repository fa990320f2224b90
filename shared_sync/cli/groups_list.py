"""shared-sync groups list: the groups of a stream, with what each of them holds back."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shared_sync.cli.grammar import DONE, add_command
from shared_sync.cli.options import add_stream
from shared_sync.cli.output import Output, add_json
from shared_sync.cli.redis_options import add_redis

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands
    from shared_sync.protocol.group_list import ListedGroup

_COLUMNS = ("group", "waiting", "pending", "consumers", "idle", "last delivered", "holds back")


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "list",
        summary="list the groups of a stream",
        description="Lists the groups of a stream. Each group gets every message, and an entry is "
        "deleted when the last group has finished it: 'holds back' are the entries that only this "
        "group still needs.",
        run=run,
    )
    add_redis(parser)
    add_stream(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """List the groups. Raises errors of the connection."""
    from shared_sync.cli import redis_access, status_text  # noqa: PLC0415 - load Redis
    from shared_sync.protocol import group_list  # noqa: PLC0415 - as above

    with redis_access.connect(options) as connection:
        redis_access.check_stream_and_group(connection, options.stream)
        found = group_list.read(connection, options.stream)
    output = Output(options)
    if not options.json:
        rows = status_text.table([_COLUMNS, *map(_row, found)])
        for line in rows if found else [f"stream {options.stream} has no groups"]:
            output.show({}, line)
        return DONE
    for group in found:
        output.show(_document(options.stream, group))
    return DONE


def _row(group: ListedGroup) -> tuple[str, ...]:
    from shared_sync.cli.status_text import duration  # noqa: PLC0415 - loads Redis

    reading, seconds = group.reading, group.holds_back_seconds
    entries = "entry" if group.holds_back == 1 else "entries"
    held = "-" if group.holds_back == 0 else f"{group.holds_back or '?'} {entries}"
    if seconds is not None:
        held += f", the oldest for {duration(seconds)}"
    paused = " (paused)" if reading.pause else ""
    return (
        f"{group.name}{paused}",
        str(reading.waiting),
        str(reading.pending),
        str(reading.leases),
        "-" if group.idle_seconds is None else duration(group.idle_seconds),
        group.last_delivered_id,
        held,
    )


def _document(stream: str, group: ListedGroup) -> dict[str, object]:
    return {
        "stream": stream,
        "group": group.name,
        "waiting": group.reading.waiting,
        "lag": group.reading.unread,
        "pending": group.reading.pending,
        "parked": group.reading.parked,
        "dead": group.reading.dead,
        "consumers_alive": group.reading.leases,
        "paused": group.reading.pause is not None,
        "idle_seconds": group.idle_seconds,
        "last_delivered_id": group.last_delivered_id,
        "holds_back": group.holds_back,
        "holds_back_seconds": group.holds_back_seconds,
    }
