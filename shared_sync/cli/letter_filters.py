"""Command-line options that select dead letters."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shared_sync.dead_letters import DeadLetterFilter

UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options that `read()` reads."""
    group = parser.add_argument_group(
        "filters", "select the dead letters that meet every given condition"
    )
    group.add_argument("--reason", metavar="TEXT", help="the reason contains the text")
    group.add_argument(
        "--error", metavar="TEXT", help="the type or text of the last error contains the text"
    )
    for option, help_text in (
        ("--older-than", "given up on longer ago than this, such as 90s, 15m, 2h or 7d"),
        ("--newer-than", "given up on within this time"),
    ):
        group.add_argument(option, type=_seconds, metavar="AGE", help=help_text)
    group.add_argument(
        "--field",
        type=_pair,
        action="append",
        metavar="NAME=VALUE",
        help="the message has this field with exactly this value; may be repeated",
    )
    group.add_argument(
        "--message",
        action="append",
        metavar="ID",
        help="the message had this id in its stream; may be repeated to select several messages",
    )


def read(options: argparse.Namespace) -> DeadLetterFilter | None:
    """Return the filter that the options give; None if there are no such options."""
    if "reason" not in options:
        return None
    from shared_sync.dead_letters import DeadLetterFilter  # noqa: PLC0415 - loads Redis

    found = DeadLetterFilter(
        reason=options.reason or "",
        error=options.error or "",
        older_than_seconds=options.older_than,
        newer_than_seconds=options.newer_than,
        fields=dict(options.field or ()),
        message_ids=tuple(options.message or ()),
    )
    return None if found == DeadLetterFilter() else found


def _seconds(text: str) -> float:
    duration = _DURATION.fullmatch(text)
    if duration is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 15m, 2h or 7d")
    return float(duration[1]) * UNITS[duration[2]]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    return name, value
