"""The public class: what an operator may do, each action in steps that end soon."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.pool import ConnectionPool
from shared_sync.dead_letters import DeadLetterFilter, letter
from shared_sync.dead_letters.reading import PAGE, LetterReader
from shared_sync.dead_letters.replaying import Replayer
from shared_sync.errors import DeadLetterMissing, RedisUnavailable, SharedSyncError
from shared_sync.group_actions import showing
from shared_sync.group_actions.causes import CauseCounter
from shared_sync.group_actions.steps import (
    Act,
    Deadline,
    Selection,
    Tally,
    act_on_ids,
    act_on_matching,
    matching,
)
from shared_sync.protocol import dead_letter_commands, message_state, pausing
from shared_sync.protocol.events import record_event
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.pause import Pause

REPLY_SECONDS: Final = 3.0
"""Longest wait for a reply of Redis."""

STEP_SECONDS: Final = 2.0
"""After so long a step ends, and the answer says where the next one begins."""

MOST_CAUSES: Final = 200
"""Causes after which a step of counting ends."""


class GroupActions:
    """Lets operators act on a stream and group from the dashboard. Off unless a server gets it.

        actions = GroupActions("redis://localhost:6379/0", "audio:jobs", "stt-workers")
        HealthServer("stt-1", 8081, token=token, actions=actions, consumer=consumer)

    They list, show, replay and purge dead letters, find messages, and pause and resume the group.
    The health server calls the methods from one background thread; its documentation describes
    them (`docs/health.md`, Acting from the page). Each asks Redis over one connection, which is
    opened when it is needed, and raises `RedisUnavailable` or `RedisRefused`.

    Args:
        redis_url: The same as for a `RedisStreamConsumer`.
        stream_name: The stream.
        consumer_group: The group.
        credential_provider: Is asked for user and password at each connect, as for a consumer.

    Raises:
        ConfigurationError: An argument cannot work.
    """

    def __init__(
        self,
        redis_url: str,
        stream_name: str,
        consumer_group: str,
        *,
        credential_provider: CredentialProvider | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._keys = Keys.of(stream_name, consumer_group)
        self._clock = clock
        self._connections = ConnectionPool.of_process(
            redis_url,
            key=stream_name,
            role="actions",
            timeout_seconds=REPLY_SECONDS,
            credential_provider=credential_provider,
        )
        self._reader = LetterReader(self._connections, self._keys)

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return self._keys.stream

    @property
    def group(self) -> str:
        """The name of the group."""
        return self._keys.group

    # --- reading ----------------------------------------------------------------------------------

    def causes(self, *, after: str = "") -> dict[str, Any]:
        """Count the dead letters of each cause, behind the id `after`."""
        deadline = self._deadline()
        counter = CauseCounter(wall_ms=round(time.time() * 1000))
        total = self._connections.call("XLEN", self._keys.dead)
        unread = None
        for row in self._reader.rows(after):
            counter.add(row)
            if deadline.has_passed() or counter.causes >= MOST_CAUSES:
                unread = row.id
                break
        return {**counter.to_json(), "total": total, "next": unread}

    def letters(
        self, *, where: Mapping[str, Any] | None = None, after: str = "", limit: int = 50
    ) -> dict[str, Any]:
        """List up to `limit` dead letters that match, behind the id `after`, oldest first."""
        found: list[dict[str, Any]] = []
        unread = None
        for letter_id, listed in matching(self._reader, _filter(where), after, self._deadline()):
            if listed is not None:
                found.append(showing.show_row(listed))
            if listed is None or len(found) == limit:
                unread = letter_id
                break
        return {"letters": found, "next": unread}

    def letter(self, *, id: str) -> dict[str, Any]:
        """Return all that is known about one dead letter. Raises `DeadLetterMissing`."""
        items = self._reader.one(id)
        if items is None:
            raise DeadLetterMissing(id, self._keys.dead)
        return showing.show_letter(letter.parse(id, items))

    def find(self, *, message_id: str) -> dict[str, Any]:
        """Return where a message is now. Its dead letters are found by `letters()`."""
        with self._connections.connection() as connection:
            found = message_state.read(connection, self._keys, message_id)
        return {"message_id": message_id, **showing.show_state(found)}

    # --- acting -----------------------------------------------------------------------------------

    def replay(
        self,
        *,
        by: str,
        ids: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        most: int = 0,
        up_to: str = "",
        after: str = "",
    ) -> dict[str, Any]:
        """Publish the messages of dead letters again.

        Those in `ids`, or up to `most` (0 for no limit) that match `where`, are behind the id
        `after`, and are not behind the id `up_to`.
        """
        replayer = Replayer(self._connections, self._keys)

        def replay(chosen: Sequence[str], tally: Tally) -> None:
            for letter_id in chosen:
                try:
                    replayer.replay(letter_id)
                except DeadLetterMissing:
                    tally.missing += 1
                else:
                    tally.done += 1
                tally.reached = letter_id

        selection = ids or Selection(_filter(where), most, up_to, after)
        return self._act("replayed", by, replay, 1, selection)

    def purge(
        self,
        *,
        by: str,
        ids: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        most: int = 0,
        up_to: str = "",
        after: str = "",
    ) -> dict[str, Any]:
        """Delete dead letters for good, chosen as for `replay()`."""

        def purge(chosen: Sequence[str], tally: Tally) -> None:
            with self._connections.connection() as connection:
                removed = dead_letter_commands.purge(connection, self._keys, chosen)
            tally.done += removed
            tally.missing += len(chosen) - removed
            tally.reached = chosen[-1]

        selection = ids or Selection(_filter(where), most, up_to, after)
        return self._act("purged", by, purge, PAGE, selection)

    def pause(self, *, by: str, reason: str) -> dict[str, Any]:
        """Let the consumers of the group take no messages, unless it is paused already.

        Raises `GroupMissing`.
        """
        with self._connections.connection() as connection:
            before = pausing.pause(connection, self._keys, by=by, reason=reason)
            paused = pausing.read(connection, self._keys)
        return {"paused": paused and _show_pause(paused), "was_paused": before is not None}

    def resume(self, *, by: str) -> dict[str, Any]:
        """End a pause. Raises `GroupMissing`."""
        with self._connections.connection() as connection:
            ended = pausing.resume(connection, self._keys, by=by)
        return {"paused": None, "was_paused": ended is not None}

    def close(self) -> None:
        """Close the connection. Never blocks. The object may be used again; it then reconnects."""
        self._connections.close()

    def __enter__(self) -> GroupActions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------------

    def _deadline(self) -> Deadline:
        return Deadline(STEP_SECONDS, self._clock)

    def _act(
        self, kind: str, by: str, act: Act, size: int, selected: Sequence[str] | Selection
    ) -> dict[str, Any]:
        """Act on the selected letters for the time of a step, and record that it was done.

        If Redis fails in the middle, the answer has `stopped`, the reason, as well: what was done
        must not be lost with the error.
        """
        tally, deadline = Tally(), self._deadline()
        stopped = None
        try:
            if isinstance(selected, Selection):
                act_on_matching(self._reader, selected, size, act, tally, deadline)
            else:
                act_on_ids(selected, size, act, tally, deadline)
        except SharedSyncError as error:
            if not tally.done:
                raise
            stopped = str(error)
        if tally.done:
            self._record(kind, by, tally.done)
        return {
            "done": tally.done,
            "missing": tally.missing,
            "next": None if tally.is_complete or stopped else tally.reached,
            "stopped": stopped,
        }

    def _record(self, kind: str, by: str, number: int) -> None:
        letters = "1 dead letter was" if number == 1 else f"{number} dead letters were"
        with suppress(RedisUnavailable), self._connections.connection() as connection:
            record_event(connection, self._keys, kind, f"{letters} {kind} from the page", who=by)


def _show_pause(pause: Pause) -> dict[str, Any]:
    return {"by": pause.by, "at": pause.at_ms / 1000, "reason": pause.reason}


def _filter(where: Mapping[str, Any] | None) -> DeadLetterFilter:
    return DeadLetterFilter(**where or {})
