"""shared-sync resume: end the pause of a group."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shared_sync.cli import operator
from shared_sync.cli.grammar import DONE, add_command
from shared_sync.cli.options import add_group, add_stream
from shared_sync.cli.output import Output, add_json
from shared_sync.cli.redis_options import add_redis

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "resume",
        summary="end the pause of a group",
        description="Ends the pause of a group. Its consumers take messages again within a "
        "heartbeat, 2 s at most.",
        run=run,
    )
    add_redis(parser)
    add_stream(parser)
    add_group(parser)
    parser.add_argument(
        "--by", metavar="NAME", help="who resumes it (default: this user and machine)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Resume the group. Raises errors of the connection."""
    from shared_sync.cli import redis_access  # noqa: PLC0415 - loads Redis
    from shared_sync.group_status import resume  # noqa: PLC0415 - as above
    from shared_sync.group_status.status import iso  # noqa: PLC0415 - as above
    from shared_sync.protocol.keys import Keys  # noqa: PLC0415 - as above

    keys = Keys.of(options.stream, options.group)
    with redis_access.connect(options) as connection:
        ended = resume(connection, keys, by=options.by or operator.name())
    name = f"group {keys.group} of stream {keys.stream}"
    document = {"stream": keys.stream, "group": keys.group, "paused": None, "ended": None}
    if ended is None:
        Output(options).show(document, f"{name} was not paused")
        return DONE
    facts = {"by": ended.by, "at": iso(ended.at_ms), "reason": ended.reason}
    Output(options).show(
        document | {"ended": facts},
        f"{name} goes on; {ended.by} had paused it at {iso(ended.at_ms)}",
    )
    return DONE
