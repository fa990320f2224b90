"""python -m shared_sync cancel: cancel messages, or only say how far they are."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shared_sync.cli.redis_options import add_redis, read_credentials

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Commands) -> None:
    """Add the command to those of a parser; its options have `run`."""
    parser = commands.add_parser(
        "cancel",
        help="cancel messages",
        description="Cancels messages of a stream, for all of its groups, and prints how far each "
        "was: scheduled, waiting, parked, running, ended, or unknown. What has not started never "
        "starts; a message that runs is told; what has ended stays as it is.",
    )
    parser.set_defaults(run=run)
    add_redis(parser)
    parser.add_argument("--stream", required=True, help="the stream they were published to")
    parser.add_argument(
        "--status", action="store_true", help="only say how far they are, and cancel nothing"
    )
    parser.add_argument("ids", nargs="+", metavar="ID")


def run(options: argparse.Namespace) -> int:
    """Cancel the messages, and return the exit status. Raises what the producer raises."""
    from shared_sync.redis_producer import RedisStreamProducer  # noqa: PLC0415 - loads Redis

    with RedisStreamProducer(
        options.redis_url, options.stream, credential_provider=read_credentials(options)
    ) as producer:
        act = producer.status if options.status else producer.cancel
        for message_id in options.ids:
            print(f"{message_id} {act(message_id)}")
    return 0
