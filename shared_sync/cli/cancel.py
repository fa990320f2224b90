"""shared-sync cancel: cancel messages, or show their state."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shared_sync.cli.grammar import DONE, FAILED, add_command
from shared_sync.cli.options import add_stream
from shared_sync.cli.output import Output, add_json
from shared_sync.cli.redis_options import add_redis
from shared_sync.common import arguments

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "cancel",
        summary="cancel messages, or show their state",
        description="Cancels messages of a stream, for all of its groups, and prints the state "
        "that each had: scheduled, waiting, parked, running, ended, or unknown. A message that has "
        "not started never starts; the processor of a running message is notified; nothing changes "
        "for a message that has ended.",
        run=run,
        repeated="ids",
        exit_status={FAILED: "failed, or the stream has no such message"},
    )
    add_redis(parser)
    add_stream(parser)
    parser.add_argument(
        "--status", action="store_true", help="only print the states, and cancel nothing"
    )
    add_json(parser)
    parser.add_argument("ids", nargs="+", metavar="ID", help="ids, as publishing returned them")


def run(options: argparse.Namespace) -> int:
    """Cancel the messages, and return the exit status. Raises errors of the connection."""
    from shared_sync.cli import redis_access  # noqa: PLC0415 - loads Redis
    from shared_sync.protocol import cancelling  # noqa: PLC0415 - as above
    from shared_sync.protocol.keys import StreamKeys  # noqa: PLC0415 - as above

    output = Output(options)
    act = cancelling.status if options.status else cancelling.cancel
    result = DONE
    with redis_access.connect(options) as connection:
        keys = StreamKeys.of(options.stream)
        for message_id in options.ids:
            arguments.text("ID", message_id)
            state = act(connection, keys, message_id)
            if state == cancelling.UNKNOWN:
                redis_access.check_stream_and_group(connection, options.stream)
            if state == cancelling.ENDED and cancelling.never_existed(
                connection, options.stream, message_id
            ):
                state = cancelling.UNKNOWN
            if state == cancelling.UNKNOWN:
                result = FAILED
            output.show({"id": message_id, "state": state}, f"{message_id} {state}")
    return result
