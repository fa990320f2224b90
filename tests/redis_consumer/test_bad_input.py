"""Messages that cannot be read: one line a minute, and a reason that says what to do."""

from __future__ import annotations

import logging

import pytest
import redis
from consumers import STREAM, Make, dead_letters
from deliveries import Deliveries, entry
from helpers import Clock, eventually

from shared_sync.errors import InvalidMessage
from shared_sync.message import decode_fields
from shared_sync.redis_consumer.bad_input import MOST_CAUSES, BadInput


def test_a_line_of_each_cause_is_logged_once_a_minute_and_counts_the_others(clock: Clock) -> None:
    bad = BadInput(clock=clock)
    first = bad.undecodable("audio")
    assert first == ": binary_fields=('audio',) (a line of this kind is logged once a minute)"
    assert bad.undecodable("image") is not None
    clock.now += 59
    assert [bad.undecodable("audio") for _ in range(3)] == [None] * 3
    clock.now += 1
    later = bad.undecodable("audio")
    assert later == ": binary_fields=('audio',) (and 3 more since the last line of this kind)"
    assert bad.undecodable("audio") is None


def test_the_reason_names_the_argument_with_what_it_has_already(clock: Clock) -> None:
    bad = BadInput({"video", "image"}, clock)
    assert bad.reasons() == []
    bad.undecodable("audio")
    assert bad.reasons() == [
        "1 message became a dead letter: field 'audio' is not UTF-8; pass "
        "binary_fields=('image', 'video', 'audio') to the consumer to receive it as bytes"
    ]
    bad.undecodable("audio")
    bad.unroutable(
        "field 'reply_to', which result_channel needs, is missing; publish it with the message"
    )
    bad.undecodable(None)
    two, missing, name = bad.reasons()
    assert two.startswith("2 messages became dead letters: field 'audio'")
    assert "field 'reply_to', which result_channel needs, is missing" in missing
    assert "the name of a field is not UTF-8" in name


def test_a_cause_is_forgotten_five_minutes_after_its_last_message(clock: Clock) -> None:
    bad = BadInput(clock=clock)
    bad.undecodable("audio")
    clock.now += 299
    bad.undecodable("audio")
    clock.now += 299
    assert len(bad.reasons()) == 1
    clock.now += 1
    assert bad.reasons() == []
    bad.undecodable("audio")
    assert bad.reasons()[0].startswith("1 message ")


def test_no_text_of_others_gets_into_a_reason_and_causes_are_bounded(clock: Clock) -> None:
    bad = BadInput(clock=clock)
    for name in ("<b>call 555</b>", "x" * 1000, "a\nb"):
        bad.undecodable(name)
    assert {reason.partition(": ")[2] for reason in bad.reasons()} == {
        "a field is not UTF-8; name it in binary_fields to receive it as bytes"
    }
    for number in range(10 * MOST_CAUSES):
        bad.undecodable(f"field-{number}")
    assert len(bad.reasons()) == MOST_CAUSES + 1


@pytest.mark.parametrize("binary", [(), ("image",)])
def test_the_suggested_argument_makes_the_message_readable(binary: tuple[str, ...]) -> None:
    items = [b"image", b"\xff" if binary else b"", b"audio", b"\xff\x00"]
    with pytest.raises(InvalidMessage) as raised:
        decode_fields(items, binary)
    remark = BadInput(binary).undecodable(raised.value.field)
    assert remark is not None
    argument = remark.split(" (")[0].removeprefix(": binary_fields=")
    suggested = tuple(name.strip("'") for name in argument.strip("(),").split(", "))
    assert decode_fields(items, suggested)["audio"] == b"\xff\x00"


def test_a_thousand_messages_of_one_cause_are_a_thousand_dead_letters_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Deliveries(lambda *_: None)
    with caplog.at_level(logging.ERROR):
        outcomes = [work.attempt(entry(b"audio", b"\xff")) for _ in range(1000)]
    assert all(outcome is not None for outcome in outcomes)
    (line,) = caplog.messages
    assert line.endswith(
        "bad input: field 'audio' is not UTF-8 (byte 0 of 1); name it in binary_fields to receive "
        "it as bytes: binary_fields=('audio',) (a line of this kind is logged once a minute)"
    )


def test_a_forgotten_argument_degrades_the_consumer_at_once(
    make: Make, client: redis.Redis
) -> None:
    for _ in range(3):
        client.xadd(STREAM, {"audio": b"\xff"})
    consumer = make(lambda *_: None, threads=2)
    consumer.start()
    eventually(lambda: len(dead_letters(client)) == 3)
    health = consumer.get_health_data()
    assert (health["status"], health["live"], health["ready"]) == ("degraded", True, True)
    assert health["reasons"] == [
        "3 messages became dead letters: field 'audio' is not UTF-8; pass "
        "binary_fields=('audio',) to the consumer to receive it as bytes"
    ]
