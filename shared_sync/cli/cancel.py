"""python -m shared_sync cancel: cancel messages, or show their state."""

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
        description="Cancels messages of a stream, for all of its groups, and prints the state "
        "that each had: scheduled, waiting, parked, running, ended, or unknown. A message that has "
        "not started never starts; the processor of a running message is notified; nothing changes "
        "for a message that has ended.",
    )
    parser.set_defaults(run=run)
    add_redis(parser)
    parser.add_argument("--stream", required=True, help="the stream of the messages")
    parser.add_argument(
        "--status", action="store_true", help="only print the states, and cancel nothing"
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
