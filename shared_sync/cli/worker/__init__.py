"""shared-sync worker: run a processor of a module as a worker of a stream and group."""

from shared_sync.cli.worker.command import add_parser, run

__all__ = ["add_parser", "run"]
