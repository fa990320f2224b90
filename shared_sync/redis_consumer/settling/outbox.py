"""Outcomes on their way to Redis: sent, confirmed, and sent again after a lost reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from shared_sync.common.guarded import Recorder
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.connection.remedies import is_about_key
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused, RedisUnavailable, SharedSyncError
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.messages import DONE, Bury, Fault, Finish, HandBack, Outcome, Park
from shared_sync.protocol.progress import Report
from shared_sync.protocol.replies import is_final, parse_settled
from shared_sync.redis_consumer.settling.last_progress import LastProgress
from shared_sync.redis_consumer.settling.one_by_one import OneByOne
from shared_sync.redis_consumer.settling.parcels import (
    MOST_IDS,
    MOST_OUTCOMES,
    Parcel,
    chunks,
    chunks_of_outputs,
    chunks_of_results,
    without,
    without_reply,
)
from shared_sync.redis_consumer.settling.tally import Tally
from shared_sync.redis_consumer.slot import Activity

LONG_SECONDS: Final = 1.0
"""After a job that took longer, the server may have closed the connection as an idle one."""


class SettleTracing(Protocol):
    """Is told when outcomes are sent and confirmed. No method may raise."""

    def sending(self) -> None:
        """Outcomes are about to be sent to Redis."""

    def settled(self, parcel: Parcel, refused: SharedSyncError | None) -> None:
        """Redis has confirmed the outcomes of a parcel, or has refused one of them."""

    def broke_off(self, parcels: Sequence[Parcel], error: SharedSyncError) -> None:
        """The connection broke before Redis has confirmed these; they will be sent again."""

    def all_are_settled(self) -> None:
        """Nothing is left that waits to be settled."""


class Outbox:
    """Settles messages over one connection, and sends one more command along with each exchange.

    What was put in stays until Redis has confirmed it; the next exchange sends it again if Redis
    has not. All methods belong to the thread that uses the connection, except `ids()`,
    `returning_ids()` and `unsettled`, which any thread may call.
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
        give_up: Callable[[Finish, str], Outcome | None] = lambda *_: None,
        flush_metrics: Callable[[], None] = lambda: None,
        tracing: SettleTracing | None = None,
    ) -> None:
        # Fixed after construction.
        self.connection = connection
        self._name = name
        self._commands = commands
        self._activity = activity
        self._availability = availability
        self._recorder = recorder
        self._tally = tally
        self._give_up = give_up
        """Called with a result that Redis will never take, and why; returns another outcome."""
        self._flush_metrics = flush_metrics
        self._tracing = tracing
        # Written by the using thread; any thread may read.
        self._done: list[str] = []
        self._outcomes: list[Outcome] = []
        self._returned: list[str] = []
        self._progress = LastProgress(commands, recorder)
        # Owned by the using thread.
        self._sent: Sequence[Parcel] = ()
        """What the last exchange has sent."""
        self._answered = 0
        """How many of these were answered."""
        self._in_doubt: set[str] = set()
        """Messages whose outcome was sent before, and the reply was lost."""
        self._is_broken_off = False
        """Whether the connection broke when outcomes were last sent."""
        self._alone: set[str] = set()
        """Messages that are settled alone, because an entry of one of them was refused."""
        self._left_out: dict[str, SharedSyncError] = {}
        """Refusals of messages that are sent without their reply, to learn whether that helps."""
        self._one_by_one = OneByOne(
            connection,
            commands,
            activity,
            open_connection=self._open,
            settle=self._settle_alone,
            give_up=self._replace_if_final,
        )
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

    def add_progress(self, message_id: str, last: Report | None) -> None:
        """Note that a message has reported progress, before its outcome is put in.

        The last progress is sent together with the outcome, unless it was sent.
        """
        self._progress.add(message_id, last)

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

    def returning_ids(self) -> list[str]:
        """Return the ids of the messages in here that anyone may take once they are settled."""
        parked = [one.id for one in self._outcomes.copy() if not isinstance(one, (Finish, Bury))]
        return [*parked, *self._returned.copy()]

    # --- sending ---

    def flush(self) -> None:
        """Settle everything in here, in one round trip, or in more after the connection broke.

        Raises what the connection raises, or why Redis refused an outcome.
        """
        parcels = self._pack()
        if not parcels:
            self.is_held_up = False
            return
        if self._is_broken_off:
            self._flush_one_by_one(parcels)
            return
        self._send(parcels, ())
        refusal = self._receive(parcels)
        if refusal is not None:
            raise refusal
        self._availability.succeeded(self._name)

    def _flush_one_by_one(self, parcels: Sequence[Parcel]) -> None:
        try:
            failure, self._is_broken_off = self._one_by_one.settle(parcels)
        except BaseException:
            self.is_held_up = True
            raise
        if failure is not None:
            self.is_held_up = True
            raise failure
        self._availability.succeeded(self._name)

    def _settle_alone(self, parcel: Parcel) -> SharedSyncError | None:
        self._send([parcel], ())
        try:
            return self._receive([parcel])
        except RedisAccessDenied as error:
            if not is_about_key(error) or (parcel.deny is None and parcel.drop is None):
                raise
            if parcel.deny is not None:
                parcel.deny(error)
            if parcel.drop is not None:
                parcel.drop()
            return error

    def _deny(self, outcomes: Sequence[Outcome], error: SharedSyncError) -> None:
        """Find out which of the outcomes may not be written, and replace a single one.

        No message may hold up the others because of a stream that its publisher or its processor
        has named: it ends without its reply, or becomes a dead letter.
        """
        if len(outcomes) > 1:
            self._alone.update(one.id for one in outcomes)
            return
        (outcome,) = outcomes
        replacement = without_reply(outcome)
        if replacement is not None:
            if isinstance(outcome, Finish) and outcome.outputs:  # these may be what was refused
                self._left_out[outcome.id] = error
            else:
                self._tally.dropped_reply(error)
            self._replace(outcome, replacement)
        elif isinstance(outcome, Finish):
            self._left_out.pop(outcome.id, None)
            self._replace_if_final(outcome, f"this worker may not write what is published: {error}")

    def _replace_if_final(self, finish: Finish, why: str) -> bool:
        """Give a message up if Redis will never take its result; return whether it was."""
        outcome = self._give_up(finish, why) if why else None
        if outcome is not None:
            self._replace(finish, outcome)
        return outcome is not None

    def _replace(self, outcome: Outcome, other: Outcome) -> None:
        self._outcomes = [other if one is outcome else one for one in self._outcomes]

    def exchange(self, command: Command, *, blocking: bool = False) -> Any:
        """Settle everything in here, and return the reply to one more command, in one round trip.

        The server may hold back the reply to a `blocking` command; it is None if the connection is
        interrupted. Raises what the connection raises. An outcome that was refused raises nothing
        here; `is_held_up` tells.
        """
        return self.exchange_two(command, None, blocking=blocking)[0]

    def exchange_two(
        self, command: Command, second: Command | None, *, blocking: bool = False
    ) -> tuple[Any, Any]:
        """As `exchange()`, and send a second command behind; return the replies to both.

        In place of the reply to a second command that was refused stands the error. None
        stands there if the connection broke before that reply, and the first one has come.
        """
        if blocking and self.connection.interrupted:
            return None, None
        parcels = self._pack()
        self._send(parcels, (command,) if second is None else (command, second))
        if parcels:
            self._receive(parcels)
        connection, second_reply = self.connection, None
        self._activity.receives = True
        try:
            reply = connection.receive_blocked() if blocking else connection.receive()
            if second is not None and not (blocking and connection.interrupted):
                try:
                    second_reply = connection.receive()
                except (RedisRefused, RedisAccessDenied) as refused:
                    second_reply = refused
                except RedisUnavailable:
                    pass  # what the first one has brought must not be lost
        finally:
            self._activity.receives = False
        self._availability.succeeded(self._name)
        return reply, second_reply

    def _pack(self) -> list[Parcel]:
        progress = self._progress
        parcels = progress.reports() if progress else []
        commands = self._commands
        if self._done:
            for ids in chunks(self._done, MOST_IDS):
                confirm = self._confirm_done(ids)
                parcels.append(Parcel(commands.finish(ids), ids, confirm, label=DONE))
        if self._outcomes:
            by_type: dict[type, list[Any]] = {Finish: [], Park: [], Bury: [], Fault: []}
            for outcome in self._outcomes:
                by_type[type(outcome)].append(outcome)
            plain = [one for one in by_type[Finish] if one.special is None]
            for finishes in chunks_of_results(plain):
                parcels.append(self._parcel(commands.finish_with_results(finishes), finishes))
            if len(plain) < len(by_type[Finish]):
                others = [one for one in by_type[Finish] if one.special is not None]
                for finishes in chunks_of_outputs(others, self._alone):
                    parcels.append(self._parcel(commands.finish_with_outputs(finishes), finishes))
            for parks in chunks(by_type[Park], MOST_OUTCOMES):
                parcels.append(self._parcel(commands.park(parks), parks))
            parcels += [self._parcel(commands.bury(one), [one]) for one in by_type[Bury]]
            for faults in chunks(by_type[Fault], MOST_OUTCOMES):
                parcels.append(self._parcel(commands.fault(faults), faults))
        if self._returned:
            for ids in chunks(self._returned, MOST_OUTCOMES):
                confirm = self._confirm_returned(ids)
                parcels.append(Parcel(commands.hand_back(ids), ids, confirm, label="handed back"))
        if progress:
            ended = [one.id for one in self._outcomes if isinstance(one, (Finish, Bury))]
            parcels += progress.ends({*self._done, *ended})
        return parcels

    def _parcel(self, command: Command, outcomes: Sequence[Outcome]) -> Parcel:
        ids = [outcome.id for outcome in outcomes]
        first = outcomes[0]
        result = first if len(outcomes) == 1 and isinstance(first, Finish) else None
        deny = None if _stays_at_home(first) else lambda error: self._deny(outcomes, error)
        return Parcel(
            command,
            ids,
            lambda reply: self._confirm(outcomes, reply),
            result,
            outcomes=outcomes,
            deny=deny,
        )

    def _send(self, parcels: Sequence[Parcel], commands: Sequence[Command]) -> None:
        self._doubt_unanswered()
        self.is_held_up = bool(parcels)
        try:
            self._open()
            self._sent, self._answered = parcels, 0
            if parcels:
                self._is_broken_off = True  # until all replies have come
                if self._tracing is not None:
                    self._tracing.sending()
            self.connection.send([*(parcel.command for parcel in parcels), *commands])
        except BaseException:
            self._flush_metrics()
            raise
        self._recorder.increment_counter("redis_operations", len(parcels) + len(commands))
        if not parcels:
            self._flush_metrics()

    def _open(self) -> None:
        connects = self.connection.connects
        self.connection.open()
        if connects and connects != self.connection.connects:
            self._recorder.increment_counter("redis_reconnects")

    def _receive(self, parcels: Sequence[Parcel]) -> SharedSyncError | None:
        """Read the replies to the parcels; return why one of them was refused."""
        refusal: SharedSyncError | None = None
        self._activity.receives = True
        try:
            for parcel in parcels:
                try:
                    refused = parcel.confirm(self.connection.receive())
                except RedisRefused as error:
                    if parcel.drop is not None:
                        parcel.drop()
                    refused = error if parcel.drop is None else None
                except RedisUnavailable as error:
                    if self._tracing is not None:
                        self._tracing.broke_off(parcels[self._answered :], error)
                    raise
                self._answered += 1
                refusal = refused or refusal
                if self._tracing is not None:
                    self._tracing.settled(parcel, refused)
                if self._in_doubt:
                    self._in_doubt.difference_update(parcel.ids)
        finally:
            self._activity.receives = False
            self._flush_metrics()  # before a wait for a message, however long that takes
        self._is_broken_off = False
        self.is_held_up = refusal is not None
        if self._tracing is not None and not self.is_held_up:
            self._tracing.all_are_settled()
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
            self._done = without(self._done, ids)
            # Of a message whose outcome was sent before, the first sending most likely ended it.
            missing = len(ids) - ended
            explained = sum(one in self._in_doubt for one in ids) if missing else 0
            self._tally.done(len(ids), lost=max(0, missing - explained))

        return confirm

    def _confirm_returned(self, ids: Sequence[str]) -> Callable[[Any], None]:
        def confirm(reply: Any) -> None:
            self._returned = without(self._returned, ids)
            self._tally.handed_back(*reply)

        return confirm

    def _confirm(self, outcomes: Sequence[Outcome], reply: Any) -> SharedSyncError | None:
        settled = parse_settled(reply)
        confirmed, results = outcomes, settled.results
        refusal: SharedSyncError | None = None
        if settled.refusals:
            refusal = self._note_refusals(outcomes, settled.refusals)
            places = [place for place in range(len(outcomes)) if place not in settled.refusals]
            confirmed = [outcomes[place] for place in places]
            results = [settled.results[place] for place in places]
        if len(confirmed) == len(self._outcomes):
            self._outcomes = []
            if self._alone:
                self._alone.clear()
        else:
            gone = {id(outcome) for outcome in confirmed}
            self._outcomes = [outcome for outcome in self._outcomes if id(outcome) not in gone]
        if self._left_out:
            for one in confirmed:
                if (denied := self._left_out.pop(one.id, None)) is not None:
                    self._tally.dropped_reply(denied)
        self._tally.outcomes(confirmed, results, self._in_doubt)
        if settled.unpublished is not None:
            self._tally.unpublished(settled.unpublished)
        return refusal

    def _note_refusals(
        self, outcomes: Sequence[Outcome], refusals: Mapping[int, SharedSyncError]
    ) -> SharedSyncError | None:
        """Give up messages whose results were refused for good; return another refusal, if any."""
        refusal: SharedSyncError | None = None
        for place, refused in refusals.items():
            outcome = outcomes[place]
            why = f"Redis will never take this result: {refused}" if is_final(refused) else ""
            if not (isinstance(outcome, Finish) and self._replace_if_final(outcome, why)):
                refusal = refused
        return refusal


def _stays_at_home(outcome: Outcome) -> bool:
    """Return whether an outcome is written to streams of the consumer itself only."""
    if isinstance(outcome, Finish):
        return outcome.special is None
    return not isinstance(outcome, Bury) or outcome.answer.address is None
