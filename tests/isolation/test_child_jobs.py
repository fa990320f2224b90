"""What a processor does with its messages in a child comes out of the child with the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shared_sync.errors import ConsumerStateError, InvalidMessage, InvalidResult, JobCancelled
from shared_sync.isolation import frames
from shared_sync.isolation.child_jobs import Jobs, finish_of, outputs_of
from shared_sync.isolation.error_description import remake
from shared_sync.isolation.wire import Frame
from shared_sync.message import Message, current_message
from shared_sync.processors import LoadedProcessor
from shared_sync.protocol import progress
from shared_sync.protocol.job_options import OPTIONS, JobOptions
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Entry, Output
from shared_sync.protocol.results import Results

Process = Callable[[str, dict[str, Any]], object]
ProcessBatch = Callable[[Sequence[Message]], Sequence[object]]
ASKED = JobOptions(reply_to="{jobs}:replies:a", expires_seconds=30, traceparent="00-1")


def new_jobs(
    *, result_stream: str | None = "results", send: Callable[[Sequence[Any]], None] = list
) -> Jobs:
    results = Results(
        stream="jobs",
        result_stream=result_stream,
        result_channel=None,
        carry_fields=(),
        binary_fields=(),
    )
    keys = Keys.of("jobs", "workers")
    return Jobs(results, binary_fields=frozenset(), keys=keys, is_cluster=False, send_progress=send)


def job_of(*messages: tuple[str, JobOptions | None]) -> Frame:
    """The job of some messages, as the parent sends it."""
    described: list[tuple[str, int, int]] = []
    parts: list[bytes] = []
    for message_id, options in messages:
        items = [b"text", b"hello"]
        if options is not None:
            items += [OPTIONS.encode(), options.to_item()]
        described.append((message_id, 1, len(items)))
        parts += items
    return Frame(frames.JOB, {"messages": described, "number": 7, "clock": 1_700_000_010.0}, parts)


def run_one(jobs: Jobs, process: Process, options: JobOptions | None = None) -> Frame:
    return jobs.run(LoadedProcessor(process), job_of(("1-0", options)))


def run_batch(jobs: Jobs, process: ProcessBatch, *ids: str) -> Frame:
    return jobs.run(LoadedProcessor(process_batch=process), job_of(*((one, None) for one in ids)))


def emitted_in(answer: Frame) -> dict[int, tuple[bool, list[Output]]]:
    """By the places of the messages: whether they forward the reply, and their outputs."""
    parts = iter(answer.parts)
    for outcome in answer.header["outcomes"]:
        if outcome is not None and "items" in outcome:
            finish_of(outcome, parts, Entry("1-0", []))
    found = {
        place: (forwards_reply, outputs_of(emitted, parts))
        for place, forwards_reply, emitted in answer.header.get("jobs", ())
    }
    assert next(parts, None) is None, "all parts belong to something"
    return found


def test_a_message_that_uses_no_feature_adds_nothing_to_the_frame() -> None:
    answer = run_one(new_jobs(), lambda *_: "done")
    assert set(answer.header) == {"outcomes"}
    assert answer.parts == (b"result", b"done", b"")


def test_emitted_messages_come_with_the_result() -> None:
    def process(*_: object) -> str:
        current_message().emit("next", {"text": "a", "audio": b"\xff" * 20_000})
        current_message().emit("other", {"n": 1})
        return "done"

    answer = run_one(new_jobs(), process)
    assert emitted_in(answer) == {
        0: (
            False,
            [
                Output("next", [b"text", b"a", b"audio", b"\xff" * 20_000]),
                Output("other", [b"n", b"1"]),
            ],
        )
    }
    assert emitted_in(run_one(new_jobs(), lambda *_: current_message().attempt)) == {}


def test_a_message_knows_its_options_and_its_processor_does_not_see_them() -> None:
    known: list[object] = []

    def process(_: str, fields: dict[str, Any]) -> None:
        message = current_message()
        assert fields == message.fields == {"text": "hello"}
        message.emit("{jobs}:next", {"a": "b"}, forward_reply=True)
        known.extend((message.reply_to, message.traceparent))
        known.extend((message.expires_at, message.resume_data))

    sent = "1700000000000-0"
    answer = new_jobs().run(LoadedProcessor(process), job_of((sent, ASKED)))
    ((forwards_reply, (output,)),) = emitted_in(answer).values()
    assert forwards_reply
    assert JobOptions.parse(output.items[-1]).reply_to == ASKED.reply_to
    assert JobOptions.parse(output.items[-1]).id == sent
    assert known == ["{jobs}:replies:a", "00-1", 1700000030.0, None]


@pytest.mark.parametrize("result", [None, "text"])
def test_a_result_that_a_caller_waits_for_is_encoded_without_a_result_stream(
    result: object,
) -> None:
    answer = run_one(new_jobs(result_stream=None), lambda *_: result, ASKED)
    (outcome,) = answer.header["outcomes"]
    assert (outcome is None) == (result is None), "the parent makes the answer of nothing"
    assert (b"text" in answer.parts) == (result is not None)


def test_each_message_of_a_batch_has_outputs_of_its_own() -> None:
    def process(messages: Sequence[Message]) -> list[object]:
        for message in messages:
            message.emit("next", {"of": message.id})
        messages[2].emit("other", {"of": "3-0"})
        return ["done", ValueError("bad"), None]

    answer = run_batch(new_jobs(), process, "1-0", "2-0", "3-0")
    assert emitted_in(answer) == {
        0: (False, [Output("next", [b"of", b"1-0"])]),
        2: (False, [Output("next", [b"of", b"3-0"]), Output("other", [b"of", b"3-0"])]),
    }, "what a message that has failed has emitted is dropped"


def test_messages_emitted_by_a_failed_attempt_are_dropped() -> None:
    def process(*_: object) -> None:
        current_message().emit("next", {"text": "a"})
        raise ValueError("bad")

    answer = run_one(new_jobs(), process)
    assert answer.kind == frames.FAILED
    assert answer.parts == ()


def test_a_message_that_has_ended_does_nothing_more() -> None:
    kept: list[Message] = []
    run_one(new_jobs(), lambda *_: kept.append(current_message()))
    with pytest.raises(ConsumerStateError, match="has ended"):
        kept[0].emit("next", {"text": "late"})


def test_cancelling_reaches_a_message_that_runs_and_one_that_is_about_to() -> None:
    jobs = new_jobs()

    def process(message_id: str, _: object) -> None:
        message = current_message()
        if message_id == "1-0":
            other = threading.Thread(target=jobs.cancel, args=(["1-0"],))
            other.start()
            assert message.cancelled.wait(10)
            other.join(10)
        message.raise_if_cancelled()

    for before in ([], ["2-0"]):
        jobs.cancel(before)
        message_id = before[0] if before else "1-0"
        answer = jobs.run(LoadedProcessor(process), job_of((message_id, None)))
        assert isinstance(remake(answer.header["error"]), JobCancelled)
    assert jobs.run(LoadedProcessor(process), job_of(("3-0", None))).kind == frames.DONE
    assert jobs.run(LoadedProcessor(process), job_of(("2-0", None))).kind == frames.DONE, (
        "what was said about an earlier job is forgotten with it"
    )


def test_each_message_of_a_batch_is_cancelled_on_its_own() -> None:
    jobs = new_jobs()

    def process(messages: Sequence[Message]) -> list[object]:
        jobs.cancel(["2-0"])
        return [str(one.cancelled.is_set()) for one in messages]

    answer = run_batch(jobs, process, "1-0", "2-0")
    assert [part for part in answer.parts if part in (b"True", b"False")] == [b"False", b"True"]


def test_progress_is_sent_at_once_and_the_last_comes_with_the_answer_too() -> None:
    sent: list[Sequence[Any]] = []

    def process(messages: Sequence[Message]) -> list[object]:
        messages[0].report_progress(0.1, text="a", raw=b"\xff")
        messages[1].report_progress(0.5)
        assert [one[1:3] for one in sent] == [("1-0", 1), ("2-0", 2)]
        messages[0].report_progress(text="b")
        return ["done", ValueError("bad")]

    answer = run_batch(new_jobs(send=sent.append), process, "1-0", "2-0")
    first, second, third = sent
    assert answer.header["progress"] == [third[1:], second[1:]]
    assert {job_number for job_number, *_ in sent} == {7}
    contents = [progress.content_of(content) for *_, content in sent]
    assert contents == [
        {"progress": 0.1, "text": "a", "raw": b"\xff"},
        {"progress": 0.5},
        {"progress": None, "text": "b"},
    ]
    assert first[0] == 7


def test_the_last_progress_of_a_job_that_fails_comes_with_its_answer() -> None:
    def process(*_: object) -> None:
        current_message().report_progress(0.9)
        raise ValueError("bad")

    jobs = new_jobs()
    assert run_one(jobs, process).header["progress"] == [("1-0", 1, '{"progress": 0.9}')]
    assert "progress" not in run_one(jobs, lambda *_: current_message().attempt).header


@pytest.mark.parametrize(
    ("value", "fields"), [(1.5, {}), (0.5, {"status": "x"}), (0.5, {"text": object()})]
)
def test_progress_that_cannot_be_published_is_refused_at_the_call(
    value: float, fields: dict[str, object]
) -> None:
    sent: list[Sequence[Any]] = []
    answer = run_one(
        new_jobs(send=sent.append), lambda *_: current_message().report_progress(value, **fields)
    )
    assert isinstance(remake(answer.header["error"]), InvalidMessage)
    assert sent == []
    assert "progress" not in answer.header


def test_a_message_resumes_with_what_an_earlier_attempt_has_reported() -> None:
    job = job_of(("1-0", None), ("2-0", None))
    stored = b"ab12 3 " + progress.store(0.5, {"place": 7})
    job.header["resume"] = {"2-0": stored.decode()}
    found: list[object] = []

    def process(messages: Sequence[Message]) -> list[object]:
        found.extend(one.resume_data for one in messages)
        return [None, None]

    new_jobs().run(LoadedProcessor(process_batch=process), job)
    assert found == [None, {"progress": 0.5, "place": 7}]


def test_a_result_that_is_an_error_is_no_error_of_the_processor() -> None:
    answer = run_one(new_jobs(), lambda *_: ValueError("returned"))
    assert isinstance(remake(answer.header["error"]), InvalidResult)


def test_a_result_that_is_read_when_the_processor_has_returned_emits_nothing() -> None:
    class Lazy(dict[str, object]):
        def items(self) -> Any:
            message.emit("next", {"text": "late"})
            return super().items()

    def process(*_: object) -> object:
        nonlocal message
        message = current_message()
        return Lazy(text="read later")

    message = Message("0-0", {}, 1)
    answer = run_one(new_jobs(), process)
    assert isinstance(remake(answer.header["error"]), ConsumerStateError)
