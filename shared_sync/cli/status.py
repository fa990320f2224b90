"""shared-sync status: how a group is, and what is wrong with it."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import TYPE_CHECKING, Final

from shared_sync.cli.grammar import DONE, add_command
from shared_sync.cli.limit_options import add_limits, read_limits
from shared_sync.cli.options import add_group, add_stream, number
from shared_sync.cli.output import Output, add_json
from shared_sync.cli.redis_options import add_redis

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands

WATCH_SECONDS: Final = 2.0


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "status",
        summary="show how a group is, and what is wrong with it",
        description="Prints the sizes of the queue of a group, its rates and its consumers, and in "
        "words what is wrong and what to do. Rates are measured between two readings, one second "
        "apart by default.",
        run=run,
        exit_status={
            DONE: "the group is healthy, or Ctrl-C has ended --watch",
            3: "the group is degraded",
            4: "the group is unhealthy",
        },
    )
    add_redis(parser)
    add_stream(parser)
    add_group(parser)
    parser.add_argument(
        "--watch",
        type=number("--watch", 0.2, 3600, unit="seconds"),
        nargs="?",
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help="show it again every SECONDS (2 by default) until Ctrl-C; a terminal "
        "is drawn anew, and anything else gets a line each time. Goes on if Redis goes away",
    )
    parser.add_argument(
        "--sample",
        type=number("--sample", 0.2, 600, unit="seconds"),
        default=1.0,
        metavar="SECONDS",
        help="without --watch: over how long rates are measured (default: %(default)g)",
    )
    add_limits(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show the status once or again and again. Raises errors of the connection if once."""
    from shared_sync.cli import redis_access, status_text, status_watch  # noqa: PLC0415 - load Redis
    from shared_sync.group_status import GroupStatus  # noqa: PLC0415 - as above
    from shared_sync.group_status.status import exit_status  # noqa: PLC0415 - as above
    from shared_sync.protocol.keys import Keys  # noqa: PLC0415 - as above

    keys = Keys.of(options.stream, options.group)
    limits, output = read_limits(options), Output(options)
    with redis_access.connect(options) as connection:
        redis_access.check_stream_and_group(connection, options.stream, options.group)
        if options.watch is not None:
            group = GroupStatus(keys, limits=limits, survey_seconds=0.0, sample_seconds=1.0)
            status_watch.watch(
                group, connection, output, period_seconds=options.watch, file=sys.stdout
            )
            return DONE
        group = GroupStatus(
            keys, limits=limits, survey_seconds=0.0, sample_seconds=0.0, is_short=True
        )
        group.read(connection)
        threading.Event().wait(options.sample)
        status = group.read(connection)
    output.show(status.to_json(), *status_text.lines(status))
    return exit_status(status.health)
