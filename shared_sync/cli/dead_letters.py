"""shared-sync dead-letters: list, show, replay, purge, export or import dead letters."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from shared_sync.cli import letter_filters, message_input
from shared_sync.cli.grammar import DONE, FAILED, CommandFailed, add_command
from shared_sync.cli.options import add_group, add_stream
from shared_sync.cli.output import Output, add_json, standard_output, value_for_json
from shared_sync.cli.redis_options import add_redis, read_credentials
from shared_sync.errors import ConfigurationError, DeadLetterMissing, RedisRefused

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands, Parser
    from shared_sync.dead_letters import DeadLetter, DeadLetterFilter, DeadLetters

    Where = DeadLetterFilter | None

LONGEST_VALUE_SHOWN = 200
"""Bytes of a field that are printed; of a longer one also the length."""


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    family = commands.add_parser(
        "dead-letters",
        help="list, show, replay, purge, export or import messages that were given up on",
        description="Manages the dead letters of a stream and group.",
    )
    for option in _add_place(family):  # they may also stand before the action
        option.help, option.required = argparse.SUPPRESS, False
    actions = family.add_subparsers(dest="action", required=True, metavar="ACTION")
    parsers = {
        action: add_command(
            actions, action, summary=text, description=f"{text[0].upper()}{text[1:]}.", run=run
        )
        for action, text in SUMMARIES.items()
    }
    for parser in parsers.values():
        for option in _add_place(parser):
            option.default, option.required = argparse.SUPPRESS, False
        add_json(parser)
    parsers["show"].add_argument("ids", nargs="+", metavar="ID", help="ids of dead letters")
    for action in ("replay", "purge"):
        which = parsers[action].add_mutually_exclusive_group()
        which.add_argument("ids", nargs="*", default=[], metavar="ID", help="ids of dead letters")
        which.add_argument("--all", action="store_true", help="all that exist now")
    for action, standard in (("export", "output"), ("import", "input")):
        parsers[action].add_argument(
            "file", metavar="FILE", help=f"'-' for the standard {standard}"
        )
    for action in ("list", "replay", "purge", "export"):
        letter_filters.add(parsers[action])


def _add_place(parser: Parser) -> Sequence[argparse.Action]:
    return (
        *add_redis(parser),
        add_stream(parser),
        add_group(parser, "consumer group that gave them up"),
    )


def run(options: argparse.Namespace) -> int:
    """Carry out the action, and return the exit status. Raises what `DeadLetters` raises."""
    from shared_sync.dead_letters import DeadLetters  # noqa: PLC0415 - loads Redis

    for name in ("stream", "group"):
        if getattr(options, name) is None:
            options.parser.error(f"the following arguments are required: --{name}")
    where = letter_filters.read(options)
    if options.action in ("replay", "purge"):
        if not (options.ids or options.all or where):
            options.parser.error("give ids, --all, or a filter such as --reason")
        if options.ids and where:
            options.parser.error("give ids or a filter such as --reason, not both")
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
    output = Output(options)
    listed = False
    for letter in letters.iterate(with_fields=False, where=where):
        output.show(_document(letter), _line(letter))
        listed = True
    if not listed:
        _say_none(options, where)
    return DONE


def _say_none(options: argparse.Namespace, where: Where) -> None:
    """Tell people, and not programs that read the output, that there is nothing to print."""
    if not options.json:
        print("no dead letter matches" if where else "no dead letters", file=sys.stderr)


def _show(letters: DeadLetters, options: argparse.Namespace, _: Where) -> int:
    output = Output(options)
    for letter_id in options.ids:
        letter = letters.show(letter_id)
        values = {name: value_for_json(value) for name, value in letter.fields.items()}
        output.show({**_document(letter), "fields": values}, *_lines(letter))
    return DONE


def _purge(letters: DeadLetters, options: argparse.Namespace, where: Where) -> int:
    removed = letters.purge(_chosen(letters, options, where))
    Output(options).show({"removed": removed}, f"{removed} removed")
    return FAILED if removed < len(set(options.ids)) else DONE


def _export(letters: DeadLetters, options: argparse.Namespace, where: Where) -> int:
    file = standard_output() if options.file == "-" else options.file
    try:
        written = letters.export_to(file, where=where)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandFailed(f"{options.file} cannot be written: {error.strerror}") from None
    output = Output(options, sys.stderr if options.file == "-" else sys.stdout)
    output.show({"exported": written}, f"{written} exported")
    return DONE


def _import(letters: DeadLetters, options: argparse.Namespace, _: Where) -> int:
    file = message_input.standard_input() if options.file == "-" else options.file
    try:
        added, present = letters.import_from(file)
    except ConfigurationError as error:  # about a line of the file
        raise CommandFailed(str(error)) from None
    except OSError as error:
        raise CommandFailed(f"{options.file} cannot be read: {error.strerror}") from None
    Output(options).show(
        {"imported": added, "present": present},
        f"{added} imported, {present} were there already",
    )
    return DONE


def _chosen(letters: DeadLetters, options: argparse.Namespace, where: Where) -> Sequence[str]:
    """Return the ids of the dead letters that the options name, or that match them."""
    if options.ids:
        ids: Sequence[str] = options.ids
        return ids
    return [letter.id for letter in letters.iterate(with_fields=False, where=where)]


def _replay(letters: DeadLetters, options: argparse.Namespace, where: Where) -> int:
    """Replay dead letters; of all, one that cannot be replayed does not keep back the others."""
    output = Output(options)
    status = DONE
    chosen = _chosen(letters, options, where)
    if not chosen:
        _say_none(options, where)
    for letter_id in chosen:
        try:
            (message_id,) = letters.replay([letter_id])
        except (DeadLetterMissing, RedisRefused) as error:
            if options.ids or (isinstance(error, RedisRefused) and error.code != "ERR"):
                raise  # another code, such as OOM, is the same for all
            print(f"{letter_id} is not replayed: {error}", file=sys.stderr)
            output.show({"id": letter_id, "error": str(error)})
            status = FAILED
        else:
            output.show(
                {"id": letter_id, "message_id": message_id}, f"{letter_id} replayed as {message_id}"
            )
    return status


def _document(letter: DeadLetter) -> dict[str, object]:
    """Return what is known about a dead letter, apart from the fields of its message."""
    return {
        attribute.name: getattr(letter, attribute.name)
        for attribute in fields(letter)
        if attribute.name != "fields"
    }


def _line(letter: DeadLetter) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter.time))
    error = f" ({letter.error_type}: {letter.error})" if letter.traceback else ""
    return (
        f"{letter.id}  {when}Z  message {letter.message_id}  {_bytes(letter.size)}  "
        f"{letter.reason}{error}"
    )


def _lines(letter: DeadLetter) -> Iterator[str]:
    for name, value in _document(letter).items():
        if name not in {"history", "traceback"}:
            yield f"{name:<11} {value}"
    for failure in letter.history:
        yield f"failure     {failure}"
    for name, stored in letter.fields.items():
        text = stored[:LONGEST_VALUE_SHOWN].decode(errors="backslashreplace")
        more = f"... ({len(stored)} bytes)" if len(stored) > LONGEST_VALUE_SHOWN else ""
        yield f"field       {name} = {text}{more}"
    yield from letter.traceback.split("\n")


def _bytes(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    return f"{size / 1000:.1f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


SUMMARIES: Mapping[str, str] = {
    "list": "print a line for each dead letter, oldest first",
    "show": "print everything about some of them",
    "replay": "publish them again, with no history",
    "purge": "delete them for good",
    "export": "write dead letters to a file",
    "import": "add the dead letters of a file, each once",
}

ACTIONS: Mapping[str, Callable[[DeadLetters, argparse.Namespace, Where], int]] = {
    "list": _list,
    "show": _show,
    "replay": _replay,
    "purge": _purge,
    "export": _export,
    "import": _import,
}
