"""Messages that a command is given: fields on its command line, or lines of JSON."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO, Final

from shared_sync.cli.grammar import CommandFailed
from shared_sync.errors import ConfigurationError

STANDARD: Final = "-"
"""The name of a file that stands for the standard input or output."""

BLOCK_BYTES: Final = 1024 * 1024


def read_fields(arguments: Sequence[str]) -> dict[str, bytes]:
    """Return the fields that arguments of the form NAME=VALUE or NAME=@FILE give.

    Raises `ConfigurationError` for another form, and `CommandFailed` for a file that cannot be
    read.
    """
    fields: dict[str, bytes] = {}
    for argument in arguments:
        # As bytes, which need not be text of the encoding that the shell has.
        raw_name, equals, value = os.fsencode(argument).partition(b"=")
        name = raw_name.decode(errors="replace")
        if not name or not equals:
            # Without the text: it may be a value that the shell has split off.
            raise ConfigurationError(
                f"field {len(fields) + 1} is not NAME=VALUE or NAME=@FILE; put quotes around a "
                "value with spaces"
            )
        if name in fields:
            raise ConfigurationError(f"the field {name!r} is given twice")
        if value.startswith(b"@") and not value.startswith(b"@@"):
            fields[name] = _read_file(os.fsdecode(value[1:]))
        else:
            fields[name] = value.removeprefix(b"@")
    return fields


def parse_line(number: int, line: bytes) -> dict[str, object]:
    """Return the fields of a message that is a line of JSON, such as {"n": 1, "text": "hello"}.

    A value {"base64": "..."} stands for bytes. Raises `CommandFailed`, which names the line.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CommandFailed(f"line {number} is not JSON ({error})") from None
    if not isinstance(fields, dict) or not fields:
        raise CommandFailed(f'line {number} is no object with fields, such as {{"n": 1}}')
    return {name: _decode(number, name, value) for name, value in fields.items()}


def standard_input() -> BinaryIO:
    """Return the standard input. Raises `CommandFailed` if it is closed."""
    if sys.stdin is None:
        raise CommandFailed("the standard input is closed; name a file instead of -")
    return sys.stdin.buffer


def open_input(file: str) -> AbstractContextManager[BinaryIO]:
    """Open a file, or the standard input if it is "-". Raises `CommandFailed`."""
    if file == STANDARD:
        return nullcontext(standard_input())
    try:
        return open(file, "rb")
    except OSError as error:
        raise unreadable(file, error) from None


def read_lines(file: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """Yield lines with their numbers from 1, all that can be read at a time; skip empty lines.

    Blocks until there are some, so that the lines of a program that writes slowly come at once.
    """
    number = 0
    begun: list[bytes] = []  # a line that has not ended, joined once: it may be long
    while block := file.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
        ended, separator, rest = block.rpartition(b"\n")
        if not separator:
            begun.append(block)
            continue
        lines = b"".join([*begun, ended]).split(b"\n")
        begun = [rest]
        yield [(number + place, line) for place, line in enumerate(lines, 1) if line.strip()]
        number += len(lines)
    last = b"".join(begun)
    if last.strip():
        yield [(number + 1, last)]


def unreadable(file: str, error: OSError) -> CommandFailed:
    """Return the error about a file that cannot be read."""
    name = "the standard input" if file == STANDARD else file
    return CommandFailed(f"{name} cannot be read: {error.strerror}")


def _read_file(path: str) -> bytes:
    try:
        with open_input(path) as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from None


def _decode(number: int, name: str, value: Any) -> object:
    if not isinstance(value, dict) or list(value) != ["base64"]:
        return value
    try:
        return base64.b64decode(value["base64"], validate=True)
    except (ValueError, TypeError):
        raise CommandFailed(f"line {number}: the field {name!r} is not valid base64") from None
