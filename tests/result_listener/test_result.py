"""A result has the values that the processor returned, whichever client wrote its entry."""

from __future__ import annotations

import json

import pytest

from shared_sync.errors import JobFailed
from shared_sync.result_listener.result import Result, parse


def items(**fields: str | bytes) -> list[bytes]:
    listed: list[bytes] = []
    for name, value in fields.items():
        listed += (name.encode(), value if isinstance(value, bytes) else value.encode())
    return listed


def types(**kinds: list[str]) -> list[bytes]:
    return [b"shared_sync.types", json.dumps(kinds).encode()]


def test_values_have_the_types_that_the_entry_names() -> None:
    entry = items(
        message_id="1-0", status="done", text="7", count="7", yes="true", parts="[1, null]",
        audio=b"hello", traceparent="00-ab-cd-01",
    )  # fmt: skip
    result = parse("2-0", entry + types(json=["count", "yes", "parts"], bytes=["audio"]))
    assert result == Result(
        "1-0",
        "done",
        {"text": "7", "count": 7, "yes": True, "parts": [1, None], "audio": b"hello"},
        traceparent="00-ab-cd-01",
        entry_id="2-0",
    )
    assert result.ok
    assert result.is_final
    assert result.raise_for_status() is result


def test_an_entry_without_types_has_text_and_what_is_no_text_stays_bytes() -> None:
    result = parse("2-0", items(message_id="1-0", status="done", count="7", audio=b"\xff"))
    assert result.fields == {"count": "7", "audio": b"\xff"}


@pytest.mark.parametrize(
    "faulty",
    [b"{", b"[]", b'{"json": 1}', b"\xff", b'"x"', b'{"json": [["count"]]}',
     b'{"bytes": ["\\ud800"]}'],
)  # fmt: skip
def test_types_that_cannot_be_read_leave_text(faulty: bytes) -> None:
    entry = items(message_id="1-0", status="done", count="7")
    assert parse("2-0", [*entry, b"shared_sync.types", faulty]).fields == {"count": "7"}


def test_a_dead_message_has_its_reason_beside_the_fields() -> None:
    result = parse(
        "2-0",
        items(message_id="1-0", status="dead", client="c1", reason="failed 3 times",
              error_type="ValueError", error="no speech", attempts="3"),
    )  # fmt: skip
    assert result.fields == {"client": "c1"}
    assert (result.reason, result.attempts) == ("failed 3 times", 3)
    with pytest.raises(JobFailed, match="'dead': failed 3 times") as caught:
        result.raise_for_status()
    assert (caught.value.error_type, caught.value.error) == ("ValueError", "no speech")


def test_progress_is_a_number_and_is_not_final() -> None:
    entry = items(message_id="1-0", status="progress", progress="0.4", text="hel")
    result = parse("2-0", entry + types(json=["progress"]))
    assert (result.progress, result.fields) == (0.4, {"text": "hel"})
    assert not result.is_final
    assert not result.ok
    assert result.raise_for_status() is result


def test_what_a_processor_calls_reason_stays_among_the_fields() -> None:
    assert parse("2-0", items(status="done", reason="because")).fields == {"reason": "because"}


def test_an_entry_that_is_no_result_is_one_without_id_and_status() -> None:
    assert parse("2-0", items(temperature="21")) == Result(
        "", "", {"temperature": "21"}, entry_id="2-0"
    )
