"""Command-line options for the limits beyond which a group is degraded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from shared_sync.cli.options import number

if TYPE_CHECKING:
    from shared_sync.group_status import Limits

LONGEST_SECONDS: Final = 30 * 86_400.0


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options that `read_limits()` expects."""
    for option, metavar, largest, default, text in (
        (
            "--max-wait-seconds",
            "SECONDS",
            LONGEST_SECONDS,
            300.0,
            "the oldest message waits longer",
        ),
        (
            "--growth-seconds",
            "SECONDS",
            LONGEST_SECONDS,
            300.0,
            "more messages arrive than end for so long",
        ),
        ("--max-dead-share", "SHARE", 1.0, 0.1, "a larger share of messages becomes dead letters"),
    ):
        parser.add_argument(
            option,
            type=number(option, 0.0, largest),
            default=default,
            metavar=metavar,
            help=f"degraded if {text}; 0 for no limit (default: %(default)g)",
        )


def read_limits(options: argparse.Namespace) -> Limits:
    """Return the limits that the options ask for."""
    from shared_sync.group_status import Limits  # noqa: PLC0415 - loads Redis

    return Limits(
        options.max_wait_seconds or None,
        options.growth_seconds or None,
        options.max_dead_share or None,
    )
