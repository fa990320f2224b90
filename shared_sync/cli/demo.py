"""shared-sync demo: transcribe real speech through a Redis Stream."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from shared_sync.cli.grammar import add_command
from shared_sync.cli.options import whole_number
from shared_sync.cli.redis_options import RedisURL

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "demo",
        summary="transcribe real speech through a Redis Stream",
        description="Publishes recordings to a Redis Stream, transcribes them in a pool of "
        "threads and shows results, retries and a dead letter. With --services it runs three "
        "programs instead: a gateway with a web page, a speech-to-text worker, and a worker that "
        "translates English to Spanish.",
        run=run,
    )
    parser.add_argument(
        "--services",
        action="store_true",
        help="start a gateway with a web page, a speech-to-text worker and a translation worker, "
        "and play the recordings through all of them",
    )
    parser.add_argument(
        "--audio",
        type=Path,
        metavar="DIR",
        help="16-bit WAV files to transcribe with the full English model "
        "(default: the few that come with the package, with a small grammar)",
    )
    parser.add_argument(
        "--jobs",
        type=whole_number("--jobs", 1, 1_000_000),
        metavar="N",
        help="recordings to publish (default: each once)",
    )
    parser.add_argument(
        "--threads",
        type=whole_number("--threads", 1, 1000),
        metavar="N",
        help="pool threads (default: 2)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep everything running at the end, until Ctrl-C"
    )
    parser.add_argument(
        "--redis-url",
        action=RedisURL,
        const="leave it out, and the demo starts a Redis of its own",
        metavar="URL",
        help="use this Redis instead of starting one",
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo, and return 0 if every result came back as it should."""
    if options.services:
        if options.jobs or options.threads:
            options.parser.error("--jobs and --threads are for the demo without --services")
        return _run_services(options)
    from shared_sync.demo import run as demo  # noqa: PLC0415 - loads Redis, Flask and the recognizer

    return demo.run(
        demo.Options(
            audio=options.audio,
            jobs=options.jobs,
            threads=options.threads or 2,
            keep=options.keep,
            redis_url=options.redis_url,
        )
    )


def _run_services(options: argparse.Namespace) -> int:
    from shared_sync.demo.services import run as services  # noqa: PLC0415 - loads Redis

    return services.run(
        services.Options(audio=options.audio, keep=options.keep, redis_url=options.redis_url)
    )
