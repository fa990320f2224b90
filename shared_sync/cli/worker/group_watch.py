"""The tables of the group on the page of a supervisor, and what it remembers of the last hour."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shared_sync.cli.worker import building
from shared_sync.cli.worker.configuration import Configuration
from shared_sync.common.loop import Loop
from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.group_status import GroupStatus
from shared_sync.protocol import inspection
from shared_sync.protocol.inspection import GroupView
from shared_sync.protocol.keys import Keys


@contextmanager
def watching(configuration: Configuration) -> Iterator[GroupView]:
    """Have a thread note within the block who lives and what happens; yield the tables.

    The workers do so too, but what they remember ends with their processes. If Redis is away, the
    thread tries again; that is for the workers to report.
    """
    keys = Keys.of(configuration["stream"], configuration["group"])
    connect = discovery.connector_of_process(
        configuration["redis_url"],
        key=keys.stream,
        role="supervisor",
        credential_provider=building.make_credentials(configuration),
        reply_timeout_seconds=inspection.REPLY_TIMEOUT_SECONDS,
    )
    view = GroupView(connect, keys, parts={"status": GroupStatus(keys).read_json})
    view.is_shown = True
    connection = Connection(connect)
    stop = threading.Event()

    def pause(_error: BaseException, _failures: int) -> float:
        connection.close()
        return inspection.WATCH_SECONDS

    loop = Loop(
        "supervisor-group",
        step=lambda: view.watch(connection),
        stop=stop,
        on_error=pause,
        finish=connection.close,
        period_seconds=inspection.WATCH_SECONDS / 2,
    )
    loop.start()
    try:
        yield view
    finally:
        stop.set()
        loop.join(time.monotonic() + inspection.REPLY_TIMEOUT_SECONDS)
