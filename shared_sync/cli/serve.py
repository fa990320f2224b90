"""shared-sync health serve: the health of a Redis, a stream and a group over HTTP.

The command inspects them from outside, so one process can watch what many workers share. /health is
unhealthy while Redis does not answer, or no consumer lives although there is work. It is degraded
while the group does not exist or its messages make no progress (`group_status/problems.py` says
when). /metrics has the queue's metrics, and the dashboard the whole group. Answers come from values
that are a few seconds old at most: no request ever waits for Redis.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING

from shared_sync.cli import actions_option
from shared_sync.cli.grammar import DONE, add_command
from shared_sync.cli.limit_options import add_limits
from shared_sync.cli.options import add_token_file, health_port
from shared_sync.cli.redis_options import add_redis
from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "serve",
        summary="serve /health, /metrics and a dashboard of a group, without a worker",
        description="Serves /health, /metrics and a dashboard of a Redis, a stream and a group.",
        run=run,
        exit_status={DONE: "ended by SIGTERM or Ctrl-C"},
    )
    parser.add_argument(
        "--host", metavar="ADDRESS", help="address to bind (default: all, IPv6 and IPv4)"
    )
    parser.add_argument(
        "--port",
        type=partial(arguments.port, "--port"),
        help="port to bind, 0 for a free one (default: HEALTH_PORT, else 8080)",
    )
    parser.add_argument("--instance-id", default="health", metavar="NAME", help="name on the page")
    add_redis(parser)
    parser.add_argument("--stream", metavar="NAME", help="stream to inspect")
    parser.add_argument("--group", metavar="NAME", help="its consumer group")
    add_limits(parser)
    _add_access(parser)
    parser.add_argument(
        "--json", action="store_true", help="log JSON: one object on one line for each record"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Raises a `SharedSyncError` for what cannot work."""
    from shared_sync.cli import monitor_server  # noqa: PLC0415 - loads Redis and Flask

    if options.port is None:
        options.port = arguments.port("HEALTH_PORT", health_port())
    if bool(options.stream) != bool(options.group):
        raise ConfigurationError("--stream and --group go together; give both or neither")
    monitor_server.serve(options)


def _add_access(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who may read what."""
    add_token_file(parser)
    parser.add_argument(
        "--cors",
        default="*",
        metavar="ORIGINS",
        help="whose pages may read the answers: origins, with commas between them; * for all, "
        "which concerns only /health and /metrics; or none (default: %(default)s)",
    )
    parser.add_argument(
        "--allowed-hosts",
        default=os.environ.get("HEALTH_ALLOWED_HOSTS") or "",
        metavar="NAMES",
        help="names, with commas between them, under which a browser may open the page, such as "
        "stt.example.com or *.example.com; addresses and names without a dot always may "
        "(default: HEALTH_ALLOWED_HOSTS, else none)",
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="show texts of errors too, which may contain parts of messages",
    )
    actions_option.add(parser)
