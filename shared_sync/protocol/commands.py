"""Every command that a consumer sends to its stream and group.

All scripts use the server's clock, get every key passed in, and may be sent again after their reply
was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shared_sync.connection import scripts
from shared_sync.connection.scripts import Command
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import DONE, Address, Answer, Bury, Fault, Finish, Park
from shared_sync.protocol.progress import Report
from shared_sync.protocol.retention import ResultStreams
from shared_sync.protocol.scan import START, Predecessor, ScanRequest

SHORTEST_BLOCK_MS: Final = 10
LONGEST_GRACE_MS: Final = 5000
LONGEST_HEARTBEAT_SECONDS: Final = 2.0
HEARTBEATS_PER_LEASE: Final = 6
MOST_MARKS: Final = 100
"""The most marks of cancelled messages that are fetched with a read. If there are more, they are
looked up by the ids of the messages that the read has brought."""


def heartbeat_seconds(lease_seconds: float) -> float:
    """Return the time between two heartbeats of a consumer with such a lease."""
    return min(lease_seconds / HEARTBEATS_PER_LEASE, LONGEST_HEARTBEAT_SECONDS)


@dataclass
class GroupCommands:
    """The commands of one consumer in its group, ready to be sent over a `Connection`.

    Shared by all threads of the consumer; `identity` is set before they start.
    """

    keys: Keys
    consumer: str
    lease_ms: int
    result_stream: str | None = None

    identity: str = ""
    """The process that claims the consumer's name, as it stands in Redis."""

    reads_one_by_one: bool = False
    """Whether the process has read one message at a time so far, although it may read more."""

    result_streams: ResultStreams | None = None
    """Remembers the result streams that messages name; None if no retention is set."""

    def create_group(self) -> Command:
        """Create the group from id 0, so that what was published before is processed too."""
        return ("XGROUP", "CREATE", self.keys.stream, self.keys.group, "0", "MKSTREAM")

    def read(self, count: int, block_ms: int = 0) -> Command:
        """Fetch up to `count` messages, and wait for the first.

        The server may end a wait 100 ms late, so what would be a very short wait is none.
        """
        group = ("GROUP", self.keys.group, self.consumer, "COUNT", count)
        wait = ("BLOCK", block_ms) if block_ms >= SHORTEST_BLOCK_MS else ()
        return ("XREADGROUP", *group, *wait, "STREAMS", self.keys.stream, ">")

    # --- cancelled messages ---

    def marks(self) -> Command:
        """Return the ids of cancelled messages, `MOST_MARKS` at most."""
        return ("ZRANGE", self.keys.cancelled, 0, MOST_MARKS - 1)

    def marked(self, ids: Iterable[str], *, key: str = "", tidy_from: int = -1) -> Command:
        """Ask which of the ids are marked as cancelled; the reply is for `parse_marked()`.

        `key` has the marks; empty for the key of the stream. `tidy_from` is the rank at which to
        continue removing marks that are not needed; -1 to remove none.
        """
        keys = [self.keys.stream, key or self.keys.cancelled]
        return scripts.call("marked", keys, tidy_from, *ids)

    # --- settling ---

    def finish(self, ids: Iterable[str]) -> Command:
        """End messages that are done and have no result; the reply is how many it ended."""
        return scripts.call("finish", self._common_keys(), self.keys.group, *ids)

    def finish_with_results(self, outcomes: Sequence[Finish]) -> Command:
        """Publish results and end their messages; the reply is for `parse_settled()`."""
        ids = [one.id for one in outcomes]
        numbers = [len(one.items) for one in outcomes]
        headers = [one.adds_header for one in outcomes]
        channels = [one.channel for one in outcomes]
        have_shape_in_common = _all_equal(numbers) and _all_equal(headers)
        has_channels = any(channels)
        if have_shape_in_common and not has_channels:  # as most often: this is much quicker
            answers: list[object] = [item for one in outcomes for item in one.items]
        else:
            answers = []
            for one in outcomes:
                if not have_shape_in_common:
                    answers.append(_shape(one))
                answers += one.items
                if has_channels:
                    answers += (one.channel, one.payload)
        shape = _shape(outcomes[0]) if have_shape_in_common else ""
        form = (len(ids), "channels" if has_channels else "", shape)
        keys = [*self._common_keys(), *self._result_key()]
        return scripts.call("finish_with_results", keys, self.keys.group, *form, *ids, *answers)

    def finish_with_outputs(self, outcomes: Sequence[Finish]) -> Command:
        """End messages with all that they publish; the reply is for `parse_settled()`.

        For outcomes with something `special`; for others `finish_with_results()` is quicker.
        """
        keys = [*self._common_keys(), self.keys.holders, self.keys.cancelled]
        first = len(keys) + 1
        streams: dict[str, int] = {}
        arguments: list[object] = []

        def entry(stream: str, items: Sequence[bytes], is_reply: bool = False) -> list[object]:
            place = streams.setdefault(stream, first + len(streams))
            return [place, "existing" if is_reply else "", len(items), *items]

        for one in outcomes:
            entries = [entry(output.stream, output.items) for output in one.outputs]
            items = one.with_header()
            if items and one.address is not None:
                entries.append(entry(one.address.stream, items, not one.address.may_create))
                self._note(one.address)
            elif items and self.result_stream:
                entries.append(entry(self.result_stream, items))
            is_owned = "" if one.status == DONE else "owned"
            arguments += (one.id, one.known_as, is_owned, len(entries))
            arguments += [part for parts in entries for part in parts]
            arguments += (one.channel, one.payload)
        own_results = streams.get(self.result_stream or "", 0)
        return scripts.call(
            "finish_with_outputs", [*keys, *streams], *self._who(), own_results, *arguments
        )

    def park(self, outcomes: Iterable[Park]) -> Command:
        """Note failures and put their messages aside; the reply is for `parse_settled()`."""
        arguments: list[object] = []
        for outcome in outcomes:
            arguments += (outcome.id, outcome.failure, outcome.delay_ms, outcome.delivery)
            arguments.append(outcome.known_as)
        keys = [*self._common_keys(), self.keys.holders, self.keys.cancelled]
        return scripts.call("park", keys, *self._who(), *arguments)

    def bury(self, outcome: Bury) -> Command:
        """Make a message a dead letter; the reply is for `parse_settled()`."""
        own_keys = (self.keys.dead, self.keys.holders, self.keys.dead_index)
        address = outcome.answer.address
        results = self._result_key() if address is None else (address.stream,)
        self._note(address)
        whose = "own" if address is None else "other" if address.may_create else "caller"
        return scripts.call(
            "bury",
            [*self._common_keys(), *own_keys, *results],
            *self._who(),
            outcome.id,
            outcome.failure,
            len(outcome.metadata),
            *outcome.metadata,
            *_answer(outcome.answer),
            whose,
        )

    def read_many(self) -> Command:
        """Note that the process reads several messages at a time from now on."""
        keys = [self.keys.holders, self.keys.due]
        return scripts.call("read_many", keys, self.consumer, self.identity)

    def hand_back(self, ids: Iterable[str]) -> Command:
        """Return messages to the group, uncharged.

        The reply is how many went back, and of how many the body was gone.
        """
        keys = [*self._common_keys(), self.keys.holders]
        return scripts.call("hand_back", keys, *self._who(), *ids)

    def fault(self, outcomes: Iterable[Fault]) -> Command:
        """Return messages at which their worker broke; the reply is for `parse_settled()`."""
        arguments: list[object] = []
        for outcome in outcomes:
            arguments += (outcome.id, outcome.delay_ms)
        keys = [*self._common_keys(), self.keys.holders]
        return scripts.call("fault", keys, *self._who(), *arguments)

    # --- progress ---

    def report(self, report: Report) -> Command:
        """Send progress and keep it for the next attempt; the reply is for `parse_reported()`."""
        keys = [self.keys.stream, self.keys.progress, self.keys.holders]
        answer, may_create = report.answer, True
        if answer.address is not None:
            keys.append(answer.address.stream)
            may_create = answer.address.may_create
        elif answer.items:
            keys += self._result_key()
        facts = (report.message_id, report.delivery, report.token, report.sequence, report.stored)
        ways = ("1" if may_create else "", answer.channel, answer.payload)
        return scripts.call("progress", keys, *self._who(), *facts, *ways, *answer.items)

    def forget_progress(self, ids: Iterable[str]) -> Command:
        """Remove the stored progress of messages that have ended."""
        return ("HDEL", self.keys.progress, *ids)

    def drop_progress(self, first: int) -> Command:
        """Remove the stored progress of messages that were ended by others, in a step.

        `first` is the index of the message at which to begin. The reply is the number of removed
        messages, and of messages that still have stored progress.
        """
        keys = [self.keys.stream, self.keys.progress]
        return scripts.call("drop_progress", keys, self.keys.group, first)

    # --- taking over ---

    def recover(self, request: ScanRequest) -> Command:
        """One step of recovery; the reply is for `parse_found()`."""
        keys = [*self._common_keys(), self.keys.presence, self.keys.holders, self.keys.outage]
        return scripts.call(
            "recover",
            [*keys, self.keys.cancelled, self.keys.progress],
            *self._who(),
            self.lease_ms,
            self.grace_ms,
            *request.arguments(),
        )

    @property
    def grace_ms(self) -> int:
        """How long nobody is taken for dead after an outage.

        Long enough for every heartbeat thread to fail, pause, connect and send a heartbeat.
        """
        return min(self.lease_ms // 2, LONGEST_GRACE_MS)

    # --- presence ---

    def claim(self, ended: bytes) -> Command:
        """Claim the consumer's name; the reply is for `parse_claim()`.

        `ended` is an identity that is known to have ended, or empty.
        """
        keys = [self.keys.due, self.keys.presence, self.keys.holders, self.keys.outage]
        lengths = (self.lease_ms, self.grace_ms)
        arguments = (self.consumer, self.identity, *lengths, ended, self._reads_one_by_one())
        return scripts.call("claim", keys, *arguments)

    def pending(self) -> Command:
        """Count what is pending, in all and by consumer; the reply is for `parse_pending()`."""
        return ("XPENDING", self.keys.stream, self.keys.group)

    def heartbeat(
        self, *, ended_from: int = 0, restore_from: str = START, has_paused: bool = False
    ) -> Command:
        """Renew the lease and tidy up one step; the reply is for `parse_heartbeat()`.

        `ended_from` is the rank at which to go on looking for ended consumers, `restore_from` the
        parked id behind which to go on restoring due times that were lost; empty not to.
        `has_paused` says that the consumer takes no messages because the group is paused.
        """
        keys = (self.keys.stream, self.keys.due, self.keys.presence, self.keys.dead)
        return scripts.call(
            "heartbeat",
            [
                *keys,
                self.keys.holders,
                self.keys.outage,
                self.keys.history,
                self.keys.cancelled,
                self.keys.scheduled,
                self.keys.progress,
                self.keys.paused,
            ],
            *self._who(),
            self.lease_ms,
            self.grace_ms,
            ended_from,
            restore_from,
            self._reads_one_by_one(),
            "1" if has_paused else "",
        )

    def sweep(self, *, is_new: bool = False) -> Command:
        """Delete some of the entries that only removed groups needed.

        `is_new` says that the group was just created. The reply is how many it deleted, and the
        refusal of the server or nothing.
        """
        keys = [self.keys.stream, self.keys.kept]
        return scripts.call("sweep", keys, self.keys.group, "1" if is_new else "")

    def leave(self, since_ms: int = 0, predecessor: Predecessor | None = None) -> Command:
        """Hand back a step of what is still this consumer's, and sign off after the last.

        What was delivered before `since_ms`, when the name was claimed, is the predecessor's.
        The reply is how many went back, of how many the body was gone, and whether there is more.
        """
        keys = [*self._common_keys(), self.keys.presence, self.keys.holders, self.keys.outage]
        is_foreign = "1" if predecessor is Predecessor.FOREIGN else ""
        return scripts.call("leave", [*keys, self.keys.paused], *self._who(), since_ms, is_foreign)

    # --- inside ---

    def _note(self, address: Address | None) -> None:
        """Remember a result stream, for retention. Reply streams expire by themselves."""
        if self.result_streams is not None and address is not None and address.may_create:
            self.result_streams.note(address.stream)

    def _common_keys(self) -> Sequence[str]:
        return (self.keys.stream, self.keys.history, self.keys.due)

    def _result_key(self) -> Sequence[str]:
        return (self.result_stream,) if self.result_stream else ()

    def _reads_one_by_one(self) -> str:
        return "1" if self.reads_one_by_one else ""

    def _who(self) -> tuple[str, str, str]:
        return (self.keys.group, self.consumer, self.identity)


def _all_equal(values: Sequence[object]) -> bool:
    return values.count(values[0]) == len(values)


def _shape(finish: Finish) -> str:
    """How many items of a result are sent; a '+' says that the script adds its header."""
    return f"+{len(finish.items)}" if finish.adds_header else str(len(finish.items))


def _answer(answer: Answer) -> list[object]:
    return [len(answer.items), *answer.items, answer.channel, answer.payload]
