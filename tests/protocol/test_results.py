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
from shared_sync.protocol.job_options import OPTIONS, TYPES, JobOptions
from shared_sync.protocol.messages import Address, Answer, Entry, Finish, Output
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
        stream="jobs",
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
    """The fields of the entry that goes to the result stream, but for the types of values."""
    texts = [item.decode() for item in answer.items]
    if isinstance(answer, Finish) and answer.adds_header:
        texts = ["message_id", answer.id, "status", "done", *texts]
    fields = dict(zip(texts[::2], texts[1::2], strict=True))
    fields.pop(TYPES, None)
    return fields


def types_of(answer: Answer | Finish) -> dict[str, list[str]]:
    """The names of values that are not text, which the last field tells."""
    if TYPES.encode() not in answer.items:
        return {}
    assert answer.items[-2] == TYPES.encode()
    types: dict[str, list[str]] = json.loads(answer.items[-1])
    return types


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
    assert results.find_fault(FIELDS) is None
    fault = results.find_fault({"client_id": "c1"})
    assert fault is not None
    assert fault.error.field == "language"
    assert "'language', which result_channel needs, is missing" in str(fault.error)
    assert make(stream="r").find_fault({}) is None


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


def test_fields_are_carried_to_a_caller_even_without_a_result_stream() -> None:
    results = make(carry=("client_id",))
    fields = asked(reply_to=REPLIES) | {"client_id": "c1"}
    assert b"c1" in results.success(ENTRY, fields, {"text": "hi"}).items
    assert results.success(ENTRY, {"client_id": "c1"}, {"text": "hi"}).is_empty


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


# --- types ------------------------------------------------------------------------------------


class Word(str):
    """Text of a class of its own."""


@pytest.mark.parametrize(
    ("result", "types"),
    [
        ("hello", {}),
        ({"text": "hello", "word": Word("a"), "file": PurePosixPath("/a")}, {}),
        (3, {"json": ["result"]}),
        (b"raw", {"bytes": ["result"]}),
        (Scored("hello", None), {"json": ["score"]}),
        (
            {"n": 1, "yes": True, "words": ["a"], "none": None, "map": {"a": 1}, "t": "x"},
            {"json": ["n", "yes", "words", "none", "map"]},
        ),
        (
            {"a": bytearray(b"x"), "b": 1.5, "c": memoryview(b"y")},
            {"bytes": ["a", "c"], "json": ["b"]},
        ),
        ({}, {}),
    ],
)
def test_the_last_field_names_the_values_that_are_not_text(
    result: object, types: dict[str, list[str]]
) -> None:
    answer = make(stream="r").success(ENTRY, FIELDS, result)
    assert types_of(answer) == types
    assert types_of(make(stream="r", channel="c").success(ENTRY, FIELDS, "x")) == {}


def test_types_are_named_for_carried_fields_and_every_status_but_not_in_channels() -> None:
    results = make(stream="r", carry=("audio",), binary=("audio",))
    answer = results.success(ENTRY, {"audio": b"\xff"}, {"n": 1})
    assert types_of(answer) == {"bytes": ["audio"], "json": ["n"]}
    assert types_of(results.death("1-0", FIELDS, metadata("x"))) == {"json": ["attempts"]}
    both = make(stream="r", channel="c").success(ENTRY, FIELDS, {"n": 1})
    assert types_of(both) == {"json": ["n"]}
    assert TYPES not in as_json(both)


def test_a_result_cannot_tell_types_of_its_own() -> None:
    own = {TYPES: "all mine", "n": 1}
    answer = make(stream="r").success(ENTRY, FIELDS, own)
    assert types_of(answer) == {"json": ["n"]}
    assert as_dict(answer)[f"result.{TYPES}"] == "all mine"
    with pytest.raises(ConfigurationError, match="carry_fields may not name"):
        make(stream="r", carry=(OPTIONS,))


# --- callers ----------------------------------------------------------------------------------

REPLIES = "{jobs}:replies:ab12"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OUTPUTS = (Output("{jobs}:next", [b"text", b"a"]),)


def asked(**options: Any) -> dict[str, str | bytes]:
    """The fields of a message with options."""
    return {**FIELDS, OPTIONS: JobOptions(**options).to_item().decode()}


@pytest.mark.parametrize("stream", [None, "results"])
@pytest.mark.parametrize("result", ["hello", None])
def test_a_caller_gets_the_result_instead_of_the_result_stream_even_if_it_is_none(
    stream: str | None, result: str | None
) -> None:
    finish = make(stream=stream).success(ENTRY, asked(reply_to=REPLIES), result)
    assert finish.address == Address(REPLIES, may_create=False)
    content = {} if result is None else {"result": result}
    assert as_dict(finish) == {"message_id": "1-0", "status": "done", **content}
    assert finish.entry is ENTRY


def test_a_caller_and_a_channel_both_get_the_result() -> None:
    fields = asked(reply_to=REPLIES)
    finish = make(channel="r:{client_id}").success(ENTRY, fields, "hello")
    assert finish.channel == "r:c1"
    assert as_json(finish) == as_dict(finish)


def test_results_carry_the_id_that_the_caller_knows_and_its_trace() -> None:
    fields = asked(id="scheduled-1", traceparent=TRACE)
    results = make(stream="results", carry=("client_id",))
    facts = {"message_id": "scheduled-1", "client_id": "c1", "traceparent": TRACE}
    done = results.success(ENTRY, fields, "hello")
    assert as_dict(done) == {"status": "done", "result": "hello", **facts}
    assert done.address is None
    assert as_dict(results.death("1-0", fields, metadata("x"))).items() >= facts.items()
    assert list(as_dict(done)) == ["message_id", "status", "client_id", "traceparent", "result"]
    assert publishes_nothing(results.success(ENTRY, fields, None))


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_message_that_does_not_run_ends_with_an_entry_where_results_go(status: str) -> None:
    nowhere = make().ended(ENTRY, FIELDS, status, "why")
    assert (nowhere.status, nowhere.items, nowhere.address) == (status, (), None)
    assert nowhere.special is not None
    everywhere = make(stream="r", channel="c", carry=("client_id",)).ended(
        ENTRY, FIELDS, status, "why"
    )
    facts = {"message_id": "1-0", "status": status, "client_id": "c1", "reason": "why"}
    assert as_dict(everywhere) == as_json(everywhere) == facts
    caller = make(stream="r").ended(ENTRY, asked(reply_to=REPLIES), status, "why")
    assert caller.address == Address(REPLIES, may_create=False)


def test_a_caller_gets_the_result_of_a_dead_message() -> None:
    answer = make(stream="r").death("1-0", asked(reply_to=REPLIES), metadata("crashed"))
    assert answer.address == Address(REPLIES, may_create=False)
    assert as_dict(answer)["reason"] == "crashed"
    assert make(stream="r").death("1-0", FIELDS, metadata("crashed")).address is None


def test_progress_goes_where_the_result_will_go() -> None:
    assert make().progress("1-0", FIELDS, 0.5, {"text": "a"}) == Answer()
    results = make(stream="r", channel="c")
    answer = results.progress("1-0", asked(reply_to=REPLIES, id="s-1"), 0.5, {"words": ["a"]})
    assert answer.address == Address(REPLIES, may_create=False)
    assert types_of(answer) == {"json": ["progress", "words"]}
    facts = {"message_id": "s-1", "status": "progress", "progress": 0.5, "words": ["a"]}
    assert as_json(answer) == facts
    assert "progress" not in as_dict(results.progress("1-0", FIELDS, None, {"text": "a"}))
    with pytest.raises(InvalidMessage, match="score"):
        results.progress("1-0", FIELDS, None, {"score": object()})


def test_emitted_messages_are_published_when_their_message_ends() -> None:
    finish = make().success(ENTRY, FIELDS, None, OUTPUTS)
    assert (finish.outputs, finish.items) == (OUTPUTS, ())
    finish = make(stream="r").success(ENTRY, FIELDS, {"n": 1}, OUTPUTS)
    assert as_dict(finish) == {"message_id": "1-0", "status": "done", "n": "1"}
    assert finish.outputs == OUTPUTS


def test_a_message_that_forwards_its_job_has_no_result() -> None:
    fields = asked(reply_to=REPLIES, id="s-1")
    results = make(stream="r")
    for result in (None, "own"):
        finish = results.success(ENTRY, fields, result, OUTPUTS, forwards_reply=True)
        assert (finish.items, finish.address, finish.outputs) == ((), None, OUTPUTS)
    plain = make(stream="r", channel="c").success(
        ENTRY, FIELDS, "own", OUTPUTS, forwards_reply=True
    )
    assert (plain.items, plain.channel) == ((), "")
    with pytest.raises(InvalidResult):
        results.success(ENTRY, fields, (n for n in "ab"), OUTPUTS, forwards_reply=True)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[", "no JSON object"),
        (JobOptions(reply_to="jobs").to_item().decode(), "is not a reply stream"),
        (JobOptions(reply_to="{jobs}:g:replies:dead").to_item().decode(), "is not a reply stream"),
        (JobOptions(reply_to="{other}:replies:1").to_item().decode(), "is not a reply stream"),
    ],
)
def test_options_that_cannot_be_followed_are_bad_input_whose_result_goes_to_the_result_stream(
    value: str, told: str
) -> None:
    results, fields = make(stream="r"), {**FIELDS, OPTIONS: value}
    fault = results.find_fault(fields)
    assert fault is not None
    assert told in str(fault.error)
    assert fault.error.field == OPTIONS
    assert "other" not in fault.summary
    answer = results.death("1-0", fields, metadata("bad input"))
    assert (answer.address, as_dict(answer)["status"]) == (None, "dead")
    assert results.find_fault(asked(reply_to=REPLIES)) is None


# --- templates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("results:{client_id}", "results:c1"),
        ("{jobs}:results:{client_id}:{language}", "{jobs}:results:c1:de"),
        ("{client_id}", "c1"),
    ],
)
def test_a_result_stream_is_filled_from_the_message_and_its_hash_tag_is_literal(
    template: str, name: str
) -> None:
    results = make(stream=template)
    assert results.find_fault(FIELDS) is None
    finish = results.success(ENTRY, FIELDS, {"n": 1})
    assert finish.address == Address(name)
    assert as_dict(finish) == {"message_id": "1-0", "status": "done", "n": "1"}
    assert results.death("1-0", FIELDS, metadata("x")).address == Address(name)
    assert results.ended(ENTRY, FIELDS, "expired", "x").address == Address(name)
    reply = results.success(ENTRY, asked(reply_to=REPLIES), "x")
    assert reply.address == Address(REPLIES, may_create=False)
    assert publishes_nothing(results.success(ENTRY, FIELDS, None))


def test_a_result_stream_with_the_hash_tag_alone_is_fixed() -> None:
    assert make(stream="{jobs}:results").success(ENTRY, FIELDS, "x").address is None


def test_a_message_without_the_field_of_the_result_stream_is_bad_input_and_has_no_answer() -> None:
    results = make(stream="results:{client_id}")
    fault = results.find_fault({"text": "a"})
    assert fault is not None
    assert "'client_id', which result_stream needs, is missing" in str(fault.error)
    assert results.death("1-0", {"text": "a"}, metadata("bad input")) == Answer()


@pytest.mark.parametrize(
    "name", ["jobs", "{jobs}:workers:history", "{jobs}:cancelled", "{jobs}:published:a"]
)
def test_no_message_may_have_its_result_written_to_a_key_of_the_jobs(name: str) -> None:
    results = make(stream="{client_id}")
    fields = {"client_id": name}
    fault = results.find_fault(fields)
    assert fault is not None
    assert "is a key of the library" in str(fault.error)
    assert results.death("1-0", fields, metadata("bad input")) == Answer()


def test_a_result_stream_cannot_be_named_after_a_binary_field() -> None:
    with pytest.raises(ConfigurationError, match=r"result_stream .* binary"):
        make(stream="r:{audio}", binary=("audio",))
