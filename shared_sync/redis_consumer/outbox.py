"""Outcomes on their way to Redis: sent, confirmed, and sent again after a lost reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from shared_sync.common.guarded import Recorder
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisRefused, SharedSyncError
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.messages import Bury, Finish, HandBack, Outcome, Park
from shared_sync.protocol.replies import parse_settled
from shared_sync.redis_consumer.slot import Activity
from shared_sync.redis_consumer.tally import Tally

MOST_IDS: Final = 500
"""Messages without a result that one call of a script ends, so that no call takes long."""

MOST_OUTCOMES: Final = 100
"""The same for messages that have a result or have failed, or go back."""

T = TypeVar("T")


class _Parcel(NamedTuple):
    """A command that settles messages, and what to do with its reply."""

    command: Command
    ids: Sequence[str]
    confirm: Callable[[Any], SharedSyncError | None]
    """Notes what the messages came to; returns why one of them was refused."""


class Outbox:
    """Settles messages over one connection, and sends one more command along with each exchange.

    What was put in stays until Redis has confirmed it; the next exchange sends it again if Redis
    has not. All methods belong to the thread that uses the connection, except `ids()` and
    `unsettled`, which any thread may call.
    """

    def __init__(
        self,
        name: str,
        *,
        connection: Connection,
        commands: GroupCommands,
        activity: Activity,
        availability: Availability,
        recorder: Recorder,
        tally: Tally,
        flush_metrics: Callable[[], None] = lambda: None,
    ) -> None:
        # Fixed after construction.
        self.connection = connection
        self._name = name
        self._commands = commands
        self._activity = activity
        self._availability = availability
        self._recorder = recorder
        self._tally = tally
        self._flush_metrics = flush_metrics
        # Written by the using thread; any thread may read.
        self._done: list[str] = []
        self._outcomes: list[Outcome] = []
        self._returned: list[str] = []
        # Owned by the using thread.
        self._sent: Sequence[_Parcel] = ()
        """What the last exchange has sent."""
        self._answered = 0
        """How many of these were answered."""
        self._in_doubt: set[str] = set()
        """Messages whose outcome was sent before, and the reply was lost."""
        self.is_held_up = False
        """Whether the last exchange left outcomes that Redis did not confirm."""

    # --- putting in ---

    def add_done(self, message_id: str) -> None:
        """Put in a message that is done and has no result."""
        self._done.append(message_id)

    def add(self, outcome: Outcome) -> None:
        """Put in a message that has a result, has failed, is given up on, or goes back."""
        if type(outcome) is HandBack:
            self._returned.append(outcome.id)
        else:
            self._outcomes.append(outcome)

    def hand_back(self, ids: Iterable[str]) -> None:
        """Put in messages that go back uncharged."""
        self._returned += ids

    @property
    def unsettled(self) -> int:
        """How many outcomes Redis has not confirmed."""
        return len(self._done) + len(self._outcomes)

    def ids(self) -> list[str]:
        """Return the ids of all messages in here."""
        return [
            *self._done.copy(),
            *(outcome.id for outcome in self._outcomes.copy()),
            *self._returned.copy(),
        ]

    # --- sending ---

    def flush(self) -> None:
        """Settle everything in here, in one round trip.

        Raises what the connection raises, or why Redis refused an outcome.
        """
        parcels = self._pack()
        if not parcels:
            self.is_held_up = False
            return
        self._send(parcels, ())
        refusal = self._receive(parcels)
        if refusal is not None:
            raise refusal
        self._availability.succeeded(self._name)

    def exchange(self, command: Command, *, blocking: bool = False) -> Any:
        """Settle everything in here, and return the reply to one more command, in one round trip.

        The server may hold back the reply to a `blocking` command; it is None if the connection is
        interrupted. Raises what the connection raises. An outcome that was refused raises nothing
        here; `is_held_up` tells.
        """
        if blocking and self.connection.interrupted:
            return None
        parcels = self._pack()
        self._send(parcels, (command,))
        if parcels:
            self._receive(parcels)
        self._activity.receives = True
        try:
            connection = self.connection
            reply = connection.receive_blocked() if blocking else connection.receive()
        finally:
            self._activity.receives = False
        self._availability.succeeded(self._name)
        return reply

    def _pack(self) -> list[_Parcel]:
        parcels: list[_Parcel] = []
        commands = self._commands
        if self._done:
            for ids in _chunks(self._done, MOST_IDS):
                parcels.append(_Parcel(commands.finish(ids), ids, self._confirm_done(ids)))
        if self._outcomes:
            by_type: dict[type, list[Any]] = {Finish: [], Park: [], Bury: []}
            for outcome in self._outcomes:
                by_type[type(outcome)].append(outcome)
            for finishes in _chunks(by_type[Finish], MOST_OUTCOMES):
                parcels.append(self._parcel(commands.finish_with_results(finishes), finishes))
            for parks in _chunks(by_type[Park], MOST_OUTCOMES):
                parcels.append(self._parcel(commands.park(parks), parks))
            parcels += [self._parcel(commands.bury(one), [one]) for one in by_type[Bury]]
        if self._returned:
            for ids in _chunks(self._returned, MOST_OUTCOMES):
                parcels.append(_Parcel(commands.hand_back(ids), ids, self._confirm_returned(ids)))
        return parcels

    def _parcel(self, command: Command, outcomes: Sequence[Outcome]) -> _Parcel:
        ids = [outcome.id for outcome in outcomes]
        return _Parcel(command, ids, lambda reply: self._confirm(outcomes, reply))

    def _send(self, parcels: Sequence[_Parcel], commands: Sequence[Command]) -> None:
        self._doubt_unanswered()
        self.is_held_up = bool(parcels)
        connection = self.connection
        connects = connection.connects
        try:
            connection.open()
            self._sent, self._answered = parcels, 0
            connection.send([*(parcel.command for parcel in parcels), *commands])
        except BaseException:
            self._flush_metrics()
            raise
        if connects and connects != connection.connects:
            self._recorder.increment_counter("redis_reconnects")
        self._recorder.increment_counter("redis_operations", len(parcels) + len(commands))
        if not parcels:
            self._flush_metrics()

    def _receive(self, parcels: Sequence[_Parcel]) -> SharedSyncError | None:
        """Read the replies to the parcels; return why one of them was refused."""
        refusal: SharedSyncError | None = None
        self._activity.receives = True
        try:
            for parcel in parcels:
                try:
                    refused = parcel.confirm(self.connection.receive())
                except RedisRefused as error:
                    refused = error
                self._answered += 1
                refusal = refused or refusal
                if self._in_doubt:
                    self._in_doubt.difference_update(parcel.ids)
        finally:
            self._activity.receives = False
            self._flush_metrics()  # before a wait for a message, however long that takes
        self.is_held_up = refusal is not None
        return refusal

    def _doubt_unanswered(self) -> None:
        """If the last exchange was broken off, note what Redis may have settled all the same."""
        if self._answered < len(self._sent):
            for parcel in self._sent[self._answered :]:
                self._in_doubt.update(parcel.ids)
            self._in_doubt.intersection_update(self.ids())
        self._sent = ()

    # --- what Redis has confirmed ---

    def _confirm_done(self, ids: Sequence[str]) -> Callable[[Any], None]:
        def confirm(ended: int) -> None:
            self._done = _without(self._done, ids)
            # Of a message whose outcome was sent before, the first sending most likely ended it.
            missing = len(ids) - ended
            explained = sum(one in self._in_doubt for one in ids) if missing else 0
            self._tally.done(len(ids), lost=max(0, missing - explained))

        return confirm

    def _confirm_returned(self, ids: Sequence[str]) -> Callable[[Any], None]:
        def confirm(reply: Any) -> None:
            self._returned = _without(self._returned, ids)
            self._tally.handed_back(*reply)

        return confirm

    def _confirm(self, outcomes: Sequence[Outcome], reply: Any) -> SharedSyncError | None:
        settled = parse_settled(reply)
        confirmed = outcomes[: len(settled.results)]
        if len(confirmed) == len(self._outcomes):
            self._outcomes = []
        else:
            gone = {id(outcome) for outcome in confirmed}
            self._outcomes = [outcome for outcome in self._outcomes if id(outcome) not in gone]
        self._tally.outcomes(confirmed, settled.results, self._in_doubt)
        if settled.unpublished is not None:
            self._tally.unpublished(settled.unpublished)
        return settled.refusal


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _without(ids: list[str], settled: Sequence[str]) -> list[str]:
    if len(ids) == len(settled):
        return []
    gone = set(settled)
    return [one for one in ids if one not in gone]
