"""Entries as they are read, and the outcomes that settle them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple


class Read(NamedTuple):
    """One read of a consumer, known by the time at which its messages were delivered."""

    consumer: bytes
    delivered_ms: int


class LostEntry(NamedTuple):
    """A message of this consumer that was delivered and has not arrived, without its fields."""

    id: str
    deliveries: int
    history: bytes
    delivered_ms: int


class Entry:
    """A message as it was fetched: raw items, and how often it was delivered and failed before.

    One is made for each message, so this is a plain class: a frozen dataclass takes three times
    as long to make. Nobody changes one.
    """

    __slots__ = ("deliveries", "history", "id", "items", "left_by")
    progress = b""
    """The stored progress of an earlier attempt."""

    def __init__(
        self,
        id: str,
        items: list[bytes],
        deliveries: int = 1,
        history: bytes = b"",
        left_by: Read | None = None,
    ) -> None:
        self.id = id
        self.items = items
        """Field names and values in turn."""
        self.deliveries = deliveries
        """How often it was delivered, this time included, as the server counts."""
        self.history = history
        """Its failures so far, one line each."""
        self.left_by = left_by
        """The read of a consumer that is dead or has lost it; None if it was not left behind."""

    def __repr__(self) -> str:
        return f"Entry({self.id!r}, deliveries={self.deliveries})"

    @property
    def failures(self) -> int:
        """How many of its attempts ended in a failure."""
        return self.history.count(b"\n")

    @property
    def faults(self) -> int:
        """How often a worker broke at it, and it went back uncharged."""
        return len(self.history) - len(self.history.lstrip(b"\t"))

    @property
    def crashes(self) -> int:
        """Deliveries that ended in neither success, failure nor hand-back."""
        crashes = self.deliveries - 1 - self.failures
        return crashes if crashes > 0 else 0


class ResumableEntry(Entry):
    """A message whose earlier attempt has reported progress."""

    __slots__ = ("progress",)

    def __init__(self, entry: Entry, progress: bytes) -> None:
        super().__init__(entry.id, entry.items, entry.deliveries, entry.history, entry.left_by)
        self.progress = progress


def parse_read(reply: Any) -> list[Entry]:
    """Return the entries of an XREADGROUP reply; none if the wait ended without any."""
    if not reply:
        return []
    ((_, entries),) = reply
    return [Entry(entry_id.decode(), items) for entry_id, items in entries]


class Address(NamedTuple):
    """The stream to which a result goes."""

    stream: str
    may_create: bool = True
    """Whether the stream is created if it does not exist. A reply stream is only created by its
    caller: if it is gone, the caller has ended, and the result is dropped."""


class Output(NamedTuple):
    """An entry that a processor has emitted, written in the step that ends its message."""

    stream: str
    items: Sequence[bytes]
    """Names and values in turn."""


class Answer(NamedTuple):
    """What goes to those who wait for a message's result; empty parts go nowhere."""

    items: Sequence[bytes] = ()
    """The names and values of an entry for the result stream, in turn."""
    channel: str = ""
    payload: bytes = b""
    address: Address | None = None
    """Where the entry goes; None for the consumer's own result stream."""


DONE: Final = "done"
EXPIRED: Final = "expired"
CANCELLED: Final = "cancelled"


class Special(NamedTuple):
    """The parts of an outcome that few messages have."""

    status: str
    address: Address | None
    outputs: Sequence[Output]


class Finish:
    """The message has ended, and has a result to publish, whose parts are those of an `Answer`.

    Done without a result, a message is settled by its id alone. A plain class, as `Entry` is.
    """

    __slots__ = (
        "adds_header",
        "channel",
        "entry",
        "id",
        "items",
        "payload",
        "size",
        "special",
    )

    def __init__(
        self,
        id: str,
        items: Sequence[bytes] = (),
        channel: str = "",
        payload: bytes = b"",
        adds_header: bool = False,
        entry: Entry | None = None,
        status: str = DONE,
        address: Address | None = None,
        outputs: Sequence[Output] = (),
    ) -> None:
        self.id = id
        self.items = items
        self.special: Special | None = None
        """None for most messages: they are done, and all that is published goes to the consumer's
        own result stream and to a channel."""
        self.channel = channel
        self.payload = payload
        self.adds_header = adds_header
        """Whether the script puts `message_id` and `status`, which is "done", in front of the
        items. They then need not be sent."""
        size = len(payload)
        for item in items:  # quicker than sum() for the few items of a result
            size += len(item)
        self.size = size
        """Bytes that are published."""
        self.entry = entry
        """The message, if it is kept in case that Redis never takes the result."""
        if status != DONE or address is not None or outputs:
            self._set(status, address, outputs)

    def _set(self, status: str, address: Address | None, outputs: Sequence[Output]) -> None:
        self.special = Special(status, address, outputs)
        self.size += _size_of(outputs)

    def redirect(self, address: Address | None, outputs: Sequence[Output]) -> None:
        """Set the address of the result, and the emitted messages."""
        self._set(self.status, address, outputs)

    @property
    def status(self) -> str:
        """The status of the result: "done", "expired" or "cancelled"."""
        return DONE if self.special is None else self.special.status

    @property
    def address(self) -> Address | None:
        """Where the items go; None for the consumer's own result stream."""
        return None if self.special is None else self.special.address

    @property
    def outputs(self) -> Sequence[Output]:
        """The messages that the processor has emitted, in order."""
        return () if self.special is None else self.special.outputs

    def with_header(self) -> Sequence[bytes]:
        """Return all items of the result."""
        if not self.adds_header:
            return self.items
        return (b"message_id", self.id.encode(), b"status", self.status.encode(), *self.items)

    @property
    def known_as(self) -> str:
        """The id in the result if it differs from the id of the message, or ''."""
        items = self.items
        if not items or items[0] != b"message_id":
            return ""
        known_as = items[1].decode()
        return "" if known_as == self.id else known_as

    @property
    def is_empty(self) -> bool:
        """Whether it is done with nothing to publish, so that settling needs only its id."""
        return self.special is None and not (self.items or self.adds_header or self.channel)


def _size_of(outputs: Sequence[Output]) -> int:
    return sum(len(item) for output in outputs for item in output.items)


class Park(NamedTuple):
    """The message failed, and is tried again after the delay."""

    id: str
    failure: str
    """One line of JSON."""
    delay_ms: int
    delivery: int
    """The delivery that failed: 1 for the first."""
    known_as: str = ""
    """Another id by which the message may be cancelled, if it has one."""


@dataclass(frozen=True, slots=True)
class Bury:
    """The message is given up on and becomes a dead letter."""

    id: str
    failure: str
    """One line of JSON, or nothing if no failure led to this."""
    metadata: Sequence[bytes]
    answer: Answer


class HandBack(NamedTuple):
    """The message was interrupted, and goes back to the group uncharged."""

    id: str


class Fault(NamedTuple):
    """Its worker broke at the message, which goes back uncharged. That is noted."""

    id: str
    delay_ms: int
    """How long it waits until it is tried again."""


Outcome = Finish | Park | Bury | HandBack | Fault
