"""The grammar of all commands: how a command line is read, and what an exit status means.

Each command is a module of this package with `add_parser(commands)`, which adds its parser, and
`run(options)`, which carries it out and returns the exit status. A module loads what is heavy, such
as Redis or Flask, within `run()`: `--help` loads all of these modules, and probes run `health
check` every few seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from shared_sync import __version__
from shared_sync.errors import (
    ConfigurationError,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["Parser"]
    Run = Callable[[argparse.Namespace], int]

PROGRAM: Final = "shared-sync"


class Family(NamedTuple):
    """Commands that share their first word."""

    help: str
    modules: Mapping[str, str]


COMMANDS: Final[Mapping[str, str | Family]] = {
    "worker": "shared_sync.cli.worker",
    "demo": "shared_sync.cli.demo",
    "redis": "shared_sync.cli.redis",
    "status": "shared_sync.cli.status",
    "groups": Family(
        "list the groups of a stream, or drop one",
        {"list": "shared_sync.cli.groups_list", "drop": "shared_sync.cli.groups_drop"},
    ),
    "pause": "shared_sync.cli.pause",
    "resume": "shared_sync.cli.resume",
    "publish": "shared_sync.cli.publish",
    "cancel": "shared_sync.cli.cancel",
    "dead-letters": "shared_sync.cli.dead_letters",
    "health": Family(
        "serve the health of a group, ask a health page, or print probes",
        {
            "serve": "shared_sync.cli.serve",
            "check": "shared_sync.cli.check",
            "advise": "shared_sync.cli.advise",
        },
    ),
    "completion": "shared_sync.cli.completion",
}
"""The commands and their modules, in the order of `--help`."""

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130

EXIT_STATUS: Final[Mapping[int, str]] = {
    DONE: "done",
    FAILED: "failed, refused, or not found",
    MISUSED: "the arguments or the configuration cannot work",
    INTERRUPTED: "interrupted by Ctrl-C",
}
"""What the exit status of a command means, unless its `--help` says something else."""


class CommandFailed(SharedSyncError):
    """A command cannot do what it was asked to; the text says why. The exit status is 1."""


def explain(error: SharedSyncError) -> str:
    """Return the text of an error, with what to do if Redis cannot be reached."""
    text = str(error).rstrip(".")
    if isinstance(error, RedisAccessDenied):
        if error.cause in ("NOAUTH", "WRONGPASS"):
            return f"{text}; give the password by REDIS_URL or --redis-password-file"
    elif isinstance(error, RedisUnavailable) and error.cause in ("no connection", "unknown host"):
        return f"{text}; start Redis, or give its address by REDIS_URL or --redis-url"
    elif isinstance(error, RedisRefused) and error.code == "WRONGTYPE":
        return f"{text}; this name belongs to something else than a stream"
    return text


def joined(text: str, more: str) -> str:
    """Return two parts of an error as one line."""
    return f"{text} {more}" if text.endswith("?") else f"{text}; {more}"


class Parser(argparse.ArgumentParser):
    """Raises `ConfigurationError` for a wrong command line, instead of printing the usage."""

    def __init__(self, **options: Any) -> None:
        # No abbreviations: --token would be taken for --token-file, whose value errors show.
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        from shared_sync.common.masking import mask_secrets  # noqa: PLC0415 - only a mistake needs it

        remedy = f"'{self.prog} --help' lists the options"
        raise ConfigurationError(joined(mask_secrets(message), remedy))


def add_command(
    commands: Commands,
    name: str,
    *,
    summary: str,
    description: str,
    run: Run,
    exit_status: Mapping[int, str] | None = None,
    repeated: str | None = None,
) -> Parser:
    """Add a command and return its parser. `summary` is its line in the list of all commands.

    `exit_status` has the meanings that `EXIT_STATUS` lacks, or that differ for this command.
    `repeated` is the argument without an option, such as ids, that may be given several times,
    with options in between.
    """
    meanings = {**EXIT_STATUS, **(exit_status or {})}
    statuses = "; ".join(f"{status} {meanings[status]}" for status in sorted(meanings))
    parser = commands.add_parser(
        name, help=summary, description=description, epilog=f"Exit status: {statuses}."
    )
    parser.set_defaults(run=run, parser=parser, repeated=repeated)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read a command line. The result has the `run` and the `parser` of its command.

    Raises `ConfigurationError` for one that cannot be read, and `SystemExit` after `--help` and
    `--version`.
    """
    options, rest = make_parser(words).parse_known_args(words)
    # argparse leaves over what stands behind an option that stands behind such words.
    repeated = getattr(options, "repeated", None)
    if repeated is not None and not any(word.startswith("-") for word in rest):
        getattr(options, repeated).extend(rest)
    elif rest:
        # What follows an unknown option may be a secret.
        unknown = [word.partition("=")[0] for word in rest if word.startswith("-")]
        options.parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    return options


def make_parser(words: Sequence[str] | None = None) -> Parser:
    """Return a parser for this command line, which loads the module of its command only.

    Without a command line, or before an option such as `--help`, it has all commands. Raises
    `ConfigurationError` if there is no command, or one that does not exist.
    """
    parser = Parser(
        prog=PROGRAM,
        description="Run workers on a Redis Stream, see how they do, and act on their messages.",
        epilog=f"'{PROGRAM} COMMAND --help' describes a command, and what its exit status means.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_commands(parser, COMMANDS, words)
    return parser


def _add_commands(
    parser: Parser, modules: Mapping[str, str | Family], words: Sequence[str] | None
) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    if words is not None and not words:
        parser.error(f"give a command; {_list_of(modules)}")
    chosen = words[0] if words else ""
    if chosen and not chosen.startswith("-") and chosen not in modules:
        parser.error(f"there is no command {chosen!r}; {_suggestion(chosen, modules)}")
    for name in [chosen] if chosen in modules else modules:
        module = modules[name]
        if isinstance(module, Family):
            family = commands.add_parser(
                name, help=module.help, description=f"{module.help.capitalize()}."
            )
            _add_commands(family, module.modules, words[1:] if words and chosen == name else None)
        else:
            import_module(module).add_parser(commands)


def _suggestion(word: str, names: Mapping[str, object]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    alike = get_close_matches(word, names)
    if alike:
        return f"did you mean {' or '.join(alike)}?"
    return _list_of(names)


def _list_of(names: Mapping[str, object]) -> str:
    *others, last = names
    return f"there are {', '.join(others)} and {last}"
