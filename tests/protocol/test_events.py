"""Events: recorded by anyone who may, bounded, and read whatever stands in the stream."""

from __future__ import annotations

import pytest
import redis
from protocol_client import KEYS

from shared_sync.connection.connection import Connection
from shared_sync.errors import ConfigurationError
from shared_sync.protocol.events import Event, parse_event, record_event


def test_an_event_is_kept_among_the_newest_and_expires(
    connection: Connection, client: redis.Redis
) -> None:
    for number in range(1000):
        assert record_event(connection, KEYS, "paused", f"pause {number}", "anna \udcff")
    assert 300 <= client.xlen(KEYS.events) <= 400
    assert 0 < client.pttl(KEYS.events) <= 7 * 86_400_000
    entry = client.xrevrange(KEYS.events, count=1)[0]
    event = parse_event((entry[0], [item for pair in entry[1].items() for item in pair]))
    assert event == Event(entry[0].decode(), "paused", "", "anna \\udcff", "pause 999")


def test_what_cannot_be_recorded_is_no_error_for_what_has_happened(
    connection: Connection, client: redis.Redis
) -> None:
    client.set(KEYS.events, "of another type")
    assert not record_event(connection, KEYS, "paused", "the group was paused")
    with pytest.raises(ConfigurationError, match="kind of an event"):
        record_event(connection, KEYS, "Paused!", "the group was paused")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        b"1-0",
        (b"1-0", None),
        (b"one", [b"kind", b"gone"]),
        (b"1-0", [b"kind"]),
        (b"1-0", [b"kind", b"<b>"]),
        (b"1-0", [b"text", b"without a kind"]),
        (b"\xff-0", [b"kind", b"gone"]),
    ],
)
def test_what_is_no_event_is_left_out(entry: object) -> None:
    assert parse_event(entry) is None


def test_a_huge_event_in_bad_utf_8_is_cut_and_readable() -> None:
    event = parse_event((b"1-0", [b"kind", b"paused", b"text", b"\xff" * 10_000_000]))
    assert event is not None
    assert event.text == "\ufffd" * 500
