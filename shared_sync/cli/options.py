"""Command-line options that the health commands share: one-line errors, and the token."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from shared_sync.errors import ConfigurationError

LONGEST_TOKEN = 4096


class Parser(argparse.ArgumentParser):
    """Raises `ConfigurationError` for a wrong command line, instead of printing the usage."""

    def __init__(self, *, prog: str, description: str, usage: str | None = None) -> None:
        # No abbreviations: --token would be taken for --token-file, whose value errors show.
        super().__init__(prog=prog, description=description, usage=usage, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; --help lists the options")


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
