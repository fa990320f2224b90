"""Running a consumer until its group has nothing left to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.dead_letters import DeadLetter, DeadLetters
from shared_sync.protocol import group_reading
from shared_sync.protocol.group_reading import GroupReading
from shared_sync.protocol.keys import id_is_after
from shared_sync.redis_consumer import RedisStreamConsumer
from shared_sync.redis_consumer.options import Options
from shared_sync.result_listener.result import Result, parse

POLL_SECONDS: Final = 0.02
STOP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Idle:
    """What a consumer has done until nothing was left."""

    results: Sequence[Result]
    """The final results in its `result_stream`, in the order in which they were published. Empty
    without one, and for a name with fields such as `results:{client}`."""
    progress: Sequence[Result]
    """The reports of progress in it, in the same order."""
    dead_letters: Sequence[DeadLetter]
    """The messages that were given up on."""


def run_until_idle(consumer: RedisStreamConsumer, timeout: float = 30.0) -> Idle:
    """Run a consumer until its group has nothing left to do, stop it, and return what it has done.

    Nothing is left when no message waits, runs or is parked for a retry. Scheduled jobs do not
    count. A consumer that runs already is not stopped. Results and dead letters are those of this
    call.

    Raises:
        TimeoutError: Something is left after `timeout` seconds; the text says what.
        ConsumerBroken: The consumer has stopped by itself.
        SharedSyncError: What `start()` raises, and what the connection to Redis raises.
    """
    options = consumer._options
    connect = discovery.connector_of_process(
        options.redis_url,
        role="testing",
        key=options.stream_name,
        reply_timeout_seconds=10.0,
        credential_provider=options.credential_provider,
    )
    with closing(Connection(connect)) as connection:
        result_stream = options.fixed_result_stream
        newest_result = _newest(connection, result_stream)
        newest_letter = _newest(connection, options.keys.dead)
        is_ours = consumer.state == "new"
        if is_ours:
            consumer.start()
        try:
            _wait(consumer, connection, options, timeout)
        finally:
            if is_ours:
                consumer.stop(STOP_SECONDS)
        results = _results_after(connection, result_stream, newest_result)
        letters = DeadLetters(
            options.redis_url,
            options.stream_name,
            options.consumer_group,
            credential_provider=options.credential_provider,
        )
        with letters:
            dead = [one for one in letters if id_is_after(one.id, newest_letter)]
    return Idle(
        results=[one for one in results if one.is_final],
        progress=[one for one in results if not one.is_final],
        dead_letters=dead,
    )


def _wait(
    consumer: RedisStreamConsumer, connection: Connection, options: Options, timeout: float
) -> None:
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        if consumer.broken is not None:
            raise consumer.broken
        reading = group_reading.read(connection, options.keys)
        if not reading.waiting and not reading.pending:
            return
        if time.monotonic() >= deadline:
            raise TimeoutError(
                f"group {options.consumer_group!r} of stream {options.stream_name!r} is not idle "
                f"after {timeout:g} s: {_left(reading)}"
            )
        pause.wait(POLL_SECONDS)


def _left(reading: GroupReading) -> str:
    """Return what is left to do, and what to do about it."""
    parts = []
    if reading.waiting:
        parts.append(f"{reading.waiting} messages wait to be read")
    if reading.pending > reading.parked:
        parts.append(
            f"{reading.pending - reading.parked} are pending: they run, or their worker is dead "
            "and its lease has not ended (a test may set lease_seconds=1)"
        )
    if reading.parked:
        due_ms = reading.next_due_ms or reading.now_ms
        seconds = max(0.0, (due_ms - reading.now_ms) / 1000)
        parts.append(
            f"{reading.parked} are parked for a retry, the next one for {seconds:.1f} s (a test "
            "may set retry=RetryPolicy(base_seconds=0.01))"
        )
    if reading.pause is not None:
        parts.append("the group is paused (shared-sync resume)")
    return "; ".join(parts)


def _newest(connection: Connection, stream: str | None) -> str:
    """Return the id of the newest entry of a stream; an id before all others if there is none."""
    if stream is None:
        return "0-0"
    entries = connection.call("XREVRANGE", stream, "+", "-", "COUNT", 1)
    return entries[0][0].decode() if entries else "0-0"


def _results_after(connection: Connection, stream: str | None, newest: str) -> list[Result]:
    if stream is None:
        return []
    entries: Any = connection.call("XRANGE", stream, f"({newest}", "+")
    return [parse(entry_id.decode(), items) for entry_id, items in entries]
