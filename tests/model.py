"""What a stream and its groups must look like after each act, said without Redis.

Messages are numbered as they were published and time is counted in ticks, so nothing here knows
ids, keys or clocks. A method is one script of the protocol: it changes the state as the script
must and returns what the script must answer. Where a script may choose, as recovery may between
messages, the method is told what was chosen and fails if that was not to be had.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from shared_sync.protocol.commands import PARKED

LEASE = 12
GRACE = LEASE // 2
OWN_IDLE = 4
"""For so long the reply to a fetch may be on its way."""
MAX_CRASHES = 2


class NoGroup(Exception):
    """The group was destroyed, and the script must say so."""


class Place(Enum):
    """Where a message is for one group: in exactly one of these."""

    UNREAD = "unread"
    PENDING = "pending"
    PARKED = "parked"
    FINISHED = "finished"
    DEAD = "dead"
    LOST = "lost"
    """Ended without an outcome, because others deleted its body or the group."""


NEEDED = frozenset({Place.UNREAD, Place.PENDING, Place.PARKED})
DELIVERED = frozenset({Place.PENDING, Place.PARKED})


@dataclass(eq=False)
class Process:
    """A consumer as the machine sees it; of one name there may be several, one after another."""

    name: str
    born: int
    held: dict[int, int] = field(default_factory=dict)
    """Messages in hand and the delivery at which each came."""
    dead: bool = False
    frozen: bool = False
    silent: bool = False
    """It was frozen, and has not beaten since."""
    draining: bool = False
    left: bool = False

    @property
    def beats(self) -> bool:
        """Whether it gives signs of life as time passes."""
        return not (self.dead or self.frozen or self.left)


@dataclass
class Message:
    """A message for one group."""

    place: Place = Place.UNREAD
    owner: str = ""
    deliveries: int = 0
    crashes: int = 0
    failures: int = 0
    """Those that were noted, though the notes may be lost."""
    delivered_at: int = 0
    received_by: Process | None = None
    """The process that was told of the last delivery, unless that reply was lost."""
    begun_anew: int = 0
    """Times the group was destroyed and created again, which begins or loses every message."""


class Stream:
    """The stream, which several groups share, and the time."""

    def __init__(self) -> None:
        self.now = 0
        self.published = 0
        self.bodies: set[int] = set()
        self.groups: list[Group] = []

    @property
    def has_room(self) -> bool:
        """Whether more messages would not only lie there unread."""
        return all(len(group.of(Place.UNREAD)) < 4 for group in self.groups)

    def publish(self) -> int:
        number = self.published
        self.published += 1
        self.bodies.add(number)
        for group in self.groups:
            group.messages.append(Message())
        return number

    def delete_body(self, number: int) -> None:
        """Others delete the entry."""
        self.bodies.discard(number)
        for group in self.groups:
            message = group.messages[number]
            if group.exists and message.place is Place.UNREAD:
                message.place = Place.LOST

    def is_needed(self, number: int) -> bool:
        return any(group.exists and group.messages[number].place in NEEDED for group in self.groups)

    def drop_unless_needed(self, number: int) -> None:
        if not self.is_needed(number):
            self.bodies.discard(number)


class Group:
    """One group and all that is kept for it."""

    def __init__(self, stream: Stream, name: str, *, keeps_lost_bodies: bool) -> None:
        self.name = name
        self.exists = True
        self.messages: list[Message] = []
        self.notes: dict[int, list[str]] = {}
        self.due: dict[int, int] = {}
        self.presence: dict[str, int] = {}
        self.letters: list[tuple[int, list[str]]] = []
        """Dead letters: message and failures, in the order they died."""
        self.results: list[tuple[int, str]] = []
        self._stream = stream
        self._keeps_lost_bodies = keeps_lost_bodies
        stream.groups.append(self)

    # --- what is where ---

    def of(self, *places: Place) -> list[int]:
        return [n for n, message in enumerate(self.messages) if message.place in places]

    def owned_by(self, name: str) -> list[int]:
        return [n for n in self.of(Place.PENDING) if self.messages[n].owner == name]

    def noted(self, number: int) -> int:
        """Failures of which there are notes."""
        return len(self.notes.get(number, ()))

    def has_body(self, number: int) -> bool:
        return number in self._stream.bodies

    def idle(self, number: int) -> int:
        return self._stream.now - self.messages[number].delivered_at

    # --- the group itself ---

    def destroy(self) -> None:
        self.exists = False

    def ensure(self) -> bool:
        """Create it unless it exists; it begins again with all that is in the stream."""
        if self.exists:
            return False
        self.exists = True
        for number, message in enumerate(self.messages):
            message.begun_anew += 1
            if self.has_body(number):
                self.messages[number] = Message(begun_anew=message.begun_anew)
            elif message.place in NEEDED:
                message.place = Place.LOST
        return True

    def _require(self) -> None:
        if not self.exists:
            raise NoGroup

    # --- reading and settling ---

    def read(self, name: str, count: int) -> list[int]:
        self._require()
        read = self.of(Place.UNREAD)[:count]
        for number in read:
            message = self.messages[number]
            message.place = Place.PENDING
            self._deliver(number, name, 1)
        return read

    def _deliver(self, number: int, name: str, deliveries: int) -> None:
        message = self.messages[number]
        message.place = Place.PENDING
        message.owner = name
        message.deliveries = deliveries
        message.delivered_at = self._stream.now
        message.received_by = None

    def finish(self, numbers: dict[int, bool]) -> list[int]:
        """Finish messages, each with a result or without."""
        if any(numbers.values()):
            self._require()
        ended = []
        for number, result in numbers.items():
            if self.exists and self.messages[number].place in DELIVERED:
                self.messages[number].place = Place.FINISHED
                if result:
                    self.results.append((number, "done"))
                ended.append(number)
        noted = any(number in self.notes for number in numbers)
        for number in numbers:
            self.notes.pop(number, None)
            if noted:
                self.due.pop(number, None)
        for number in ended:
            self._stream.drop_unless_needed(number)
        return [int(number in ended) for number in numbers]

    def park(self, name: str, number: int, deliveries: int, failure: str, delay: int) -> int:
        self._require()
        message = self.messages[number]
        if message.place not in DELIVERED:
            self._forget(number)
            return 0
        if (message.owner, message.deliveries) != (name, deliveries):
            return 0
        if self._loses_body_on_claim(number):
            self._forget(number)
            return -1
        message.place = Place.PARKED
        message.owner = PARKED
        noted = self.notes.setdefault(number, [])
        if failure not in noted:  # else a repetition, after the group had begun anew
            noted.append(failure)
        message.failures += 1
        self.due[number] = self._stream.now + delay
        return 1

    def bury(self, name: str, number: int, failure: str) -> int:
        self._require()
        message = self.messages[number]
        if message.place not in DELIVERED:
            self._forget(number)
            return 0
        if message.owner != name:
            return 0
        lost = not self.has_body(number)
        if lost:
            message.place = Place.LOST
        else:
            message.place = Place.DEAD
            self.letters.append((number, [*self.notes.get(number, ()), failure]))
            self.results.append((number, "dead"))
        self._forget(number)
        self._stream.drop_unless_needed(number)
        return -1 if lost else 1

    def _forget(self, number: int) -> None:
        self.notes.pop(number, None)
        self.due.pop(number, None)

    def _loses_body_on_claim(self, number: int) -> bool:
        if self.has_body(number) or self._keeps_lost_bodies:
            return False
        self.messages[number].place = Place.LOST
        self.notes.pop(number, None)
        return True

    def hand_back(self, name: str, numbers: list[int]) -> list[int]:
        self._require()
        returned = gone = 0
        for number in numbers:
            message = self.messages[number]
            if message.place is not Place.PENDING or message.owner != name:
                continue
            if self._loses_body_on_claim(number):
                gone += 1
                continue
            message.place = Place.PARKED
            message.owner = PARKED
            message.deliveries -= 1
            self.due[number] = self._stream.now
            returned += 1
        return [returned, gone]

    def leave(self, name: str) -> list[int]:
        answer = self.hand_back(name, self.owned_by(name))
        self.presence.pop(name, None)
        return answer

    # --- presence ---

    def beat(self, name: str) -> tuple[int, int, int, int]:
        """Entries in the stream, pending, parked, dead letters."""
        self._forgive_outage()
        self.presence[name] = self._stream.now + LEASE
        self._require()
        for ended in self._ended_leases():
            if not self.owned_by(ended):
                del self.presence[ended]
        parked = self.of(Place.PARKED)
        if len(parked) > len(self.due):
            for number in parked:
                self.due.setdefault(number, self._stream.now)
        pending = len(self.of(*DELIVERED))
        return len(self._stream.bodies), pending, len(parked), len(self.letters)

    def _ended_leases(self) -> list[str]:
        return [name for name, end in self.presence.items() if end <= self._stream.now]

    def _forgive_outage(self) -> None:
        newest = max(self.presence.values(), default=None)
        if newest is None or newest - self._stream.now > LEASE * 2 / 3:
            return
        for name in self._ended_leases():
            self.presence[name] = self._stream.now + GRACE

    # --- recovery ---

    def recover(
        self,
        name: str,
        *,
        age: int,
        startable_crashes: int,
        held: frozenset[int],
        chosen: int | None,
        still_pending: set[int],
    ) -> int:
        """Check what a recovery took, and let it be taken; the bodies it must find gone.

        `chosen` is what it says it took, `still_pending` what the group had pending after it.
        """

        def may_start(number: int, deliveries: int) -> bool:
            crashes = deliveries - 1 - self.noted(number)
            return crashes <= startable_crashes or crashes >= MAX_CRASHES

        due = {n: at for n, at in self.due.items() if at <= self._stream.now}
        if due:
            self._require()
        startable = [
            n
            for n in due
            if self.messages[n].place is Place.PARKED
            and n not in held
            and may_start(n, self.messages[n].deliveries + 1)
        ]
        choices = [n for n in startable if self.has_body(n)]
        if choices:
            assert chosen == min(choices, key=lambda n: (due[n], n)), "not the first that is due"
            lost = self._lose(startable, still_pending, all_of_them=False)
            self._take(chosen, name, self.messages[chosen].deliveries + 1)
            return lost
        # All that is due was looked at, so that what is not parked any more was swept.
        lost = self._lose(startable, still_pending, all_of_them=True)
        for number in due:
            if self.messages[number].place not in DELIVERED:
                self._forget(number)
            elif self.messages[number].place is not Place.PARKED:
                del self.due[number]

        self._forgive_outage()
        self._require()
        left_behind = {}
        for number in self.of(Place.PENDING):
            deliveries = self._deliveries_if_left_behind(number, name, age)
            if deliveries is not None and number not in held and may_start(number, deliveries):
                left_behind[number] = deliveries
        choices = [n for n in left_behind if self.has_body(n)]
        lost += self._lose(list(left_behind), still_pending, all_of_them=not choices)
        if not choices:
            assert chosen is None, f"message {chosen} was not to be taken"
            return lost
        assert chosen in choices, f"{chosen} was taken, of {choices}"
        self._check_charge(chosen, left_behind[chosen])
        self._take(chosen, name, left_behind[chosen])
        return lost

    def _deliveries_if_left_behind(self, number: int, name: str, age: int) -> int | None:
        message = self.messages[number]
        if message.owner == name:
            if self.idle(number) > age:
                return message.deliveries + 1
            return message.deliveries if self.idle(number) >= OWN_IDLE else None
        end = self.presence.get(message.owner)
        dead = self.idle(number) >= LEASE if end is None else end <= self._stream.now
        return message.deliveries + 1 if dead else None

    def _check_charge(self, number: int, deliveries: int) -> None:
        """A crash is charged only where there was none to finish it; a lost reply is none."""
        message = self.messages[number]
        holder = message.received_by
        if deliveries > message.deliveries:
            assert holder is None or holder.silent or not holder.beats, "taken from the living"
            message.crashes += 1
        else:
            assert holder is None or not holder.dead, f"the crash with {number} was not charged"

    def _lose(self, candidates: list[int], still_pending: set[int], *, all_of_them: bool) -> int:
        """Those of the candidates whose bodies are gone may have ended, or all must have."""
        ended = 0
        for number in candidates:
            if self.has_body(number):
                continue
            if number in still_pending:
                assert not all_of_them, f"the body of {number} is gone and it was not ended"
                continue
            self.messages[number].place = Place.LOST
            self._forget(number)
            ended += 1
        return ended

    def _take(self, number: int | None, name: str, deliveries: int) -> None:
        assert number is not None
        self._deliver(number, name, deliveries)
        self.due.pop(number, None)

    def next_due(self) -> int | None:
        """Ticks until the next parked message is due; what is due now does not count."""
        later = [at - self._stream.now for at in self.due.values() if at > self._stream.now]
        return min(later, default=None)
