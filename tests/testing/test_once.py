"""What a processor does with one message is what a consumer would make of it."""

from __future__ import annotations

from typing import Any

import pytest

from shared_sync import (
    CircuitOpen,
    ConfigurationError,
    InvalidMessage,
    Retry,
    WorkerBroken,
    current_message,
)
from shared_sync.testing import Emitted, run_once

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_message_arrives_as_it_would_from_redis() -> None:
    def process(message_id: str, fields: dict[str, Any]) -> dict[str, object]:
        message = current_message()
        assert (message.id, message.fields) == (message_id, fields)
        return {"fields": fields, "attempt": message.attempt, "resume": message.resume_data}

    ran = run_once(
        process,
        {"text": "é", "n": 7, "audio": b"\xff", "list": [1]},
        attempt=2,
        binary_fields=("audio",),
        resume_data={"progress": 0.5, "page": 3, "raw": b"\xff"},
    )
    assert ran.returned == {
        "fields": {"text": "é", "n": "7", "audio": b"\xff", "list": "[1]"},
        "attempt": 2,
        "resume": {"progress": 0.5, "page": 3, "raw": b"\xff"},
    }
    assert ran.outcome == "dead", "bytes within a mapping have no form"
    assert ran.reason.startswith("bad result: field 'fields'")


def test_forwarding_and_emitting_is_seen_and_only_of_a_message_that_is_done() -> None:
    def process(_: str, fields: dict[str, Any]) -> str:
        message = current_message()
        message.emit("other", {"raw": b"\xff"})
        message.emit("{jobs}:next", {"n": 1}, forward_reply=True)
        if "fail" in fields:
            raise Retry(7)
        return message.traceparent

    ran = run_once(process, {"n": 1}, traceparent=TRACE)
    assert ran.emitted == (
        Emitted("other", {"raw": b"\xff"}, forwards_reply=False),
        Emitted("{jobs}:next", {"n": "1"}, forwards_reply=True),
    )
    assert (ran.outcome, ran.result, ran.returned) == ("done", None, TRACE)
    failed = run_once(process, {"fail": 1})
    assert (failed.outcome, failed.retry_seconds, failed.emitted) == ("retry", 7.0, ())
    assert isinstance(failed.error, Retry)


def test_a_processor_may_watch_for_its_cancellation_or_break_its_worker() -> None:
    def watch(_: str, __: object) -> str:
        message = current_message()
        reported = 0
        while not message.cancelled.is_set():
            message.report_progress(step=reported)
            reported += 1
        return f"cancelled after {reported}"

    ran = run_once(watch, {"n": 1}, cancel_after_reports=3)
    assert (ran.outcome, ran.returned) == ("done", "cancelled after 3")
    assert ran.progress == tuple({"progress": None, "step": n} for n in range(3))
    assert run_once(watch, {"n": 1}, cancel_after_reports=0).returned == "cancelled after 0"

    for error in (WorkerBroken("no GPU"), CircuitOpen("translator", 5.0)):

        def fail(_: str, __: object, error: Exception = error) -> None:
            raise error

        ran = run_once(fail, {"n": 1})
        assert (ran.outcome, ran.error) == ("handed back", error)


def test_an_import_path_serves_and_what_cannot_work_is_refused() -> None:
    ran = run_once("traced_processors:work", {"n": 1})
    assert ran.result is not None
    assert set(ran.result.fields) == {"done"}
    with pytest.raises(InvalidMessage, match="field 'n' cannot be stored"):
        run_once("traced_processors:work", {"n": object()})
    with pytest.raises(ConfigurationError, match="attempt must be"):
        run_once("traced_processors:work", {"n": 1}, attempt=0)
    with pytest.raises(ConfigurationError, match="must be a plain function"):
        run_once(_only_promises, {"n": 1})


async def _only_promises(_: str, __: object) -> None: ...
