"""A connection to Redis for a command, and names of streams and groups that may be mistyped."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shared_sync.cli.redis_options import read_credentials
from shared_sync.connection.connection import Connection
from shared_sync.connection.pool import ConnectionPool
from shared_sync.protocol import nearest_names
from shared_sync.protocol.keys import Keys, check_stream_name

REPLY_TIMEOUT_SECONDS: Final = 10.0


@contextmanager
def connect(options: argparse.Namespace) -> Iterator[Connection]:
    """Lend a connection to the server that holds `options.stream`, opened at its first use.

    Raises `ConfigurationError` for an address or a password file that cannot be used.
    """
    check_stream_name(options.stream)
    pool = ConnectionPool.of_process(
        options.redis_url,
        key=options.stream,
        role="command",
        timeout_seconds=REPLY_TIMEOUT_SECONDS,
        credential_provider=read_credentials(options),
    )
    try:
        with pool.connection() as connection:
            yield connection
    finally:
        pool.close()


def check_stream_and_group(connection: Connection, stream: str, group: str | None = None) -> None:
    """Raise `GroupMissing`, with the nearest names, if the stream or the group does not exist.

    None for the group checks the stream only. See `nearest_names`, which says what happens without
    the rights to ask.
    """
    if group is None:
        nearest_names.check_stream(connection, stream)
    else:
        nearest_names.check_group(connection, Keys.of(stream, group))
