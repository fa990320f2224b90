"""A survey of a stream, its group and the server, for what takes messages away or hides them.

This library does none of that: a setting of the server, another program or a person does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from shared_sync.common.guarded import Logger
from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisAccessDenied, RedisRefused
from shared_sync.protocol.keys import Keys, age_seconds

T = TypeVar("T")

_EVICTING: Final = "allkeys-"
"""How the policies begin that may evict keys without a time to live, as all of ours are."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a survey has found. What the server does not say, or refuses to say, is None."""

    evicting_policy: str | None = None
    """The server's `maxmemory-policy`, if it lets the server evict our keys."""

    now_ms: int | None = None
    """The server's time. None if there is no stream."""

    added: int | None = None
    """Entries that were ever added to the stream. None before Redis 7.0."""

    length: int = 0
    """Entries in the stream."""

    read: int | None = None
    """Entries that the group has read. None before Redis 7.0."""

    pending: int = 0
    """Messages that the group has read and not finished."""

    oldest_waiting_id: str | None = None
    """The oldest message that the group has not read."""

    skipped_id: str | None = None
    """The first entry of the stream, if no group is ever going to read it."""

    @property
    def finished(self) -> int | None:
        """Entries that were ever deleted."""
        return None if self.added is None else self.added - self.length

    @property
    def completed(self) -> int | None:
        """Messages that the group has ended, counted from some time on: only growth says anything.

        Other groups may still need their entries. None if the server does not say.
        """
        return self.finished if self.read is None else self.read - self.pending

    @property
    def deleted_unread(self) -> int:
        """How many entries, at least, were deleted before the group had read them.

        Entries that the group has read and the stream still has may hide as many of them.
        """
        if self.added is None or self.read is None:
            return 0
        return max(0, self.added - self.read - self.length)

    @property
    def oldest_waiting_seconds(self) -> float | None:
        """For how long the oldest message that the group has not read has waited.

        0 if none waits. None if the publisher chose its id, so that it does not say.
        """
        if self.oldest_waiting_id is None or self.now_ms is None:
            return 0.0
        return age_seconds(self.oldest_waiting_id, self.now_ms / 1000)


class Surveyor:
    """Takes surveys of one stream and group. For one thread; what is refused is not asked again."""

    def __init__(self, keys: Keys, logger: Logger) -> None:
        # Fixed after construction.
        self._keys = keys
        self._logger = logger
        # Owned by the thread.
        self._denied: set[str] = set()

    def take(self, connection: Connection) -> Survey:
        """Return a survey. Two round trips; raises what the connection raises.

        The server reads two whole messages for it, and a third if messages of the group are
        pending.
        """
        policy = self._unless_denied(
            "+info", "whether the server may evict keys", _policy, connection
        )
        facts = self._unless_denied(
            "+xinfo|stream", "how many entries were added and finished", self._facts, connection
        )
        if facts is None:
            return Survey(policy)
        added, length, read, waiting, skipped, now_ms, refusal, pending = facts
        if refusal:
            self._note_denied("+xrange", "how long messages have waited")
        return Survey(
            policy,
            now_ms,
            added=None if added < 0 else added,
            length=length,
            read=None if read is None or read < 0 else read,
            pending=pending,
            oldest_waiting_id=waiting.decode() or None,
            skipped_id=skipped.decode() or None,
        )

    def _facts(self, connection: Connection) -> Any:
        """Return the reply of the script; None if there is no stream."""
        try:
            return connection.call(*scripts.call("survey", [self._keys.stream], self._keys.group))
        except RedisRefused:
            return None

    def _unless_denied(
        self, right: str, what: str, ask: Callable[[Connection], T], connection: Connection
    ) -> T | None:
        if right in self._denied:
            return None
        try:
            return ask(connection)
        except RedisAccessDenied:
            self._note_denied(right, what)
            return None

    def _note_denied(self, right: str, what: str) -> None:
        if right not in self._denied:
            self._denied.add(right)
            self._logger.warning(
                "this Redis user lacks %s, so it is unknown %s; this is logged once", right, what
            )


def _policy(connection: Connection) -> str | None:
    """Return the server's policy if it may evict keys that have no time to live."""
    memory: bytes = connection.call("INFO", "memory")
    for line in memory.decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "maxmemory_policy":
            return value if value.startswith(_EVICTING) else None
    return None
