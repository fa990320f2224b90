"""shared-sync publish: publish messages, and wait for their results if that is asked for."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

from shared_sync.cli import message_input
from shared_sync.cli.grammar import DONE, FAILED, CommandFailed, add_command, joined
from shared_sync.cli.options import add_stream, number, whole_number
from shared_sync.cli.output import add_json
from shared_sync.cli.redis_options import add_redis, read_credentials
from shared_sync.errors import ConfigurationError, GroupMissing

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands, Parser

LONGEST_SECONDS = 10 * 366 * 86_400.0


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "publish",
        summary="publish messages to a stream, and wait for their results if asked to",
        description="Publishes one message with the given fields, or one for each line of a file, "
        "and prints their ids. If not all could be published, it says how many were, and from "
        "which line to go on.",
        run=run,
        repeated="fields",
        exit_status={FAILED: "not all are published; with --wait, also: not all are done"},
    )
    add_redis(parser)
    add_stream(parser)
    parser.add_argument(
        "--create",
        action="store_true",
        help="publish even if there is no such stream yet; a worker creates it, too",
    )
    parser.add_argument(
        "fields",
        nargs="*",
        metavar="NAME=VALUE",
        help="a field; NAME=@FILE takes the bytes of a file ('-' for the standard input), and "
        "NAME=@@VALUE is a value that begins with @",
    )
    parser.add_argument(
        "--json-lines",
        metavar="FILE",
        help="publish a message for each line, which is a JSON object with its fields; '-' for the "
        'standard input. {"base64": "..."} stands for bytes',
    )
    parser.add_argument(
        "--from-line",
        type=whole_number("--from-line", 1, 10**12),
        default=1,
        metavar="N",
        help="skip the lines before this one",
    )
    _add_job_options(parser)
    add_json(parser)


def _add_job_options(parser: Parser) -> None:
    for option, lowest, help_text in (
        ("--wait", 0.001, "wait up to so long for the results, and print them instead of the ids"),
        ("--expires-seconds", 0.001, "a message that has not started after this time never starts"),
        ("--delay-seconds", 0.0, "publish after this time; a worker of the stream does it"),
        ("--deduplicate-seconds", 1.0, "how long a key is remembered (default: 300)"),
        ("--block-seconds", 0.0, "how long to wait for room, with --max-queue-depth"),
    ):
        parser.add_argument(
            option,
            type=number(option, lowest, LONGEST_SECONDS, unit="seconds"),
            metavar="SECONDS",
            help=help_text,
        )
    parser.add_argument(
        "--at",
        type=_moment,
        metavar="TIME",
        help="publish at this time, such as 2030-01-31T08:00:00+01:00 or seconds since 1970",
    )
    parser.add_argument(
        "--deduplicate-key",
        metavar="KEY",
        help="if a message with this key was published before, publish nothing and print its id",
    )
    parser.add_argument(
        "--deduplicate-field",
        metavar="NAME",
        help="each message has the value of this field as its key, so that a file can be published "
        "again",
    )
    parser.add_argument(
        "--reply-to", metavar="STREAM", help="reply stream that gets the results, as a program has"
    )
    parser.add_argument(
        "--traceparent", metavar="CONTEXT", help="W3C trace context of whoever publishes"
    )
    parser.add_argument(
        "--max-queue-depth",
        type=whole_number("--max-queue-depth", 1, 10**12),
        metavar="N",
        help="publish nothing while the stream holds so many messages",
    )


def run(options: argparse.Namespace) -> int:
    """Publish, and return the exit status. Raises what publishing raises."""
    from shared_sync.cli import redis_access  # noqa: PLC0415 - loads Redis
    from shared_sync.cli.publication import Publication  # noqa: PLC0415 - as above
    from shared_sync.redis_producer import RedisStreamProducer  # noqa: PLC0415 - as above

    _check(options)
    fields = message_input.read_fields(options.fields)
    if not options.create:
        with redis_access.connect(options) as connection:
            try:
                redis_access.check_stream_and_group(connection, options.stream)
            except GroupMissing as error:
                remedy = "--create publishes to a new stream"
                raise CommandFailed(joined(str(error), remedy)) from None
    with RedisStreamProducer(
        options.redis_url,
        options.stream,
        max_queue_depth=options.max_queue_depth,
        credential_provider=read_credentials(options),
    ) as producer:
        publication = Publication(producer, options)
        if options.json_lines is None:
            publication.publish_message(fields)
        else:
            publication.publish_lines(options.json_lines, options.from_line)
        return publication.wait(options.wait) if options.wait else DONE


def _check(options: argparse.Namespace) -> None:
    if bool(options.fields) == (options.json_lines is not None):
        options.parser.error("give fields or --json-lines, and not both")
    if options.json_lines is not None and options.deduplicate_key is not None:
        options.parser.error(
            "with --deduplicate-key all lines would be one message; give --deduplicate-field"
        )
    if options.deduplicate_key is not None and options.deduplicate_field is not None:
        options.parser.error("give --deduplicate-key or --deduplicate-field, not both")
    if options.wait and options.reply_to:
        options.parser.error("--wait has a reply stream of its own; leave out --reply-to")


def _moment(text: str) -> datetime | float:
    """Read a time; the checks of a job refuse one without a time zone."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z"))
    except ValueError:
        raise ConfigurationError(
            f"--at must be a time such as 2030-01-31T08:00:00+01:00, or seconds since 1970, not "
            f"{text!r}"
        ) from None
