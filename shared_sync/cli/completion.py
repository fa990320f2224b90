"""shared-sync completion: print a script with which a shell completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared_sync.cli.grammar import DONE, CommandFailed, add_command, make_parser
from shared_sync.cli.output import write_line

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands

SHELLS = ("bash", "zsh", "tcsh")


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "completion",
        summary="print a script that completes commands and options in a shell",
        description="Prints a script with which a shell completes the commands and their options. "
        "It is made once, and completing starts no Python.",
        run=run,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def run(options: argparse.Namespace) -> int:
    """Print the script, and return 0."""
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ImportError:
        raise CommandFailed(
            "completion needs the package shtab; install it by "
            "pip install 'shared_sync[completion]', only to make the script"
        ) from None
    parser = make_parser()
    _name_files(parser, {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY})
    write_line(shtab.complete(parser, shell=options.shell))
    return DONE


def _name_files(parser: argparse.ArgumentParser, kinds: Mapping[str, object]) -> None:
    """Have the values of options that are files completed as files."""
    for action in parser._actions:
        if isinstance(action.metavar, str) and action.metavar in kinds:
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined]
        if isinstance(action.choices, dict):
            for below in action.choices.values():
                _name_files(below, kinds)
