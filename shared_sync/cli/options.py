"""Command-line options that several commands share, apart from those in `redis_options.py`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from shared_sync.common.arguments import cause_of_address
from shared_sync.errors import ConfigurationError

LONGEST_TOKEN: Final = 4096
DEFAULT_PORT: Final = "8080"


def add_stream(
    parser: argparse.ArgumentParser, help: str = "stream of the messages"
) -> argparse.Action:
    """Add the option for the name of a stream, which must be given."""
    return parser.add_argument("--stream", required=True, metavar="NAME", help=help)


def add_group(parser: argparse.ArgumentParser, help: str = "consumer group") -> argparse.Action:
    """Add the option for the name of a consumer group, which must be given."""
    return parser.add_argument("--group", required=True, metavar="NAME", help=help)


def number(option: str, lowest: float, highest: float, *, unit: str = "") -> Callable[[str], float]:
    """Return a reader of numbers within the limits, for `type` of an option.

    Raises `ConfigurationError`, which names the option, for anything else.
    """
    kind = f"a number of {unit}" if unit else "a number"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not lowest <= value <= highest:
            raise ConfigurationError(
                f"{option} must be {kind} from {lowest:.15g} to {highest:.15g}, not {text!r}"
            )
        return value

    return read


def whole_number(option: str, lowest: int, highest: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within the limits, as `number()` does."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not lowest <= int(text) <= highest:
            raise ConfigurationError(
                f"{option} must be a whole number from {lowest} to {highest}, not {text!r}"
            )
        return int(text)

    return read


def health_port() -> str:
    """Return the variable HEALTH_PORT, else the usual port.

    An address that Kubernetes has put there is ignored with a warning on stderr: nobody has chosen
    it, and the worker beside this command ignores it, too.
    """
    port = os.environ.get("HEALTH_PORT") or DEFAULT_PORT
    if cause := cause_of_address(port):
        warning = f"HEALTH_PORT is ignored, as it is {port!r}{cause}"
        print(f"shared-sync: warning: {warning}", file=sys.stderr)
        return DEFAULT_PORT
    return port


def add_token_file(parser: argparse.ArgumentParser) -> None:
    """Add the option whose value `read_token()` expects."""
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the token of the pages (default: HEALTH_TOKEN, else none). There is no "
        "option for the token itself: everybody on the machine can read a command line",
    )
    parser.add_argument("--token", type=_no_token, help=argparse.SUPPRESS)


def _no_token(_token: str) -> NoReturn:
    raise ConfigurationError(
        "a token on the command line can be read by everybody on the machine; "
        "give it by HEALTH_TOKEN or --token-file"
    )


def read_token(token_file: str | None) -> str | None:
    """Return the token in the file, else in HEALTH_TOKEN; None if there is none.

    Raises `ConfigurationError`, which never shows what was read.
    """
    if token_file is None:
        token, source = os.environ.get("HEALTH_TOKEN", "").strip(), "HEALTH_TOKEN"
        if not token:
            return None
    else:
        source = f"--token-file {token_file}"
        try:
            with open(token_file, encoding="utf-8") as file:
                token = file.read(LONGEST_TOKEN + 1).strip()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{source} cannot be read: {_reason(error)}") from None
    if not token or len(token) > LONGEST_TOKEN or not _fits_into_a_header(token):
        raise ConfigurationError(
            f"{source} holds no token: give one line of letters, digits and signs without spaces"
        )
    return token


def _fits_into_a_header(token: str) -> bool:
    return token.isascii() and token.isprintable() and " " not in token


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or "?" if isinstance(error, OSError) else "it is not UTF-8 text"
