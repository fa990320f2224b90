"""What commands print: text for people, or JSON for programs."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Mapping
from typing import TextIO


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
        too.
        """
        if self.is_json:
            print(json.dumps(document, default=_encode), file=self._file, flush=True)
        else:
            for line in lines:
                print(printable(line), file=self._file, flush=True)


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
