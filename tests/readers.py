"""What tests of a consumer's parts share: entries, slots, and a connection that answers by a
script."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from protocol_client import KEYS

from shared_sync.connection.scripts import Command, scripts
from shared_sync.errors import RedisUnavailable
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Entry, Read
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.slot import Attempt, Slot


def entries(*ids: str) -> list[Entry]:
    """Messages that were delivered for the first time."""
    return [Entry(entry_id, []) for entry_id in ids]


def suspect(entry_id: str, crashes: int = 1, left_by: Read | None = None) -> Entry:
    """A message that has crashes behind it."""
    return Entry(entry_id, [], deliveries=crashes + 1, left_by=left_by)


def add_slot(in_flight: InFlight, name: str, *ids: str, source: Keys = KEYS) -> Slot:
    """The slot of a reader that has no outbox, and in which these messages wait."""
    slot = Slot(name)
    slot.source = source
    in_flight.add_slot(slot)
    slot.waiting.extend(entries(*ids))
    return slot


def waiting(slot: Slot) -> list[str]:
    return [entry.id for entry in slot.waiting]


def start(slot: Slot, now: float = 0.0) -> Attempt:
    """Start the next message, of which there must be one."""
    attempt = slot.start_next(now)
    assert attempt is not None
    return attempt


Reply = Any


class ScriptedConnection:
    """Stands in for a `Connection`: it keeps what is sent, and the test says what is received.

    A reply that is an error is raised. One that is a function is called first. Which messages are
    cancelled, `marked` says; those questions are neither kept nor answered by the script.
    """

    def __init__(self, *replies: Reply) -> None:
        self.replies: deque[Reply] = deque(replies)
        self.sent: list[list[Command]] = []
        self.connects = 0
        self.closes = 0
        self.interrupted = False
        self.fail_to_open: BaseException | None = None
        self.fail_to_send: BaseException | None = None
        self._is_open = False
        self.marked: list[bytes] | BaseException = []
        self.marks_asked = 0
        self._unanswered: deque[Command] = deque()

    def open(self) -> None:
        if self.fail_to_open is not None:
            raise self.fail_to_open
        if not self._is_open:
            self.connects += 1
            self._is_open = True

    def close(self) -> None:
        self.closes += self._is_open
        self._is_open = False

    def close_if_stale(self) -> None: ...

    def send(self, commands: Sequence[Command]) -> None:
        self.open()
        if self.fail_to_send is not None:
            raise self.fail_to_send
        self._unanswered = deque(commands)
        kept = [command for command in commands if not _asks_for_marks(command)]
        self.marks_asked += len(commands) - len(kept)
        if kept or not commands:
            self.sent.append(kept)

    def receive(self) -> Any:
        command = self._unanswered.popleft() if self._unanswered else ()
        reply = self.marked if _asks_for_marks(command) else self.replies.popleft()
        if callable(reply):
            reply = reply()
        if isinstance(reply, RedisUnavailable):
            self.close()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def receive_blocked(self) -> Any:
        return self.receive()

    def call(self, *command: Any) -> Any:
        self.send([command])
        return self.receive()

    def interrupt(self) -> None:
        self.interrupted = True

    def names(self) -> list[list[str]]:
        """What was sent: in each exchange, the names of the scripts and commands."""
        return [[name_of(command) for command in commands] for commands in self.sent]


def _asks_for_marks(command: Command) -> bool:
    return tuple(command[:2]) == ("ZRANGE", KEYS.cancelled)


def name_of(command: Command) -> str:
    """The script that a command calls, or its first word."""
    names = {script.digest: name for name, script in scripts().items()}
    return names[command[1]] if command[0] == "EVALSHA" else str(command[0])


def first(*acts: Callable[[], object], then: Reply) -> Callable[[], Reply]:
    """A reply before which something happens."""

    def reply() -> Reply:
        for act in acts:
            act()
        return then

    return reply
