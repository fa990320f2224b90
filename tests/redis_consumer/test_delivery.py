"""What becomes of a message that runs, and of one that must not be run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest
from deliveries import ID, LOGGER, Deliveries, entry, metadata, raising, result_of

from shared_sync.errors import InvalidMessage, Reject
from shared_sync.message import Message, current_message
from shared_sync.protocol.messages import Bury, Entry, Finish, Park

# --- success ----------------------------------------------------------------------------------


def test_a_processor_gets_the_id_and_the_fields_and_its_result_is_the_answer() -> None:
    deliveries = Deliveries(lambda _id, fields: {"upper": fields["text"].upper()})
    outcome = deliveries.attempt(entry())
    assert isinstance(outcome, Finish)
    assert outcome.id == ID
    assert result_of(outcome) == {"message_id": ID, "status": "done", "upper": "HELLO"}
    assert deliveries.calls == [(ID, {"text": "hello"})]


@pytest.mark.parametrize("channel", [None, "r:{text}"])
def test_a_result_of_none_is_done_without_an_outcome(channel: str | None) -> None:
    deliveries = Deliveries(lambda _id, _fields: None, channel=channel)
    assert deliveries.attempt(entry()) is None
    assert len(deliveries.calls) == 1


def test_a_result_that_goes_nowhere_is_done_without_an_outcome() -> None:
    """It is not even written: nobody would read it."""
    deliveries = Deliveries(lambda _id, _fields: object(), stream=None)
    assert deliveries.attempt(entry()) is None
    assert deliveries.figures.counters == {}


@dataclass
class Transcript:
    segments: Iterator[str]


@pytest.mark.parametrize("stream", [None, "results"])
@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda: (iter(["a"]), "info"), r"result\[0\] is a list_iterator"),
        (lambda: {"segments": map(str, [1])}, r"result.segments is a map"),
        (lambda: Transcript(filter(None, [])), r"result.segments is a filter"),
        (Future, r"result is a Future"),
        (lambda: [{"done": Future()}], r"result\[0\].done is a Future"),
    ],
)
def test_a_result_that_has_not_run_is_a_dead_letter_at_once(
    make: Callable[[], object], place: str, stream: str | None
) -> None:
    deliveries = Deliveries(lambda _id, _fields: make(), stream=stream)
    facts = metadata(deliveries.attempt(entry()))
    assert re.match(rf"bad result: .*{place}, which has not run", facts["dead.reason"])
    assert facts["dead.error_type"] == "InvalidResult"
    assert len(deliveries.calls) == 1
    assert deliveries.retries == []
    assert deliveries.figures.counters["jobs_failed"] == 1


@pytest.mark.parametrize(
    ("result", "place"),
    [
        ({"segments": [{"score": object()}]}, "result.segments[0].score is of type object"),
        ({"score": float("nan")}, "result.score is nan"),
        ({1: "x"}, "field names are text, not int"),
        ({f"f{n}": n for n in range(1001)}, "a message has 1 to 1000 fields, not 1001"),
    ],
)
def test_a_result_without_a_form_is_a_dead_letter_at_once_and_answers_why(
    result: object, place: str
) -> None:
    outcome = Deliveries(lambda _id, _fields: result).attempt(entry())
    assert isinstance(outcome, Bury)
    assert place in metadata(outcome)["dead.reason"]
    answer = result_of(outcome)
    assert answer["status"] == "dead"
    assert answer["error_type"] == "InvalidResult"
    assert place in answer["error"]
    (failure,) = [json.loads(outcome.failure)]
    assert failure["error_type"] == "InvalidResult"


def test_memory_that_runs_out_while_a_result_is_written_is_a_failure() -> None:
    class Huge(dict[str, object]):
        def items(self) -> Any:
            raise MemoryError

    outcome = Deliveries(lambda _id, _fields: Huge(a=1)).attempt(entry())
    assert isinstance(outcome, Park)


def test_an_invalid_message_that_the_processor_itself_raises_is_a_failure_like_any_other() -> None:
    outcome = Deliveries(raising(InvalidMessage("field 'x' cannot be stored"))).attempt(entry())
    assert isinstance(outcome, Park)


def test_binary_fields_reach_the_processor_as_bytes() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, binary=("audio",))
    deliveries.attempt(entry(b"audio", b"\xff\x00", b"text", b"hello"))
    assert deliveries.calls == [(ID, {"audio": b"\xff\x00", "text": "hello"})]


def test_what_a_processor_does_to_its_fields_does_not_change_what_is_carried() -> None:
    def spoil(_id: str, fields: dict[str, Any]) -> str:
        fields.clear()
        return "done"

    outcome = Deliveries(spoil, carry=("text",)).attempt(entry())
    assert isinstance(outcome, Finish)
    assert result_of(outcome)["text"] == "hello"


def test_the_current_message_tells_the_attempt() -> None:
    seen: list[Message] = []
    deliveries = Deliveries(lambda _id, _fields: seen.append(current_message()))
    deliveries.attempt(entry(deliveries=2, failures=1))
    assert seen == [Message(ID, {"text": "hello"}, attempt=2)]


# --- messages that are not run ----------------------------------------------------------------


def test_a_message_that_kills_its_processes_is_buried_without_running_again() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, max_crashes=2)
    outcome = deliveries.attempt(entry(deliveries=3))
    assert deliveries.calls == []
    facts = metadata(outcome)
    assert facts["dead.reason"].startswith("crashed")
    assert facts["dead.crashes"] == "2"
    assert isinstance(outcome, Bury)
    assert outcome.failure == ""


def test_below_the_crash_limit_it_runs() -> None:
    deliveries = Deliveries(lambda _id, _fields: "done", max_crashes=2)
    assert isinstance(deliveries.attempt(entry(deliveries=2)), Finish)


def test_failures_are_not_crashes() -> None:
    deliveries = Deliveries(lambda _id, _fields: "done", max_crashes=1)
    assert isinstance(deliveries.attempt(entry(deliveries=3, failures=2)), Finish)


def test_a_field_that_is_not_utf8_is_a_dead_letter_that_names_it() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, carry=("client",))
    outcome = deliveries.attempt(entry(b"client", b"c1", b"audio", b"\xff"))
    assert deliveries.calls == []
    facts = metadata(outcome)
    assert facts["dead.reason"].startswith("bad input: field 'audio'")
    assert "binary_fields" in facts["dead.reason"]
    assert isinstance(outcome, Bury)
    assert result_of(outcome)["client"] == "c1"


def test_a_field_name_that_is_not_utf8_is_a_dead_letter() -> None:
    outcome = Deliveries(lambda _id, _fields: None).attempt(entry(b"n\xff", b"x"))
    assert metadata(outcome)["dead.reason"].startswith("bad input: the field name")


def test_an_undecodable_message_still_answers_on_its_channel_if_that_field_is_readable() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, channel="r:{client}")
    outcome = deliveries.attempt(entry(b"client", b"c1", b"audio", b"\xff"))
    assert isinstance(outcome, Bury)
    assert outcome.answer.channel == "r:c1"
    assert json.loads(outcome.answer.payload)["status"] == "dead"


def test_an_undecodable_channel_field_is_a_dead_letter_without_a_channel() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, channel="r:{client}")
    outcome = deliveries.attempt(entry(b"client", b"\xff"))
    assert isinstance(outcome, Bury)
    assert outcome.answer.channel == ""
    assert result_of(outcome)["status"] == "dead"


def test_a_message_without_the_field_that_the_channel_needs_is_a_dead_letter() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, channel="r:{client}")
    outcome = deliveries.attempt(entry())
    assert deliveries.calls == []
    assert metadata(outcome)["dead.reason"].startswith("bad input: field 'client'")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (entry(b"client", b"c1", b"audio", b"\xff"), "InvalidMessage"),
        (entry(), "InvalidMessage"),  # without the field that names the channel
        (entry(b"client", b"c1", deliveries=4), "crash"),
    ],
    ids=["undecodable", "incomplete", "crashed"],
)
def test_a_message_that_is_given_up_on_without_a_run_counts_as_one_failure(
    message: Entry, error: str
) -> None:
    deliveries = Deliveries(lambda _id, _fields: None, channel="r:{client}", max_crashes=3)
    assert isinstance(deliveries.attempt(message), Bury)
    assert deliveries.calls == []
    assert deliveries.figures.counters == {"jobs_failed": 1, f"errors.{error}": 1}


# --- what is seen of it meanwhile -------------------------------------------------------------


def test_the_slot_says_whether_the_processor_runs() -> None:
    seen: list[bool] = []
    deliveries = Deliveries(lambda *_: seen.append(deliveries.slot.runs_processor))
    deliveries.attempt(entry())
    assert seen == [True]
    assert not deliveries.slot.runs_processor


@pytest.mark.parametrize("deliveries_before", [1, 3], ids=["retried", "buried"])
def test_what_is_logged_of_a_failure_is_not_the_processors_time(
    deliveries_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that never returns has to be found out."""
    seen: list[bool] = []
    deliveries = Deliveries(raising(ValueError("bad day")))

    def log(*_: object, **__: object) -> None:
        seen.append(deliveries.slot.runs_processor)

    monkeypatch.setattr(LOGGER, "warning", log)
    monkeypatch.setattr(LOGGER, "error", log)
    deliveries.attempt(entry(deliveries=deliveries_before, failures=deliveries_before - 1))
    assert seen == [False]


@pytest.mark.parametrize("error", [None, ValueError(), SystemExit(), Reject()])
def test_wait_and_processing_time_are_recorded_whatever_happens(
    error: BaseException | None,
) -> None:
    deliveries = Deliveries(raising(error) if error else lambda _id, _fields: None)
    deliveries.attempt(entry())
    assert deliveries.figures.durations == {"queue_wait": 1, "processing_latency": 1}


def test_of_a_message_that_is_not_run_no_time_is_recorded() -> None:
    deliveries = Deliveries(lambda _id, _fields: None)
    deliveries.attempt(entry(deliveries=9))
    deliveries.attempt(entry(b"audio", b"\xff"))
    assert deliveries.figures.durations == {}
