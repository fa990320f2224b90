"""What those who wait for a result get, on a stream, on a channel, or on both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import pytest

from shared_sync.errors import ConfigurationError, InvalidMessage, InvalidResult
from shared_sync.protocol.dead_letter_layout import Metadata
from shared_sync.protocol.messages import Answer, Entry, Finish
from shared_sync.protocol.results import Results


@dataclass
class Scored:
    text: str
    score: object


FIELDS = {"client_id": "c1", "language": "de", "text": "Grüße"}


ENTRY = Entry("1-0", [])


def make(
    *,
    stream: str | None = None,
    channel: str | None = None,
    carry: tuple[str, ...] = (),
    binary: tuple[str, ...] = (),
    log_renamed: Callable[..., None] = lambda *_: None,
) -> Results:
    return Results(
        result_stream=stream,
        result_channel=channel,
        carry_fields=carry,
        binary_fields=binary,
        log_renamed=log_renamed,
    )


def metadata(reason: str, attempts: int = 1) -> Metadata:
    return Metadata(
        message_id="1-0",
        reason=reason,
        error_type="",
        error="",
        traceback="",
        attempts=attempts,
        crashes=0,
        worker="worker-1",
        time=1_700_000_000.0,
    )


def as_dict(answer: Answer | Finish) -> dict[str, str]:
    """The fields of the entry that goes to the result stream."""
    texts = [item.decode() for item in answer.items]
    if isinstance(answer, Finish) and answer.adds_header:
        texts = ["message_id", answer.id, "status", "done", *texts]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def as_json(answer: Answer | Finish) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(answer.payload)
    return parsed


def test_a_mapping_becomes_the_fields_of_the_result_entry() -> None:
    answer = make(stream="results").success(ENTRY, FIELDS, {"text": "hello", "score": 0.5})
    assert as_dict(answer) == {
        "message_id": "1-0",
        "status": "done",
        "text": "hello",
        "score": "0.5",
    }
    assert (answer.channel, answer.payload) == ("", b"")


@pytest.mark.parametrize(
    ("result", "stored"),
    [("hello", "hello"), (0, "0"), ("", ""), (False, "false"), ([], "[]"), (b"raw", "raw")],
)
def test_anything_else_becomes_the_field_result(result: object, stored: str) -> None:
    answer = make(stream="results").success(ENTRY, FIELDS, result)
    assert as_dict(answer) == {"message_id": "1-0", "status": "done", "result": stored}


def publishes_nothing(outcome: Finish) -> bool:
    return not (outcome.items or outcome.channel or outcome.adds_header)


def test_none_publishes_nothing() -> None:
    everywhere = make(stream="results", channel="results:{client_id}")
    assert publishes_nothing(everywhere.success(ENTRY, FIELDS, None))


def test_an_empty_mapping_is_a_result() -> None:
    answer = make(stream="results").success(ENTRY, FIELDS, {})
    assert as_dict(answer) == {"message_id": "1-0", "status": "done"}


def test_whether_results_go_anywhere_and_need_fields_is_known_beforehand() -> None:
    assert not make().wanted
    assert make(stream="r").wanted
    assert make(channel="r").wanted
    assert not make(stream="r", channel="r").reads_fields
    assert make(channel="r:{client_id}").reads_fields
    assert make(stream="r", carry=("client_id",)).reads_fields


def test_without_a_place_for_results_nothing_is_even_encoded() -> None:
    assert publishes_nothing(make().success(ENTRY, FIELDS, object()))
    assert make().death("1-0", FIELDS, metadata("x")) == Answer()


def test_a_channel_gets_the_same_as_json_under_the_name_filled_from_the_message() -> None:
    answer = make(channel="results:{client_id}").success(ENTRY, FIELDS, {"text": "Ω"})
    assert answer.channel == "results:c1"
    assert as_json(answer) == {"message_id": "1-0", "status": "done", "text": "Ω"}
    assert "Ω".encode() in answer.payload
    assert answer.items == ()


def test_stream_and_channel_can_be_had_together() -> None:
    both = make(stream="results", channel="r:{client_id}:{language}")
    answer = both.success(ENTRY, FIELDS, "hello")
    assert answer.channel == "r:c1:de"
    assert as_dict(answer) == as_json(answer)


def test_carried_fields_go_along_and_missing_ones_are_left_out() -> None:
    answer = make(stream="r", carry=("client_id", "session")).success(ENTRY, FIELDS, "hello")
    assert as_dict(answer) == {
        "message_id": "1-0",
        "status": "done",
        "client_id": "c1",
        "result": "hello",
    }


def test_what_the_processor_returns_wins_over_what_is_carried_along() -> None:
    own = {"language": "en"}
    fields = as_dict(make(stream="r", carry=("language",)).success(ENTRY, FIELDS, own))
    assert fields["language"] == "en"


@pytest.mark.parametrize("carry", [(), ("client_id",)])
def test_a_result_cannot_change_what_every_result_says_of_its_message(
    carry: tuple[str, ...],
) -> None:
    logged: list[tuple[object, ...]] = []
    own = {"status": "partial", "message_id": "9-9", "result.status": "kept", "text": "hello"}
    results = make(
        stream="r", channel="r", carry=carry, log_renamed=lambda *line: logged.append(line)
    )
    answer = results.success(ENTRY, FIELDS, own)
    assert (
        as_json(answer)
        == as_dict(answer)
        == {
            "message_id": "1-0",
            "status": "done",
            **dict.fromkeys(carry, "c1"),
            "result.result.status": "partial",
            "result.message_id": "9-9",
            "result.status": "kept",
            "text": "hello",
        }
    )
    assert [line[1:] for line in logged] == [
        ("status", "result.result.status"),
        ("message_id", "result.message_id"),
    ]


@pytest.mark.parametrize("name", ["status", "message_id"])
def test_names_that_every_result_has_cannot_be_carried(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"carry_fields may not name \['{name}'\]"):
        make(stream="r", carry=("client_id", name))


def test_a_message_may_have_a_field_of_that_name_which_is_not_carried() -> None:
    fields = {**FIELDS, "status": "waiting"}
    results = make(stream="r", carry=("client_id",))
    assert as_dict(results.success(ENTRY, fields, "x"))["status"] == "done"
    assert as_dict(results.death("1-0", fields, metadata("x")))["status"] == "dead"


def test_a_binary_field_can_be_carried_to_a_stream() -> None:
    results = make(stream="r", carry=("audio",), binary=("audio",))
    assert b"\xff" in results.success(ENTRY, {"audio": b"\xff"}, "x").items


def test_a_dead_message_tells_why_and_carries_its_fields() -> None:
    results = make(stream="r", channel="r:{client_id}", carry=("language",))
    answer = results.death("1-0", FIELDS, metadata("crashed", attempts=4))
    assert as_json(answer) == {
        "message_id": "1-0",
        "status": "dead",
        "language": "de",
        "reason": "crashed",
        "error_type": "",
        "error": "",
        "attempts": 4,
    }
    assert as_dict(answer)["attempts"] == "4"


def test_a_dead_message_without_the_channels_field_still_reaches_the_result_stream() -> None:
    results = make(stream="r", channel="r:{client_id}")
    answer = results.death("1-0", {}, metadata("bad input"))
    assert as_dict(answer)["status"] == "dead"
    assert (answer.channel, answer.payload) == ("", b"")


def test_the_field_that_the_channel_needs_and_the_message_lacks_is_named() -> None:
    results = make(channel="r:{client_id}:{language}")
    assert results.missing_field(FIELDS) is None
    assert results.missing_field({"client_id": "c1"}) == "language"
    assert make(stream="r").missing_field({}) is None


def test_a_channel_of_plain_text_needs_no_field() -> None:
    answer = make(channel="results").success(ENTRY, {}, "x")
    assert answer.channel == "results"
    assert make(channel="a{{b}}").success(ENTRY, {}, "x").channel == "a{b}"


def test_braces_in_a_message_are_not_read_as_part_of_the_channels_name() -> None:
    answer = make(channel="r:{client_id}").success(ENTRY, {"client_id": "{language}"}, "x")
    assert answer.channel == "r:{language}"


@pytest.mark.parametrize(
    "channel",
    ["r:{", "r:}", "r:{}", "r:{0}", "r:{a.b}", "r:{a[0]}", "r:{a!r}", "r:{a:>9}", "r:{a b}"],
)
def test_a_channel_name_that_could_fail_later_is_refused_now(channel: str) -> None:
    with pytest.raises(ConfigurationError, match="result_channel"):
        make(channel=channel)


@pytest.mark.parametrize("options", [{"carry": ("audio",), "channel": "r"}, {"channel": "{audio}"}])
def test_a_channel_cannot_carry_binary_fields(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="binary"):
        make(stream="r", binary=("audio",), **options)


def test_carry_fields_without_a_place_for_results_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="carry_fields"):
        make(carry=("client_id",))


@pytest.mark.parametrize("value", [object(), {object()}, float("nan"), "\ud800"])
def test_a_result_without_a_form_names_its_field(value: object) -> None:
    with pytest.raises(InvalidResult) as caught:
        make(stream="r").success(ENTRY, FIELDS, {"score": value})
    assert caught.value.field == "score"


@pytest.mark.parametrize(
    "options", [{"stream": "r"}, {"channel": "r"}, {"stream": "r", "channel": "r"}]
)
@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"segments": [{}, {"score": float("nan")}]}, r"result\.segments\[1\]\.score is nan"),
        ([{"score": object()}], r"result\[0\]\.score is of type object"),
        (Scored("hello", 1j), r"result\.score is of type complex"),
        ({"my score": object()}, r"result\['my score'\] is of type object"),
        ({"words": {("a", 1): 2}}, r"result\.words has the key \('a', 1\) of type tuple"),
        (object(), r"result is of type object"),
        ({"at": {"raw": [b"x"]}}, r"result\.at\.raw\[0\] is of type bytes"),
    ],
)
def test_what_has_no_form_in_a_result_is_named_by_its_place(
    options: dict[str, str], result: object, told: str
) -> None:
    with pytest.raises(InvalidResult, match=told):
        make(**options).success(ENTRY, FIELDS, result)  # type: ignore[arg-type]


def test_a_dataclass_becomes_the_fields_of_the_result_like_a_mapping() -> None:
    answer = make(stream="r").success(ENTRY, FIELDS, Scored("hello", 0.5))
    assert as_dict(answer) == {
        "message_id": "1-0",
        "status": "done",
        "text": "hello",
        "score": "0.5",
    }


def test_values_have_the_same_form_on_the_stream_and_on_the_channel() -> None:
    own = {"at": datetime(2026, 1, 2, 3, 4, 5), "file": PurePosixPath("/a/b"), "text": "x"}
    answer = make(stream="r", channel="r").success(ENTRY, FIELDS, own)
    assert as_dict(answer) == as_json(answer)
    assert as_json(answer)["at"] == "2026-01-02T03:04:05"
    assert as_json(answer)["file"] == "/a/b"


async def _asynchronous() -> None: ...


@pytest.mark.parametrize("stream", [None, "r"])
def test_all_that_has_not_run_is_closed(stream: str | None) -> None:
    """A coroutine that is never closed warns of it, which fails the test."""
    with pytest.raises(InvalidResult, match=r"result\[0\] is a coroutine, which has not run"):
        make(stream=stream).success(ENTRY, FIELDS, [_asynchronous(), {"b": _asynchronous()}])


def test_bytes_in_a_result_for_a_channel_are_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidMessage, match=r"'audio'.*result_stream") as caught:
        make(channel="r").success(ENTRY, FIELDS, {"audio": b"\x00"})
    assert caught.value.field == "audio"


def test_a_result_whose_field_names_are_not_text_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="field names"):
        make(stream="r").success(ENTRY, FIELDS, {1: "x"})
