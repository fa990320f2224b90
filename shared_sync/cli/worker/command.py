"""The command line of `worker`: its options, and what they start."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Final

from shared_sync.cli.grammar import add_command
from shared_sync.cli.output import add_json
from shared_sync.cli.redis_options import RedisURL
from shared_sync.cli.worker import configuration as configurations
from shared_sync.cli.worker.configuration import CONFIG_VARIABLE, SECTION
from shared_sync.cli.worker.kinds import Switch, shown
from shared_sync.cli.worker.setting import PREFIX, Setting
from shared_sync.cli.worker.settings import HEADINGS

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands

BROKEN: Final = 70

_DESCRIPTION: Final = f"""\
Runs a processor of a module as a worker: it reads messages of a stream, and serves its health and
metrics. SIGTERM lets it finish what runs; a second one hands that back at once. Each setting may
also be an environment variable, such as {PREFIX}LEASE_SECONDS for --lease-seconds, or stand in the
section [{SECTION}] of a file, as lease_seconds = 30. An option counts before a variable, and a
variable before the file."""


def add_parser(commands: Commands) -> None:
    """Add the command to those of a parser."""
    parser = add_command(
        commands,
        "worker",
        summary="run a processor of a module as a worker",
        description=_DESCRIPTION,
        run=run,
        exit_status={BROKEN: "the worker is broken; start another"},
    )
    parser.usage = "%(prog)s MODULE:PROCESSOR --stream NAME --group NAME [option ...]"
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"file with a section [{SECTION}] (default: {CONFIG_VARIABLE}, else none)",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="check the settings, import the processor, print all settings with their sources, "
        "and end",
    )
    add_json(parser)
    for heading, settings in HEADINGS.items():
        group = parser.add_argument_group(heading)
        for setting in settings:
            _add_option(group, setting)


def run(options: argparse.Namespace) -> int:
    """Run the worker until it is told to end, and return the exit status."""
    configuration = configurations.read(options, os.environ)
    configurations.require(configuration, ("processor", "stream", "group"))

    from shared_sync.cli.worker import program  # noqa: PLC0415 - loads Redis and Flask

    if options.print_config or options.json:
        program.show(configuration, options)
    if options.print_config:
        return program.check(configuration)
    if configuration["processes"] > 1 or configuration["reload"]:
        from shared_sync.cli.worker import supervisor  # noqa: PLC0415 - one worker needs none

        return supervisor.run(configuration)
    return program.run(configuration)


def _add_option(group: argparse._ArgumentGroup, setting: Setting) -> None:
    text = f"{setting.help}{_details(setting)}"
    if setting.name == "processor":
        group.add_argument(setting.name, nargs="?", metavar=setting.kind.metavar, help=text)
    elif isinstance(setting.kind, Switch):
        group.add_argument(
            setting.option, dest=setting.name, action="store_const", const="true", help=text
        )
        group.add_argument(
            setting.option.replace("--", "--no-", 1),
            dest=setting.name,
            action="store_const",
            const="false",
            help=argparse.SUPPRESS,
        )
    elif setting.name == "redis_url":
        group.add_argument(
            setting.option,
            action=RedisURL,
            const="set REDIS_URL instead, or give --redis-password-file",
            metavar=setting.kind.metavar,
            help=text,
        )
    else:
        group.add_argument(
            setting.option, dest=setting.name, metavar=setting.kind.metavar, help=text
        )


def _details(setting: Setting) -> str:
    """Return what may be given, the further variables and the default, for `--help`."""
    details = [setting.kind.allowed] if setting.kind.allowed else []
    if setting.variables:
        details.append(f"also {' or '.join(setting.variables)}")
    if setting.default not in (None, [], False):
        details.append(f"default: {shown(setting.default)}")
    return f" ({'; '.join(details)})" if details else ""
