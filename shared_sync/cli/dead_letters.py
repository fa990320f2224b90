"""python -m shared_sync dead-letters: list, show, replay or purge dead letters."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

from shared_sync.cli.redis_options import add_redis, read_credentials
from shared_sync.errors import DeadLetterMissing, RedisRefused

if TYPE_CHECKING:
    from shared_sync.dead_letters import DeadLetter, DeadLetters

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

LONGEST_VALUE_SHOWN = 200
"""Bytes of a field that are printed; of a longer one also the length."""


def add_parser(commands: Commands) -> None:
    """Add the command to those of a parser; its options have `run`."""
    parser = commands.add_parser(
        "dead-letters",
        help="list, show, replay or purge messages that were given up on",
        description="Manages the dead letters of a stream and group.",
    )
    parser.set_defaults(run=run)
    add_redis(parser)
    parser.add_argument("--stream", required=True, help="the stream they were published to")
    parser.add_argument("--group", required=True, help="the consumer group that gave them up")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|replay|purge")
    actions.add_parser("list", help="one line for each, oldest first")
    show = actions.add_parser("show", help="everything about some of them")
    show.add_argument("ids", nargs="+", metavar="ID")
    for action, help_text in (
        ("replay", "publish them again, with no history"),
        ("purge", "delete them for good"),
    ):
        chosen = actions.add_parser(action, help=help_text)
        which = chosen.add_mutually_exclusive_group(required=True)
        which.add_argument("ids", nargs="*", default=[], metavar="ID")
        which.add_argument("--all", action="store_true", help="all that exist now")


def run(options: argparse.Namespace) -> int:
    """Carry out the action, and return the exit status. Raises what `DeadLetters` raises."""
    from shared_sync.dead_letters import DeadLetters  # noqa: PLC0415 - loads Redis

    with DeadLetters(
        options.redis_url,
        options.stream,
        options.group,
        credential_provider=read_credentials(options),
    ) as letters:
        # With ids, `show` and `replay` fail anyway.
        if (options.action == "purge" or not getattr(options, "ids", ())) and not len(letters):
            letters.check_group()
        if options.action == "list":
            _print_lines(letters.iterate(with_fields=False))
        elif options.action == "show":
            for letter_id in options.ids:
                _print_whole(letters.show(letter_id))
        else:
            every = letters.iterate(with_fields=False) if options.all else ()
            ids = [letter.id for letter in every] or options.ids
            if options.action == "replay":
                return _replay(letters, ids, all_of_them=options.all)
            print(f"{letters.purge(ids)} removed")
    return 0


def _replay(letters: DeadLetters, ids: Iterable[str], *, all_of_them: bool) -> int:
    """Replay dead letters; of all, one that cannot be replayed does not keep back the others."""
    status = 0
    for letter_id in ids:
        try:
            (message_id,) = letters.replay([letter_id])
        except (DeadLetterMissing, RedisRefused) as error:
            if not all_of_them or (isinstance(error, RedisRefused) and error.code != "ERR"):
                raise  # another code, such as OOM, is the same for all
            print(f"{letter_id} is not replayed: {error}", file=sys.stderr)
            status = 1
        else:
            print(f"{letter_id} replayed as {message_id}")
    return status


def _print_lines(letters: Iterable[DeadLetter]) -> None:
    for letter in letters:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter.time))
        error = f" ({letter.error_type}: {letter.error})" if letter.traceback else ""
        _print_line(f"{letter.id}  {when}Z  message {letter.message_id}  {letter.reason}{error}")


def _print_whole(letter: DeadLetter) -> None:
    for attribute in fields(letter):
        if attribute.name not in {"fields", "history", "traceback"}:
            _print_line(f"{attribute.name:<11} {getattr(letter, attribute.name)}")
    for failure in letter.history:
        _print_line(f"failure     {failure}")
    for name, value in letter.fields.items():
        text = value[:LONGEST_VALUE_SHOWN].decode(errors="backslashreplace")
        more = f"... ({len(value)} bytes)" if len(value) > LONGEST_VALUE_SHOWN else ""
        _print_line(f"field       {name} = {text}{more}")
    for line in letter.traceback.split("\n"):
        _print_line(line)


def _print_line(text: str) -> None:
    """Print a text of others in one line, without what a terminal takes for commands."""
    print("".join(char if char.isprintable() else " " for char in text))
