"""Fields are decoded to what was published; an error names the field that cannot be encoded."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import MappingProxyType

import pytest
from runners import new_runner

from shared_sync.errors import ConsumerStateError, InvalidMessage
from shared_sync.message import (
    MAX_FIELDS,
    Message,
    current_message,
    decode_fields,
    decode_readable,
    encode_fields,
    encode_value,
)
from shared_sync.processors import MessageProcessor
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.slot import Attempt

NOT_UTF8 = b"RIFF\xff\xfe"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"\x00\xff"), b"\x00\xff"),
        (memoryview(b"\x00\xff"), b"\x00\xff"),
        (memoryview(b"abcdef")[::2], b"ace"),
        ("Grüße 🎧", "Grüße 🎧".encode()),
        ("", b""),
        (7, b"7"),
        (1.5, b"1.5"),
        (True, b"true"),
        (None, b"null"),
        (["ä", 1], '["ä", 1]'.encode()),
        ({"a": {"b": []}}, b'{"a": {"b": []}}'),
        ((1, 2), b"[1, 2]"),
    ],
)
def test_bytes_stay_text_becomes_utf8_and_anything_else_json(value: object, stored: bytes) -> None:
    assert encode_value("field", value) == stored


def _circular_list() -> list[object]:
    circular: list[object] = []
    circular.append(circular)
    return circular


def _deeply_nested_list() -> list[object]:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    "value",
    [
        {1, object()},
        object(),
        float("nan"),
        float("inf"),
        [float("-inf")],
        {"text": "\ud800"},
        {(1, 2): 3},
        {"a": b"bytes in JSON"},
        _circular_list(),
        _deeply_nested_list(),
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_json_cannot_express_is_refused_and_its_field_is_named(
    value: object,
) -> None:
    with pytest.raises(InvalidMessage, match="'audio'") as caught:
        encode_fields({"fine": 1, "audio": value})
    assert caught.value.field == "audio"


def test_text_that_is_not_valid_unicode_is_refused_and_the_error_says_what_to_do() -> None:
    with pytest.raises(InvalidMessage, match=r"'title'.*send it as bytes") as caught:
        encode_fields({"title": "half a surrogate \ud800"})
    assert caught.value.field == "title"


def test_a_field_name_that_is_not_valid_unicode_is_refused() -> None:
    with pytest.raises(InvalidMessage) as caught:
        encode_fields({"\ud800": "value"})
    str(caught.value).encode()  # an error's text can always be logged


@pytest.mark.parametrize("name", [1, None, b"name", ("a",)])
def test_a_field_name_that_is_not_text_is_refused(name: object) -> None:
    with pytest.raises(InvalidMessage, match="field names are text"):
        encode_fields({name: "value"})  # type: ignore[dict-item]


@pytest.mark.parametrize("fields", [None, [("a", 1)], "a=1", b"a", 5, {"a"}])
def test_fields_that_are_not_a_mapping_are_refused(fields: object) -> None:
    with pytest.raises(InvalidMessage, match=type(fields).__name__) as caught:
        encode_fields(fields)  # type: ignore[arg-type]
    assert caught.value.field is None


@pytest.mark.parametrize("kind", [dict, OrderedDict, MappingProxyType])
def test_any_mapping_is_accepted_and_its_order_is_kept(kind: type) -> None:
    assert encode_fields(kind({"b": "2", "a": "1"})) == [b"b", b"2", b"a", b"1"]


def test_a_message_has_at_least_one_field_and_at_most_the_stated_number() -> None:
    with pytest.raises(InvalidMessage, match="not 0"):
        encode_fields({})
    assert len(encode_fields({f"f{n}": n for n in range(MAX_FIELDS)})) == 2 * MAX_FIELDS
    with pytest.raises(InvalidMessage, match=f"not {MAX_FIELDS + 1}"):
        encode_fields({f"f{n}": n for n in range(MAX_FIELDS + 1)})


def test_encoded_fields_are_decoded_to_the_same_text_and_bytes() -> None:
    written = {"audio": NOT_UTF8, "größe": "Ω", "options": {"beam": 5}, "line": "a\nb\x00c"}
    read = decode_fields(encode_fields(written), {"audio"})
    assert read.pop("options") == json.dumps({"beam": 5})
    assert read == {"audio": NOT_UTF8, "größe": "Ω", "line": "a\nb\x00c"}


def test_a_binary_field_stays_bytes_even_if_its_value_is_valid_text() -> None:
    assert decode_fields([b"audio", b"text"], ["audio"]) == {"audio": b"text"}


def test_a_value_that_is_not_utf8_is_refused_and_the_error_names_binary_fields() -> None:
    with pytest.raises(InvalidMessage, match=r"'audio'.*byte 4 of 6.*binary_fields") as caught:
        decode_fields([b"client", b"c1", b"audio", NOT_UTF8])
    assert caught.value.field == "audio"


def test_a_field_name_that_is_not_utf8_is_shown_escaped() -> None:
    with pytest.raises(InvalidMessage, match="UTF-8 text") as caught:
        decode_fields([b"n\xff", b"value"])
    assert "n\\xff" in str(caught.value)
    assert caught.value.field is None


def test_decode_readable_keeps_the_fields_that_are_utf8() -> None:
    items = [b"client", b"c1", b"audio", NOT_UTF8, b"n\xff", b"x", b"language", b"de"]
    assert decode_readable(items) == {"client": "c1", "language": "de"}
    assert decode_readable([]) == {}


def run(processor: MessageProcessor, message: Message) -> None:
    """Have a processor called as a reader does it."""
    entry = Entry(message.id, [], deliveries=message.attempt)
    new_runner(processor).run(Attempt([entry], 1, 0.0), [message.fields])


def test_a_processor_gets_its_message_and_attempt_from_current_message() -> None:
    seen: list[Message] = []
    message = Message("1-0", {"a": "b"}, attempt=3)
    run(lambda _id, _fields: seen.append(current_message()), message)
    assert seen == [message]


def test_each_thread_sees_only_its_own_current_message() -> None:
    both_inside = threading.Barrier(2)
    seen: dict[str, str] = {}

    def process(message_id: str, _fields: dict[str, str | bytes]) -> None:
        both_inside.wait(10)
        seen[message_id] = current_message().id
        both_inside.wait(10)

    threads = [
        threading.Thread(target=run, args=(process, Message(message_id, {}, 1)))
        for message_id in ("1-0", "2-0")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == {"1-0": "1-0", "2-0": "2-0"}


def test_a_thread_that_a_processor_starts_has_no_message_of_its_own() -> None:
    """Not even if it gets a copy of the processor's context variables, as in asyncio.to_thread."""
    raised: list[BaseException | None] = []

    def process(_id: str, _fields: dict[str, str | bytes]) -> None:
        with ThreadPoolExecutor(1) as helper:
            asked = helper.submit(copy_context().run, current_message)
            raised.append(asked.exception(10))

    run(process, Message("1-0", {}, 1))
    assert isinstance(raised[0], ConsumerStateError)


def test_outside_a_processor_there_is_no_current_message() -> None:
    with pytest.raises(ConsumerStateError, match="processor"):
        current_message()


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_no_current_message_is_left_after_a_processor_failed(error: type[BaseException]) -> None:
    def fail(_id: str, _fields: dict[str, str | bytes]) -> None:
        raise error

    with pytest.raises(error):
        run(fail, Message("1-0", {}, 1))
    with pytest.raises(ConsumerStateError):
        current_message()


def test_a_message_does_nothing_more_once_its_processor_has_returned() -> None:
    kept: list[Message] = []
    run(lambda _id, _fields: kept.append(current_message()), Message("1-0", {}, 1))
    with pytest.raises(ConsumerStateError, match="has ended"):
        kept[0].emit("next", {"a": "b"})
    assert not kept[0].cancelled.is_set()


def test_a_message_that_runs_can_be_copied_and_sent_to_another_process() -> None:
    copies: list[Message] = []

    def process(_id: str, _fields: dict[str, str | bytes]) -> None:
        message = current_message()
        copies.extend((copy.deepcopy(message), pickle.loads(pickle.dumps(message))))
        copies.append(Message(**dataclasses.asdict(message)))

    message = Message("1-0", {"a": "b"}, 2)
    run(process, message)
    assert copies == [message] * 3
    with pytest.raises(ConsumerStateError, match="made by hand"):
        copies[0].emit("next", {"a": "b"})


def test_a_message_made_by_hand_has_no_consumer() -> None:
    message = Message("1-0", {}, 1)
    assert message == Message("1-0", {}, attempt=1)
    assert not message.cancelled.is_set()
    assert not message.cancelled.wait(0)
    message.raise_if_cancelled()
    assert message.resume_data is None
    assert (message.reply_to, message.traceparent, message.expires_at) == ("", "", None)
    with pytest.raises(ConsumerStateError, match=r"report_progress\(\)"):
        message.report_progress(0.5)
    with pytest.raises(ConsumerStateError, match=r"emit\(\)"):
        message.emit("next", {"a": "b"})
    assert repr(message) == "Message(id='1-0', fields={}, attempt=1)"
