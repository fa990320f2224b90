"""What a setting of the command `worker` is: its name, its kind, and whose argument it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from shared_sync.cli.worker.kinds import Kind

PREFIX: Final = "SHARED_SYNC_"
"""With which the environment variable of each setting begins."""

CONSUMER: Final = "RedisStreamConsumer"
BATCHING: Final = "Batching"
RETRY: Final = "RetryPolicy"
SERVER: Final = "HealthServer"
COMMAND: Final = "worker"
"""Who takes the value of a setting; the last one is the command itself."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: `lease_seconds` in a file, `--lease-seconds`, `SHARED_SYNC_LEASE_SECONDS`."""

    name: str
    kind: Kind
    default: Any
    help: str
    variables: tuple[str, ...] = ()
    """Further environment variables, which count if the one with the prefix is not set."""

    argument: str = ""
    """The argument that gets the value, if it has another name."""

    to: str = CONSUMER
    """Whose argument that is."""

    @property
    def option(self) -> str:
        """Its option on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def all_variables(self) -> tuple[str, ...]:
        """Its environment variables, the one that counts first at first."""
        return (PREFIX + self.name.upper(), *self.variables)
