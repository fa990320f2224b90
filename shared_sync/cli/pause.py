"""shared-sync pause: let the consumers of a group take no messages."""

from __future__ import annotations

import argparse
import threading
import time
from typing import TYPE_CHECKING, Final

from shared_sync.cli import operator
from shared_sync.cli.grammar import DONE, FAILED, add_command
from shared_sync.cli.options import add_group, add_stream, number
from shared_sync.cli.output import Output, add_json
from shared_sync.cli.redis_options import add_redis

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands
    from shared_sync.group_status.status import Status

POLL_SECONDS: Final = 0.2


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "pause",
        summary="let the consumers of a group take no messages",
        description="Pauses a group until 'shared-sync resume'. Within a heartbeat, 2 s at most, "
        "its consumers take no more messages: they finish what runs, hand back the rest, and stay "
        "live. Consumers that start later are paused too. Messages can be published meanwhile.",
        run=run,
        exit_status={FAILED: "failed, or not all consumers have paused within --wait"},
    )
    add_redis(parser)
    add_stream(parser)
    add_group(parser)
    parser.add_argument(
        "--by", metavar="NAME", help="who pauses it (default: this user and machine)"
    )
    parser.add_argument(
        "--reason", default="", metavar="TEXT", help="why; health and the page show it"
    )
    parser.add_argument(
        "--wait",
        type=number("--wait", 0.0, 86_400, unit="seconds"),
        default=0.0,
        metavar="SECONDS",
        help="wait up to so long until all consumers have paused and nothing runs any more",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Pause the group. Raises errors of the connection."""
    from shared_sync.cli import redis_access  # noqa: PLC0415 - loads Redis
    from shared_sync.group_status import GroupStatus, pause  # noqa: PLC0415 - as above
    from shared_sync.protocol.keys import Keys  # noqa: PLC0415 - as above

    keys = Keys.of(options.stream, options.group)
    with redis_access.connect(options) as connection:
        before = pause(connection, keys, by=options.by or operator.name(), reason=options.reason)
        group = GroupStatus(keys)
        deadline = time.monotonic() + options.wait
        while True:
            status = group.read(connection)
            busy = _busy(status)
            if not busy or time.monotonic() >= deadline:
                break
            threading.Event().wait(POLL_SECONDS)
    name = f"group {keys.group} of stream {keys.stream}"
    text = f"{name} is paused; 'shared-sync resume' ends it"
    if before is not None:
        why = f" ({before.reason})" if before.reason else ""
        text = f"{name} is paused already, by {before.by}{why}; nothing was changed"
    Output(options).show(
        {**status.to_json(), "was_paused": before is not None, "not_paused_yet": busy},
        text,
        *([f"not paused yet: {', '.join(busy)}"] if busy else []),
    )
    return FAILED if busy and options.wait else DONE


def _busy(status: Status) -> list[str]:
    """Return the consumers that take messages, or run some, although the group is paused."""
    return [
        one.name
        for one in status.consumers
        if one.state.value in ("live", "silent") and (one.pending or not one.has_paused)
    ]
