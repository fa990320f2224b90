"""RedisStreamProducer: publishes messages to the stream that consumers work off."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from types import TracebackType

from shared_sync.common import arguments
from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.errors import QueueFull, RedisUnavailable, SharedSyncError
from shared_sync.message import encode_fields
from shared_sync.protocol import commands as stream_commands

BATCH = 100
MAX_BATCH_BYTES = 4 * 1024 * 1024


class RedisStreamProducer:
    """Publishes messages to a stream. Safe from any thread; each call blocks for a round trip.

        with RedisStreamProducer("redis://localhost:6379/0", "audio:jobs") as producer:
            message_id = producer.publish({"client_id": "c1", "audio": wav_bytes})

    A message counts as accepted when its id has been returned. A call that raises
    `RedisUnavailable` may or may not have published: the connection broke before the answer.
    Publishing again then may publish twice, which a processor that bears being run twice bears
    too. Connections are opened as needed, one for each thread that publishes at the same time.
    It may be used after a fork: the forked process opens connections of its own.

    Args:
        redis_url: `redis://[user:password@]host:port/db`, `rediss://...`, `unix:///path`,
            `redis+sentinel://host:port,host:port/master/db` or
            `redis+cluster://host:port,host:port`.
        stream_name: The stream to publish to.
        max_queue_depth: Raise `QueueFull` instead of publishing when the stream holds so many
            messages, finished ones not counted. None for no limit. Checked by the server with
            each message, so that many producers keep the limit together.
        timeout_seconds: Longest wait for the server's answer.

    Raises:
        ConfigurationError: An argument that cannot work.
    """

    def __init__(
        self,
        redis_url: str,
        stream_name: str,
        *,
        max_queue_depth: int | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        stream_commands.check_stream_name(stream_name)
        arguments.number("timeout_seconds", timeout_seconds, 0.001, 86_400)
        if max_queue_depth is not None:
            arguments.whole_number("max_queue_depth", max_queue_depth, 1)
        # Fixed after construction.
        self.stream_name = stream_name
        self._max_queue_depth = max_queue_depth
        self._make_connector = partial(
            discovery.connector, redis_url, key=stream_name, reply_timeout_seconds=timeout_seconds
        )
        # Fixed in each process; a fork has its own.
        self._pid = os.getpid()
        self._connect = self._make_connector()
        self._lock = threading.Lock()
        # Guarded by the lock: links that no thread uses just now.
        self._idle: list[Connection] = []

    def publish(self, fields: Mapping[str, object]) -> str:
        """Publish one message and return its id.

        Text is stored as UTF-8, bytes as they are, anything else as JSON. Raises
        `InvalidMessage` (nothing was sent), `QueueFull` (nothing was published),
        `RedisUnavailable` or `RedisRefused`.
        """
        (message_id,) = self.publish_many([fields])
        return message_id

    def publish_many(self, messages: Iterable[Mapping[str, object]]) -> list[str]:
        """Publish messages in order, up to 100 or 4 MiB a round trip, and return their ids.

        Raises as `publish()` does. What was accepted before stays published: the error's
        `published` has the ids, which belong to the first messages. After `RedisUnavailable` the
        batch that was on its way may have been published too. What `messages` itself raises comes
        through as it is.
        """
        published: list[str] = []
        encoded = (encode_fields(fields) for fields in messages)
        try:
            with self._link() as link:
                while batch := _next_batch(encoded):
                    self._publish_batch(link, batch, published)
        except SharedSyncError as error:
            error.published = tuple(published)
            raise
        return published

    def close(self) -> None:
        """Close the idle connections. The producer may be used again; it then connects anew."""
        self._begin_anew_in_a_fork()
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def __enter__(self) -> RedisStreamProducer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _publish_batch(
        self, link: Connection, batch: list[list[bytes]], published: list[str]
    ) -> None:
        reply = link.call(*stream_commands.publish(self.stream_name, batch, self._max_queue_depth))
        ids, refusal = stream_commands.parse_published(reply)
        published += ids
        if refusal is not None:
            raise refusal
        if len(ids) < len(batch) and self._max_queue_depth is not None:
            raise QueueFull(self.stream_name, self._max_queue_depth)

    def _begin_anew_in_a_fork(self) -> None:
        """The links are the parent's, whose replies must not be read here.

        They are not closed either, which would tell the server; and any lock may be taken for
        ever, by a thread that is not here.
        """
        if self._pid != os.getpid():
            self._connect = self._make_connector()
            self._lock, self._idle, self._pid = threading.Lock(), [], os.getpid()

    @contextmanager
    def _link(self) -> Iterator[Connection]:
        """A link for the calling thread alone; one that broke is closed and opens anew."""
        self._begin_anew_in_a_fork()
        with self._lock:
            link = self._idle.pop() if self._idle else Connection(self._connect)
        if link.is_stale():
            link.close()
        try:
            yield link
        except RedisUnavailable:
            link.close()  # also where the server answered that it cannot serve: another may
            raise
        except BaseException as error:
            if not isinstance(error, SharedSyncError):
                link.close()
            raise
        finally:
            with self._lock:
                self._idle.append(link)


def _next_batch(encoded: Iterator[list[bytes]]) -> list[list[bytes]]:
    batch: list[list[bytes]] = []
    size = 0
    for items in islice(encoded, BATCH):
        batch.append(items)
        size += sum(map(len, items))
        if size >= MAX_BATCH_BYTES:
            break
    return batch
