"""python -m shared_sync.health: serve | check | advise.

    serve    /health, /metrics and the dashboard of a Redis, a stream and a group, seen from outside
    check    ask a health page and report the answer by the exit status, for Docker and Kubernetes
    advise   print probes for Kubernetes and Compose that suit a worker

Without a command it serves. Each command loads only the modules that it needs: probes start a new
`check` every few seconds, on a machine whose processor belongs to a worker.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from shared_sync.errors import SharedSyncError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = "serve" if not words or words[0].startswith("-") else words.pop(0)
    try:
        return _run(command, words)
    except SharedSyncError as error:
        print(f"shared_sync.health: {error}", file=sys.stderr)
        return 1


def _run(command: str, arguments: Sequence[str]) -> int:
    if command == "check":
        from shared_sync.cli import check as cli_check  # noqa: PLC0415 - loads next to nothing

        return cli_check.main(arguments)
    if command == "advise":
        from shared_sync.cli import advise as cli_advise  # noqa: PLC0415 - as above

        return cli_advise.main(arguments)
    if command == "serve":
        from shared_sync.cli import serve as cli_serve  # noqa: PLC0415 - loads Redis and Flask

        return cli_serve.main(arguments)
    print(
        f"shared_sync.health: there is no command {command!r}; there are serve, check and advise",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
