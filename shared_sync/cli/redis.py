"""shared-sync redis: run a Redis server to try things out."""

from __future__ import annotations

import argparse
import os
import socket
from typing import TYPE_CHECKING, Final

from shared_sync.cli.grammar import CommandFailed, add_command
from shared_sync.cli.options import whole_number
from shared_sync.cli.output import Output, add_json

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands

HOST: Final = "127.0.0.1"


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "redis",
        summary="run a Redis server to try things out",
        description="Runs a Redis server on this machine until SIGTERM or Ctrl-C, to try things "
        "out. It keeps nothing: when it ends, all streams are gone. It is the redis-server or "
        "valkey-server of this machine, else the one that the extra 'embedded' has installed.",
        run=run,
    )
    parser.add_argument(
        "--port",
        type=whole_number("--port", 1, 65_535),
        default=6379,
        metavar="PORT",
        help="port of 127.0.0.1 to listen on (default: 6379)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Become the server, so that signals and the exit status are its own.

    Raises `CommandFailed` if the port is taken, and `EmbeddedRedisError` if there is no server.
    """
    from shared_sync.connection.embedded import find_redis_server  # noqa: PLC0415 - not for --help

    server = str(find_redis_server())
    _refuse_if_taken(options.port)
    url = f"redis://{HOST}:{options.port}/0"
    Output(options).show(
        {"url": url, "server": server, "pid": os.getpid()},
        f"{url}  ({server}, until SIGTERM or Ctrl-C; it keeps nothing)",
    )
    settings = ["--bind", HOST, "--port", str(options.port), "--save", "", "--appendonly", "no"]
    os.execv(server, [server, *settings, "--loglevel", "warning"])  # noqa: S606 - without a shell


def _refuse_if_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CommandFailed(
                f"port {port} of {HOST} cannot be used: {error.strerror}; if a Redis runs there, "
                "use that one, else choose another --port"
            ) from None
