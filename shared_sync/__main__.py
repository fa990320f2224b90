"""python -m shared_sync: demo | cancel | dead-letters.

demo           transcribe real speech through a Redis Stream, to see the library work
cancel         cancel messages, or show their state
dead-letters   list, show, replay, purge, export or import messages that were given up on
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from shared_sync import __version__
from shared_sync.cli import cancel, dead_letters, demo
from shared_sync.errors import SharedSyncError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. `arguments` are those of the process by default."""
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared_sync", description="Blocking Python workers on Redis Streams."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo.add_parser(commands)
    cancel.add_parser(commands)
    dead_letters.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
