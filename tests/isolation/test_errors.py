"""Errors that come out of a child process say what has happened there."""

from __future__ import annotations

import signal

import pytest

from shared_sync.isolation.errors import ChildCrashed, DeadlinePassed


@pytest.mark.parametrize(
    ("returncode", "text"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (-signal.SIGKILL, "killed by SIGKILL, perhaps by the system because memory ran out"),
        (-40, "killed by signal 40"),
    ],
)
def test_a_crash_says_in_words_how_the_child_has_ended(returncode: int, text: str) -> None:
    assert str(ChildCrashed(returncode)) == text


def test_a_crash_has_its_exit_code_or_its_signal() -> None:
    ended, killed = ChildCrashed(3), ChildCrashed(-signal.SIGSEGV)
    assert (ended.exit_code, ended.signal_number) == (3, None)
    assert (killed.exit_code, killed.signal_number) == (None, signal.SIGSEGV)


def test_a_crash_says_that_the_processor_was_being_loaded() -> None:
    crash = ChildCrashed(-signal.SIGSEGV, loading=True)
    assert str(crash) == "killed by SIGSEGV while it loaded the processor"


def test_a_passed_deadline_names_the_limit_and_its_option() -> None:
    assert str(DeadlinePassed(2.5)) == "still running after 2.5 s (job_deadline_seconds)"
