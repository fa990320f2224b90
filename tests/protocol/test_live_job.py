"""A running message emits, and knows its caller, its trace, its expiry and its cancellation."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from shared_sync.errors import (
    ConfigurationError,
    ConsumerStateError,
    InvalidMessage,
    JobCancelled,
)
from shared_sync.message import Message
from shared_sync.protocol.job_options import OPTIONS, JobOptions
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.live_job import JobContext, LiveJob
from shared_sync.protocol.messages import Entry, Output

NOW = 1_800_000_000.0
ID = f"{round(NOW * 1000)}-0"


def new_job(
    options: JobOptions | None = None,
    *,
    is_cluster: bool = False,
    age_seconds: float = 0.0,
    message_id: str = ID,
    max_age_seconds: float | None = None,
) -> LiveJob:
    """A job that runs, so many seconds after its message was published."""
    items = [b"text", b"hello"]
    if options is not None:
        items += [OPTIONS.encode(), options.to_item()]
    keys = Keys.of("jobs", "workers")
    context = JobContext(
        keys,
        is_cluster,
        server_time=lambda: NOW + age_seconds,
        max_age_seconds=max_age_seconds,
    )
    return LiveJob(Entry(message_id, items), context)


def message_of(job: LiveJob) -> Message:
    return Message(job.entry.id, {}, 1, job)


def options_in(output: Output) -> JobOptions:
    name, value = output.items[-2:]
    assert name == OPTIONS.encode()
    return JobOptions.parse(value)


def test_what_is_emitted_is_kept_in_its_order() -> None:
    job = new_job()
    message_of(job).emit("next", {"text": "a", "count": 1})
    message_of(job).emit("other", {"text": "b"})
    assert job.outputs == [
        Output("next", [b"text", b"a", b"count", b"1"]),
        Output("other", [b"text", b"b"]),
    ]
    assert not job.forwards_reply


def test_a_forwarded_message_has_the_caller_of_the_first_one() -> None:
    asked = JobOptions(reply_to="{jobs}:replies:a", expires_seconds=30, traceparent="00-1")
    job = new_job(asked, age_seconds=12.0)
    message_of(job).emit("{jobs}:next", {"text": "a"}, forward_reply=True)
    forwarded = options_in(job.outputs[0])
    assert forwarded == JobOptions("{jobs}:replies:a", ID, 18.0, "00-1")
    assert job.forwards_reply
    job = new_job(JobOptions(reply_to="{jobs}:replies:a", id="first"))
    message_of(job).emit("{jobs}:next", {"text": "a"}, forward_reply=True)
    assert options_in(job.outputs[0]) == JobOptions("{jobs}:replies:a", "first")


def test_a_caller_is_handed_on_once_as_it_gets_one_answer() -> None:
    job = new_job(JobOptions(reply_to="{jobs}:replies:a"))
    message_of(job).emit("{jobs}:next", {"text": "a"}, forward_reply=True)
    with pytest.raises(ConsumerStateError, match="is forwarded already"):
        message_of(job).emit("{jobs}:other", {"text": "b"}, forward_reply=True)
    message_of(job).emit("{jobs}:other", {"text": "b"})
    assert [one.stream for one in job.outputs] == ["{jobs}:next", "{jobs}:other"]


def test_without_forwarding_only_the_trace_goes_on() -> None:
    job = new_job(JobOptions(reply_to="{jobs}:replies:a", expires_seconds=30, traceparent="00-1"))
    message_of(job).emit("next", {"text": "a"})
    assert options_in(job.outputs[0]) == JobOptions(traceparent="00-1")


def test_a_job_cannot_be_forwarded_to_a_stream_with_another_hash_tag() -> None:
    job = new_job()
    with pytest.raises(ConfigurationError, match=r"'\{jobs\}:next'"):
        message_of(job).emit("next", {"text": "a"}, forward_reply=True)
    assert job.outputs == []


@pytest.mark.parametrize("key", ["workers:dead", "workers:due", "cancelled", "scheduled:messages"])
def test_a_key_of_the_library_is_refused_at_the_call_and_the_own_stream_is_not(key: str) -> None:
    job = new_job()
    with pytest.raises(ConfigurationError, match="a key of the library"):
        message_of(job).emit("{jobs}:" + key, {"text": "a"})
    message_of(job).emit("jobs", {"text": "a"})
    assert [one.stream for one in job.outputs] == ["jobs"]


def test_in_a_cluster_a_stream_in_another_slot_is_refused_at_the_call() -> None:
    job = new_job(is_cluster=True)
    with pytest.raises(ConfigurationError, match=r"another slot.*'\{jobs\}:next'"):
        message_of(job).emit("next", {"text": "a"})
    message_of(job).emit("{jobs}:next", {"text": "a"})
    assert [one.stream for one in job.outputs] == ["{jobs}:next"]


@pytest.mark.parametrize("fields", [{}, {"a": object()}, {"shared_sync.options": "{}"}, 5, None])
def test_what_cannot_be_published_is_refused_at_the_call(fields: Any) -> None:
    job = new_job()
    with pytest.raises(InvalidMessage):
        message_of(job).emit("next", fields)
    assert job.outputs == []


def test_a_message_that_has_ended_emits_nothing_more() -> None:
    job = new_job()
    job.end()
    with pytest.raises(ConsumerStateError, match="has ended"):
        message_of(job).emit("next", {"text": "a"})


def test_a_message_knows_its_caller_trace_and_expiry() -> None:
    asked = JobOptions(reply_to="{jobs}:replies:a", expires_seconds=1.5, traceparent="00-1")
    message = message_of(new_job(asked))
    assert (message.reply_to, message.traceparent) == ("{jobs}:replies:a", "00-1")
    assert message.expires_at == NOW + 1.5
    assert message_of(new_job(asked, max_age_seconds=1)).expires_at == NOW + 1
    assert message_of(new_job(max_age_seconds=1)).expires_at == NOW + 1
    chosen = message_of(new_job(asked, message_id="5-0"))
    assert chosen.expires_at is None
    plain = message_of(new_job())
    assert (plain.reply_to, plain.traceparent, plain.expires_at) == ("", "", None)


def test_cancelling_wakes_threads_that_wait_for_it() -> None:
    job = new_job()
    message = message_of(job)
    message.raise_if_cancelled()
    waits = threading.Event()
    woken: list[bool] = []

    def wait() -> None:
        waits.set()
        woken.append(message.cancelled.wait(10))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(10)
    assert not job.is_cancelled
    job.cancelled.set()
    thread.join(10)
    assert woken == [True]
    assert job.is_cancelled
    with pytest.raises(JobCancelled, match=ID):
        message.raise_if_cancelled()
