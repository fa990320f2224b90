"""What comes out of a child process instead of a result."""

from __future__ import annotations

import signal
from collections.abc import Sequence


class RemoteError(Exception):
    """An error that was raised in a child process, as far as it is known here.

    The text of this exception is the text of that error.

    Attributes:
        type_name: The name of its type, without the module.
        base_names: Its type and all of its base types, nearest first, each as "module.name"; those
            of Python itself without "builtins.".
        traceback_text: The traceback as the child's interpreter formats it, causes included.
        return_codes: Return codes of programs that it and its causes tell of, such as -15.
    """

    def __init__(
        self,
        text: str,
        *,
        type_name: str,
        base_names: Sequence[str] = (),
        traceback_text: str = "",
        return_codes: Sequence[int] = (),
    ) -> None:
        super().__init__(text)
        self.type_name = type_name
        self.base_names = tuple(base_names)
        self.traceback_text = traceback_text
        self.return_codes = tuple(return_codes)


class ChildCrashed(Exception):
    """A child process has ended without an answer; the text says how, such as "killed by SIGSEGV".

    Attributes:
        exit_code: Its exit code; None if a signal has killed it.
        signal_number: The signal that has killed it; None if it ended by itself.
        stack: Where its threads were, as far as that is known: after a segmentation fault, but not
            after SIGKILL.
        loading: Whether it was loading the processor, so that no message has run.
    """

    def __init__(self, returncode: int, *, stack: str = "", loading: bool = False) -> None:
        self.exit_code = returncode if returncode >= 0 else None
        self.signal_number = -returncode if returncode < 0 else None
        self.stack = stack
        self.loading = loading
        super().__init__(_ending(returncode) + (" while it loaded the processor" * loading))


class ChildGone(Exception):
    """A child process had ended before it got the attempt, so that no message has run."""


class DeadlinePassed(Exception):
    """An attempt ran for longer than `job_deadline_seconds`, and its child process was ended.

    Attributes:
        deadline_seconds: The limit.
        stack: Where the threads of the child were when it was told to end.
    """

    def __init__(self, deadline_seconds: float, *, stack: str = "") -> None:
        super().__init__(f"still running after {deadline_seconds:g} s (job_deadline_seconds)")
        self.deadline_seconds = deadline_seconds
        self.stack = stack


class GracePassed(Exception):
    """The messages of an attempt were cancelled, and its child was ended because it continued.

    Attributes:
        grace_seconds: How long the child continued.
    """

    def __init__(self, grace_seconds: float) -> None:
        super().__init__(
            f"still running {grace_seconds:g} s after its message was cancelled "
            "(kill_grace_seconds)"
        )
        self.grace_seconds = grace_seconds


def _ending(returncode: int) -> str:
    """Return how a child process has ended, in words."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:  # a real-time signal
        name = f"signal {-returncode}"
    if -returncode == getattr(signal, "SIGKILL", 9):
        return f"killed by {name}, perhaps by the system because memory ran out"
    return f"killed by {name}"
