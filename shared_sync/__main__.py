"""python -m shared_sync: try the library out, and look after dead letters.

`demo` transcribes real speech through a Redis Stream and shows what happens. `dead-letters` lists,
shows, replays or purges what was given up on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from shared_sync import __version__
from shared_sync.errors import SharedSyncError

if TYPE_CHECKING:
    from shared_sync.dead_letters import DeadLetter

LONGEST_VALUE_SHOWN = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except SharedSyncError as error:
        print(f"shared_sync: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _demo(options: argparse.Namespace) -> int:
    from shared_sync.demo import run as demo_run  # noqa: PLC0415 - loads Redis, Flask and the recogniser

    return demo_run.run(
        demo_run.Options(
            audio=options.audio,
            jobs=options.jobs,
            threads=options.threads,
            keep=options.keep,
            redis_url=options.redis_url,
        )
    )


def _dead_letters(options: argparse.Namespace) -> int:
    from shared_sync.dead_letters import DeadLetters  # noqa: PLC0415 - loads Redis

    with DeadLetters(options.redis_url, options.stream, options.group) as letters:
        if options.act == "list":
            _print_lines(letters)
        elif options.act == "show":
            for letter_id in options.ids:
                _print_whole(letters.show(letter_id))
        else:
            ids = [letter.id for letter in letters] if options.all else options.ids
            if options.act == "replay":
                for letter_id in ids:
                    (message_id,) = letters.replay([letter_id])
                    print(f"{letter_id} replayed as {message_id}")
            else:
                print(f"{letters.purge(ids)} removed")
    return 0


def _print_lines(letters: Iterable[DeadLetter]) -> None:
    for letter in letters:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter.time))
        error = f" ({letter.error_type}: {letter.error})" if letter.traceback else ""
        print(f"{letter.id}  {when}Z  message {letter.message_id}  {letter.reason}{error}")


def _print_whole(letter: DeadLetter) -> None:
    for fact in fields(letter):
        if fact.name not in {"fields", "history", "traceback"}:
            print(f"{fact.name:<11} {getattr(letter, fact.name)}")
    for failure in letter.history:
        print(f"failure     {failure}")
    for name, value in letter.fields.items():
        text = value[:LONGEST_VALUE_SHOWN].decode(errors="backslashreplace")
        more = f"... ({len(value)} bytes)" if len(value) > LONGEST_VALUE_SHOWN else ""
        print(f"field       {name} = {text}{more}")
    print(letter.traceback)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared_sync", description="Blocking Python workers on Redis Streams."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(
        commands.add_parser(
            "demo",
            help="transcribe real speech through a Redis Stream",
            description="Publishes recordings to a Redis Stream, transcribes them in a pool of "
            "threads and shows results, retries and a dead letter.",
        )
    )
    _add_dead_letters(
        commands.add_parser(
            "dead-letters",
            help="list, show, replay or purge what was given up on",
            description="Looks after the dead letters of a stream and group.",
        )
    )
    return parser


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "--audio",
        type=Path,
        metavar="DIR",
        help="16-bit WAV files to transcribe with the full English model "
        "(default: the few that come with the package, with a small grammar)",
    )
    demo.add_argument(
        "--jobs", type=_positive, metavar="N", help="recordings to publish (default: each once)"
    )
    demo.add_argument(
        "--threads", type=_positive, default=2, metavar="N", help="pool threads (default: 2)"
    )
    demo.add_argument(
        "--keep", action="store_true", help="keep everything running at the end, until Ctrl-C"
    )
    demo.add_argument("--redis-url", metavar="URL", help="use this Redis instead of starting one")


def _add_dead_letters(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_dead_letters)
    command.add_argument(
        "--redis-url",
        default=os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
        metavar="URL",
        help="Redis (default: REDIS_URL, else redis://localhost:6379/0)",
    )
    command.add_argument("--stream", required=True, help="the stream they were published to")
    command.add_argument("--group", required=True, help="the consumer group that gave them up")
    acts = command.add_subparsers(dest="act", required=True, metavar="list|show|replay|purge")
    acts.add_parser("list", help="a line for each, oldest first")
    show = acts.add_parser("show", help="all about some")
    show.add_argument("ids", nargs="+", metavar="ID")
    for act, help_text in (
        ("replay", "publish them again, with no history"),
        ("purge", "remove them for good"),
    ):
        which = acts.add_parser(act, help=help_text).add_mutually_exclusive_group(required=True)
        which.add_argument("ids", nargs="*", default=[], metavar="ID")
        which.add_argument("--all", action="store_true", help="all there are now")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
