"""python -m shared_sync: try the library out.

demo    transcribe real speech through a Redis Stream and show what happens
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shared_sync import __version__
from shared_sync.errors import SharedSyncError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m shared_sync", description="Blocking Python workers on Redis Streams."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="transcribe real speech through a Redis Stream",
        description="Publishes recordings to a Redis Stream, transcribes them in a pool of "
        "threads and shows results, retries and a dead letter.",
    )
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
    options = parser.parse_args(arguments)

    try:
        from shared_sync import _demo  # noqa: PLC0415 - loads Redis, Flask and the recogniser

        return _demo.run(
            _demo.Options(
                audio=options.audio,
                jobs=options.jobs,
                threads=options.threads,
                keep=options.keep,
                redis_url=options.redis_url,
            )
        )
    except SharedSyncError as error:
        print(f"shared_sync: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
