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


def netstrings(*items: bytes) -> bytes:
    return b"".join(b"%d:%b," % (len(item), item) for item in items)


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


def test_the_metadata_wins_over_a_field_of_the_message_of_the_same_name() -> None:
    stored = layout.parse([b"dead.reason", b"my own", b"n", b"1", *METADATA.to_items()])
    assert stored.metadata == METADATA
    assert stored.fields == {"n": b"1"}


@pytest.mark.parametrize(
    "items", [[b"a", b"1"], [b"a", b"1", b"b", b"2:3,"], [b"", b"", b"\xff", b"x" * 1000], []]
)
def test_the_fields_of_a_message_with_too_many_are_read_too(items: list[bytes]) -> None:
    stored = layout.parse([b"dead.fields", netstrings(*items), *METADATA.to_items()])
    names = [name.decode(errors="backslashreplace") for name in items[::2]]
    assert stored.fields == dict(zip(names, items[1::2], strict=True))
    assert stored.metadata == METADATA


def test_what_others_wrote_without_metadata_is_read_too() -> None:
    stored = layout.parse([b"n", b"1"])
    assert stored.fields == {"n": b"1"}
    assert stored.metadata == Metadata("", "", "", "", "", 0, 0, "", 0.0)
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
