"""What commands print: text for people, or JSON for programs."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Mapping
from typing import BinaryIO, TextIO

from shared_sync.cli.grammar import CommandFailed


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that `Output` reads."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON: one object on one line for each thing that is printed otherwise",
    )


class Output:
    """Prints in the form that the options ask for; to the standard output by default."""

    def __init__(self, options: argparse.Namespace, file: TextIO | None = None) -> None:
        # Fixed after construction.
        self.is_json: bool = options.json
        self._file = file or sys.stdout

    def show(self, document: Mapping[str, object], *lines: str) -> None:
        """Print one thing: the document as a line of JSON, or else the lines of text.

        A text may contain what others wrote, so what is not printable becomes a space; a line feed
        too. Raises as `write_line()` does.
        """
        for line in [json.dumps(document, default=_encode)] if self.is_json else lines:
            write_line(printable(line), self._file)


def write_line(text: str, file: TextIO | None = None) -> None:
    """Print to the file, or else to the standard output, at once, in any encoding that it has.

    Raises `CommandFailed` if that does not work, and `BrokenPipeError` if nobody reads.
    """
    file = file or sys.stdout
    encoding = getattr(file, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandFailed(f"the output cannot be written: {error.strerror}") from None


def standard_output() -> BinaryIO:
    """Return the standard output for bytes. Raises `CommandFailed` if it is closed."""
    if sys.stdout is None:
        raise CommandFailed("the standard output is closed; name a file instead of -")
    return sys.stdout.buffer


def value_for_json(value: bytes) -> str | dict[str, str]:
    """Return the value of a field as JSON can hold it: text, or base64 if it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def printable(text: str) -> str:
    """Return the text on one line, without what a terminal would take for commands."""
    return "".join(char if char.isprintable() else " " for char in text)


def _encode(value: object) -> object:
    return value_for_json(value) if isinstance(value, bytes) else str(value)
