"""An error of the child is made anew in the parent, as far as it can be known there."""

from __future__ import annotations

import json
import subprocess

import pytest

from shared_sync import JobCancelled, Reject, Retry
from shared_sync.common.passages import Passage, add_passage, passages_of
from shared_sync.errors import CircuitOpen, ConfigurationError, Directive, InvalidResult
from shared_sync.isolation.error_description import describe, remake, type_of
from shared_sync.isolation.errors import RemoteError


class Unreadable(Exception):
    def __str__(self) -> str:
        raise OSError("gone")


class Postponed(Retry):
    def __init__(self, place: int) -> None:
        super().__init__(5.0, f"place {place}")


class Damaged(Reject):
    pass


def over_the_wire(error: BaseException) -> BaseException:
    """Raise the error, so that it has a traceback, and send it to a parent."""

    def fail() -> None:
        raise error

    try:
        fail()
    except BaseException as raised:
        return remake(json.loads(json.dumps(describe(raised))))
    raise AssertionError


def caused_by(cause: BaseException, error: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def test_any_other_error_becomes_a_remote_error() -> None:
    error = over_the_wire(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))
    assert isinstance(error, RemoteError)
    assert error.type_name == "UnicodeDecodeError"
    assert error.base_names == (
        "UnicodeDecodeError",
        "UnicodeError",
        "ValueError",
        "Exception",
        "BaseException",
    )
    assert str(error) == "'utf-8' codec can't decode byte 0xff in position 0: bad"
    assert "in fail" in error.traceback_text
    assert error.return_codes == ()


@pytest.mark.parametrize(
    "error",
    [
        Reject("no use"),
        JobCancelled("message 1-0 was cancelled"),
        Retry(3.5, "later"),
        Retry(None, "later"),
        InvalidResult("no form", field="text"),
        CircuitOpen("translator", 7.5),
        ConfigurationError("devices"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_this_library_is_made_anew(error: Exception) -> None:
    found = over_the_wire(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    for name in ("delay_seconds", "field", "name", "retry_after_seconds"):
        assert getattr(found, name, None) == getattr(error, name, None)
    assert isinstance(found.__cause__, RemoteError)
    assert "in fail" in found.__cause__.traceback_text


def test_an_error_that_is_derived_from_one_of_this_library_keeps_its_name() -> None:
    damaged, postponed = over_the_wire(Damaged("header")), over_the_wire(Postponed(3))
    assert isinstance(damaged, Reject)
    assert isinstance(postponed, Retry)
    assert (type(damaged).__name__, str(damaged)) == ("Damaged", "header")
    assert (type(postponed).__name__, postponed.delay_seconds) == ("Postponed", 5.0)
    assert str(postponed) == "place 3"


def test_return_codes_arrive() -> None:
    found = over_the_wire(caused_by(subprocess.CalledProcessError(-15, "ffmpeg"), ValueError()))
    assert isinstance(found, RemoteError)
    assert found.return_codes == (-15,)


def test_causes_arrive() -> None:
    found = over_the_wire(caused_by(caused_by(OSError("c"), Reject("b")), ValueError("a")))
    assert isinstance(found.__cause__, Reject)
    remote = found.__cause__.__cause__
    assert isinstance(remote, RemoteError)
    assert str(remote.__cause__) == "c"


def test_the_circuit_breakers_that_an_error_came_through_arrive() -> None:
    cause = OSError("away")
    add_passage(cause, Passage("translator"))
    found = over_the_wire(caused_by(cause, ValueError("no translation")))
    assert passages_of(found) == ()
    assert found.__cause__ is not None
    assert passages_of(found.__cause__) == (Passage("translator"),)


def test_an_error_whose_text_cannot_be_read_arrives_all_the_same() -> None:
    assert str(over_the_wire(Unreadable())) == "(its text cannot be read)"


def test_the_type_to_count_by_is_the_one_that_is_known_here() -> None:
    assert type_of(["UnicodeDecodeError", "UnicodeError"]) is UnicodeDecodeError
    assert type_of(["shared_sync.errors.Reject", "shared_sync.errors.Directive"]) is Reject
    assert issubclass(Reject, Directive)


def test_a_type_that_is_not_known_here_is_made_with_its_nearest_known_base() -> None:
    made = type_of(["torch.cuda.OutOfMemoryError", "RuntimeError", "Exception"])
    assert (made.__name__, made.__bases__) == ("OutOfMemoryError", (RuntimeError,))
    assert type_of(["torch.cuda.OutOfMemoryError", "RuntimeError", "Exception"]) is made
    assert type_of([]).__name__ == "Exception"
