"""python -m shared_sync.health: serve | check | advise, as `shared-sync health` runs them.

Without a command it serves. Each command loads only the modules that it needs: probes start a new
`check` every few seconds, on a machine whose processor belongs to a worker.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from shared_sync.cli import main as cli_main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "serve")
    return cli_main.main(["health", *words])


if __name__ == "__main__":
    sys.exit(main())
