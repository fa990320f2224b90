"""Runs a command, and turns what it raises into one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from shared_sync.cli.grammar import FAILED, INTERRUPTED, MISUSED, PROGRAM, explain, parse
from shared_sync.errors import ConfigurationError, SharedSyncError

OUTPUT_CLOSED = 141
"""The exit status if nobody reads the output any more, as of a program that SIGPIPE has ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. `arguments` are those of the process by default.

    Prints an error in one line. Raises `SystemExit` after `--help` and `--version`.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(words)
        status: int = options.run(options)
        if sys.stdout is not None:  # it is closed otherwise
            sys.stdout.flush()
    except ConfigurationError as error:
        return _fail(error, MISUSED)
    except SharedSyncError as error:
        return _fail(explain(error), FAILED)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        return OUTPUT_CLOSED
    return status


def _drop_output() -> None:
    """Drop what is left in the buffer: it would be written at exit, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(reason: object, status: int) -> int:
    print(f"{PROGRAM}: {reason}", file=sys.stderr)
    return status
