"""What is stored of a dead letter is read back, and the scripts use the same names."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from shared_sync.protocol import dead_letter_layout as layout
from shared_sync.protocol.dead_letter_layout import Metadata

METADATA = Metadata(
    message_id="17-0",
    reason="failed 2 times",
    error_type="ValueError",
    error="größer",
    traceback="Traceback ...",
    attempts=3,
    crashes=1,
    worker="stt-1",
    time=1_700_000_000.25,
)
LINES = [
    layout.failure_line(
        worker="stt-1", time=1.23456, attempt=attempt, error_type="ValueError", error="a\nb ä"
    )
    for attempt in (1, 2)
]


def history() -> list[bytes]:
    return [b"dead.history", "".join(f"{line}\n" for line in LINES).encode()]


def test_metadata_is_read_back_as_it_was_stored() -> None:
    stored = layout.parse([b"audio", b"\xff\x00", *METADATA.to_items(), *history()])
    assert stored.fields == {"audio": b"\xff\x00"}
    assert stored.metadata == METADATA
    assert stored.history == [json.loads(line) for line in LINES]


def test_a_failure_is_one_line_whatever_its_text() -> None:
    assert all(len(line.splitlines()) == 1 for line in LINES)
    assert json.loads(LINES[0]) == {
        "worker": "stt-1",
        "time": 1.235,
        "attempt": 1,
        "error_type": "ValueError",
        "error": "a\nb ä",
    }


def test_fields_and_metadata_of_the_same_names_are_kept_apart() -> None:
    own = [b"dead.reason", b"mine", b"dead.id", b"5-5", b"dead.fields", b"hello", b"n", b"1"]
    stored = layout.parse([*own, *METADATA.to_items()])
    assert stored.metadata == METADATA
    assert stored.fields == {
        "dead.reason": b"mine",
        "dead.id": b"5-5",
        "dead.fields": b"hello",
        "n": b"1",
    }


@pytest.mark.parametrize(
    "items", [[b"a", b"1"], [b"a", b"1", b"b", b"2:3,"], [b"", b"", b"\xff", b"x" * 1000]]
)
def test_packed_fields_are_read_too(items: list[bytes]) -> None:
    letter = [b"dead.fields", layout.pack(items), *METADATA.to_items()]
    stored = layout.parse(letter)
    names = [name.decode(errors="backslashreplace") for name in items[::2]]
    assert stored.fields == dict(zip(names, items[1::2], strict=True))
    assert stored.metadata == METADATA
    assert layout.message_items(letter) == items


@pytest.mark.parametrize(
    "value",
    [b"hello", b"", b"1:a", b"1:a,", b"1:a,1:b", b"1:a,9:b,", b":,:,", b"-1:,-1:,", b"9" * 5000],
)
def test_a_field_of_the_message_that_is_called_like_packed_ones_is_a_field(value: bytes) -> None:
    stored = layout.parse([b"dead.fields", value, *METADATA.to_items()])
    assert stored.fields == {"dead.fields": value}
    assert stored.metadata == METADATA


@pytest.mark.parametrize(
    "text", [b"many", b"", b"nan", b"inf", b"1e300", b"-1", b"9" * 5000, b"\xff"]
)
def test_metadata_that_cannot_be_read_are_0(text: bytes) -> None:
    names = (b"dead.attempts", b"dead.crashes", b"dead.time")
    metadata = [each for name in names for each in (name, text)]
    stored = layout.parse([b"n", b"1", b"dead.id", b"17-0", *metadata])
    assert stored.metadata == Metadata("17-0", "", "", "", "", 0, 0, "", 0.0)


def test_a_line_of_the_history_that_cannot_be_read_is_an_error_of_unknown_origin() -> None:
    odd = ("no JSON", '"text"', "[" * 100_000)
    lines = "\n".join([LINES[0], *odd, '{"worker": "w", "n": 1}', ""]).encode()
    stored = layout.parse([b"n", b"1", *METADATA.to_items(), b"dead.history", lines])
    unknown = {"worker": "", "time": 0.0, "attempt": 0, "error_type": "", "error": ""}
    assert stored.history == [
        json.loads(LINES[0]),
        *({**unknown, "error": line} for line in odd),
        {**unknown, "worker": "w", "n": 1},
    ]


def test_what_something_else_wrote_is_read_too_and_is_all_fields() -> None:
    stored = layout.parse([b"n", b"1", b"dead.reason", b"no use"])
    assert stored.fields == {"n": b"1", "dead.reason": b"no use"}
    assert stored.metadata == Metadata("", "no use", "", "", "", 0, 0, "", 0.0)
    assert stored.history == []


def test_the_scripts_use_names_of_the_layout() -> None:
    scripts = files("shared_sync.protocol").joinpath("lua")
    used = {
        name
        for script in scripts.iterdir()
        for name in re.findall(r"'(dead\.\w+)'", script.read_text(encoding="utf-8"))
    }
    known = {name.decode() for name in METADATA.to_items()[::2]}
    assert {layout.FIELDS, layout.HISTORY} < used
    assert used <= known | {layout.FIELDS, layout.HISTORY}
