"""shared-sync groups drop: remove a group, such as one whose name was mistyped."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from shared_sync.cli import operator
from shared_sync.cli.grammar import DONE, CommandFailed, add_command
from shared_sync.cli.options import add_stream
from shared_sync.cli.output import Output, add_json
from shared_sync.cli.redis_options import add_redis

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands
    from shared_sync.protocol.dropping import Dropped


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "drop",
        summary="remove a group of a stream",
        description="Removes a group and the keys that belong to it, and deletes the entries of "
        "the stream that only this group still kept. Its dead letters stay.",
        run=run,
    )
    add_redis(parser)
    add_stream(parser)
    parser.add_argument("group", metavar="GROUP", help="the group to remove")
    parser.add_argument(
        "--force",
        action="store_true",
        help="also if messages are pending, consumers live, or it is the only group",
    )
    parser.add_argument(
        "--with-dead-letters", action="store_true", help="delete its dead letters, too"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Drop the group. Raises errors of the connection."""
    from shared_sync.cli import redis_access  # noqa: PLC0415 - loads Redis
    from shared_sync.protocol import dropping  # noqa: PLC0415 - as above
    from shared_sync.protocol.keys import Keys  # noqa: PLC0415 - as above

    keys = Keys.of(options.stream, options.group)
    with redis_access.connect(options) as connection:
        dropped = dropping.drop(
            connection,
            keys,
            force=options.force,
            with_dead_letters=options.with_dead_letters,
            by=operator.name(),
        )
    name = f"group {keys.group} of stream {keys.stream}"
    if not dropped.is_dropped:
        raise CommandFailed(f"{name} is not dropped: {_why_not(dropped)}")
    kept = 0 if options.with_dead_letters else dropped.dead_letters
    document = {
        "stream": keys.stream,
        "group": keys.group,
        "was_gone": dropped.was_gone,
        "pending": dropped.pending,
        "live_consumers": dropped.live_consumers,
        "entries_freed": dropped.freed,
        "entries_left": dropped.entries_left,
        "dead_letters_kept": kept,
    }
    Output(options).show(document, *_lines(name, keys.dead, dropped, kept))
    return DONE


def _why_not(dropped: Dropped) -> str:
    reasons = []
    if dropped.pending:
        are = "is" if dropped.pending == 1 else "are"
        reasons.append(
            f"{dropped.pending} of its messages {are} pending, and would not be finished"
        )
    if dropped.live_consumers:
        reasons.append(f"{_live(dropped)}, and would create it again: stop them")
    if dropped.is_last and dropped.entries:
        reasons.append(
            f"it is the only group of the stream, whose {dropped.entries} entries nobody would read"
        )
    return f"{'; '.join(reasons)}. --force drops it all the same"


def _live(dropped: Dropped) -> str:
    number = dropped.live_consumers
    return f"{number} of its consumers {'lives' if number == 1 else 'live'}"


def _lines(name: str, dead: str, dropped: Dropped, kept: int) -> Iterator[str]:
    if dropped.was_gone:
        yield f"{name} was gone already; the keys that it had left are deleted"
    else:
        lost = f", with {dropped.pending} pending messages" if dropped.pending else ""
        yield f"{name} is dropped{lost}"
    if dropped.freed:
        is_deleted = "entry is" if dropped.freed == 1 else "entries are"
        yield f"{dropped.freed} {is_deleted} deleted that only this group kept"
    if dropped.refusal is not None:
        yield f"entries that only this group kept were not deleted: {dropped.refusal}"
    if dropped.live_consumers:
        yield f"{_live(dropped)}, and may create it again: stop them"
    if kept:
        yield (
            f"its dead letters stay in {dead} ({kept}): for 'shared-sync dead-letters' the group "
            "has to be there; drop it once more with --with-dead-letters to delete them"
        )
    if dropped.entries_left:
        yield f"entries left in the stream: {dropped.entries_left}"
