"""A reply stream is read from its beginning, whatever the ids of its entries are."""

from __future__ import annotations

import pytest
import redis

from shared_sync.connection.connection import Connection
from shared_sync.protocol.result_streams import ExclusiveStream, Remembered

KEY = "{jobs}:replies:ab12"


@pytest.fixture
def source(connection: Connection) -> ExclusiveStream:
    made = ExclusiveStream(KEY, ttl_ms=60_000, report=lambda *_: None)
    made.open(connection)
    return made


def add(client: redis.Redis, entry_id: str, text: str) -> None:
    """Put a stream with this one entry in place, as a server has it whose clock is behind."""
    client.xadd("{jobs}:other", {"text": text}, id=entry_id)
    client.rename("{jobs}:other", KEY)


def read(source: ExclusiveStream, connection: Connection) -> list[bytes]:
    entries = source.read(connection, 10, 10)
    for entry in entries:
        source.delivered(entry.id)
    return [entry.items[1] for entry in entries]


def test_delivered_results_are_removed_with_the_next_read_and_not_read_again(
    source: ExclusiveStream, connection: Connection, client: redis.Redis
) -> None:
    add(client, "5-0", "a")
    assert read(source, connection) == [b"a"]
    assert client.xlen(KEY) == 1
    assert read(source, connection) == []
    assert client.xlen(KEY) == 0
    add(client, "5-0", "a")  # as a server has it that did not receive the removal
    assert read(source, connection) == []
    assert read(source, connection) == []
    assert client.xlen(KEY) == 0


def test_an_entry_with_a_smaller_id_than_the_last_is_read(
    source: ExclusiveStream, connection: Connection, client: redis.Redis
) -> None:
    add(client, "5-0", "a")
    assert read(source, connection) == [b"a"]
    assert read(source, connection) == []
    add(client, "3-0", "b")
    assert read(source, connection) == [b"b"]


def test_a_stream_that_is_created_again_may_use_earlier_ids_again(
    source: ExclusiveStream, connection: Connection, client: redis.Redis
) -> None:
    add(client, "5-0", "a")
    assert read(source, connection) == [b"a"]
    client.delete(KEY)
    source.confirm(connection.call)
    add(client, "5-0", "b")
    assert read(source, connection) == [b"b"]


def test_the_oldest_text_is_forgotten() -> None:
    remembered = Remembered(most=2)
    assert [remembered.add(text) for text in "abca"] == [None, None, "a", "b"]
    assert [text in remembered for text in "abc"] == [True, False, True]
