"""python -m shared_sync dead-letters: list, show, replay, purge, export or import dead letters."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from shared_sync.cli import letter_filters
from shared_sync.cli.redis_options import add_redis, read_credentials
from shared_sync.errors import ConfigurationError, DeadLetterMissing, RedisRefused

if TYPE_CHECKING:
    from shared_sync.dead_letters import DeadLetter, DeadLetterFilter, DeadLetters

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    Where = DeadLetterFilter | None

LONGEST_VALUE_SHOWN = 200
"""Bytes of a field that are printed; of a longer one also the length."""


def add_parser(commands: Commands) -> None:
    """Add the command to those of a parser; its options have `run`."""
    parser = commands.add_parser(
        "dead-letters",
        help="list, show, replay, purge, export or import messages that were given up on",
        description="Manages the dead letters of a stream and group.",
    )
    parser.set_defaults(run=run)
    add_redis(parser)
    parser.add_argument("--stream", required=True, help="the stream of the messages")
    parser.add_argument("--group", required=True, help="the consumer group that gave them up")
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|show|replay|purge|export|import"
    )
    letter_filters.add(
        actions.add_parser("list", help="print a line for each dead letter, oldest first")
    )
    show = actions.add_parser("show", help="everything about some of them")
    show.add_argument("ids", nargs="+", metavar="ID")
    for action, help_text in (
        ("replay", "publish them again, with no history"),
        ("purge", "delete them for good"),
    ):
        chosen = actions.add_parser(action, help=help_text)
        chosen.set_defaults(usage_error=chosen.error)
        which = chosen.add_mutually_exclusive_group()
        which.add_argument("ids", nargs="*", default=[], metavar="ID")
        which.add_argument("--all", action="store_true", help="all that exist now")
        letter_filters.add(chosen)
    export = actions.add_parser("export", help="write dead letters to a file")
    export.add_argument("file", metavar="FILE", help="'-' for the standard output")
    letter_filters.add(export)
    imported = actions.add_parser("import", help="add the dead letters of a file, each once")
    imported.add_argument("file", metavar="FILE", help="'-' for the standard input")


def run(options: argparse.Namespace) -> int:
    """Carry out the action, and return the exit status. Raises what `DeadLetters` raises."""
    from shared_sync.dead_letters import DeadLetters  # noqa: PLC0415 - loads Redis

    where = letter_filters.read(options)
    if options.action in ("replay", "purge"):
        if not (options.ids or options.all or where):
            options.usage_error("give ids, --all, or a filter such as --reason")
        if options.ids and where:
            options.usage_error("give ids or a filter such as --reason, not both")
    with DeadLetters(
        options.redis_url,
        options.stream,
        options.group,
        credential_provider=read_credentials(options),
    ) as letters:
        # With ids, `show` and `replay` fail anyway. An import may be for a group of the future.
        names_letters = getattr(options, "ids", ()) and options.action != "purge"
        if not names_letters and options.action != "import" and not len(letters):
            letters.check_group()
        return ACTIONS[options.action](letters, options, where)


def _list(letters: DeadLetters, options: argparse.Namespace, where: Where) -> int:
    _print_lines(letters.iterate(with_fields=False, where=where))
    return 0


def _show(letters: DeadLetters, options: argparse.Namespace, _: Where) -> int:
    for letter_id in options.ids:
        _print_whole(letters.show(letter_id))
    return 0


def _purge(letters: DeadLetters, options: argparse.Namespace, where: Where) -> int:
    print(f"{letters.purge(_chosen(letters, options, where))} removed")
    return 0


def _export(letters: DeadLetters, options: argparse.Namespace, where: Where) -> int:
    file = sys.stdout.buffer if options.file == "-" else options.file
    try:
        written = letters.export_to(file, where=where)
    except OSError as error:
        raise ConfigurationError(f"{options.file} cannot be written: {error.strerror}") from None
    print(f"{written} exported", file=sys.stderr if options.file == "-" else sys.stdout)
    return 0


def _import(letters: DeadLetters, options: argparse.Namespace, _: Where) -> int:
    file = sys.stdin.buffer if options.file == "-" else options.file
    try:
        added, present = letters.import_from(file)
    except OSError as error:
        raise ConfigurationError(f"{options.file} cannot be read: {error.strerror}") from None
    print(f"{added} imported, {present} were there already")
    return 0


def _chosen(letters: DeadLetters, options: argparse.Namespace, where: Where) -> Sequence[str]:
    """Return the ids of the dead letters that the options name, or that match them."""
    if options.ids:
        ids: Sequence[str] = options.ids
        return ids
    return [letter.id for letter in letters.iterate(with_fields=False, where=where)]


def _replay(letters: DeadLetters, options: argparse.Namespace, where: Where) -> int:
    """Replay dead letters; of all, one that cannot be replayed does not keep back the others."""
    status = 0
    for letter_id in _chosen(letters, options, where):
        try:
            (message_id,) = letters.replay([letter_id])
        except (DeadLetterMissing, RedisRefused) as error:
            if options.ids or (isinstance(error, RedisRefused) and error.code != "ERR"):
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
        _print_line(
            f"{letter.id}  {when}Z  message {letter.message_id}  {_bytes(letter.size)}  "
            f"{letter.reason}{error}"
        )


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


def _bytes(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    return f"{size / 1000:.1f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


ACTIONS: Mapping[str, Callable[[DeadLetters, argparse.Namespace, Where], int]] = {
    "list": _list,
    "show": _show,
    "replay": _replay,
    "purge": _purge,
    "export": _export,
    "import": _import,
}
