"""What a stream and its groups must look like after each act, said without Redis.

Messages are numbered as they were published and time is counted in ticks, so nothing here knows
ids, keys or clocks. A method is one script of the protocol: it changes the state as the script
must and returns what the script must answer. Where a script may choose, as recovery may between
messages, the method is told what was chosen and fails if that was not to be had.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from shared_sync.protocol.keys import PARKED

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


@dataclass
class Scan:
    """A step of recovery: what was asked, and what has come of it so far."""

    name: str
    age: int
    startable_crashes: int
    most: int
    in_flight: frozenset[int]
    due_comes_last: bool
    taken: list[int] = field(default_factory=list)
    is_alone: bool = False
    next_due: int | None = None
    """Ticks until the next parked message is due, as far as that was looked at."""

    @property
    def is_full(self) -> bool:
        return self.is_alone or len(self.taken) >= self.most


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
    """It was frozen, and has sent no heartbeat since."""
    draining: bool = False
    left: bool = False

    @property
    def sends_heartbeats(self) -> bool:
        """Whether it sends heartbeats as time passes."""
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
        self.outage_until = 0
        """Until when nobody is taken for dead; 0 without an outage."""
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

    def finish(self, numbers: list[int]) -> int:
        """Finish messages without results; how many of them this ended."""
        ended = self._finish(numbers)
        for number in numbers if ended else ():
            self._stream.drop_unless_needed(number)
        return len(ended)

    def finish_with_results(self, numbers: list[int]) -> list[int]:
        """Finish messages and publish their results."""
        self._require()
        ended = self._finish(numbers)
        self.results += [(number, "done") for number in ended]
        for number in ended:
            self._stream.drop_unless_needed(number)
        return [int(number in ended) for number in numbers]

    def _finish(self, numbers: list[int]) -> list[int]:
        ended = [n for n in numbers if self.exists and self.messages[n].place in DELIVERED]
        for number in ended:
            self.messages[number].place = Place.FINISHED
        noted = any(number in self.notes for number in numbers)
        for number in numbers:
            self.notes.pop(number, None)
            if noted:
                self.due.pop(number, None)
        return ended

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

    def heartbeat(self, name: str) -> tuple[int, int, int, int]:
        """Entries in the stream, pending, parked, dead letters."""
        self._forgive_outage()
        self.presence[name] = self._stream.now + LEASE
        forgiven = self._is_forgiven()
        self._require()
        for ended in [] if forgiven else self._ended_leases():
            if not self.owned_by(ended):
                del self.presence[ended]
        parked = self.of(Place.PARKED)
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
        if self._ended_leases():
            self.outage_until = self._stream.now + GRACE

    def _is_forgiven(self) -> bool:
        if self.outage_until > self._stream.now:
            return True
        self.outage_until = 0
        return False

    # --- recovery ---

    def recover(self, scan: Scan, taken: list[int], still_pending: set[int]) -> int:
        """Check what a step of recovery took, and let it be taken; the bodies it must find gone.

        `taken` is what it says it took, `still_pending` what the group had pending after it.
        """
        scan.next_due = None
        parked = [n for n in taken if self.messages[n].place is Place.PARKED]
        left_behind = [n for n in taken if n not in parked]
        lost = 0
        for place in ("left behind", "due") if scan.due_comes_last else ("due", "left behind"):
            if scan.is_full:
                break
            if place == "due":
                lost += self._recover_due(scan, still_pending)
            else:
                lost += self._recover_left_behind(scan, left_behind, still_pending)
        assert scan.taken == taken, f"{taken} were taken, and not {scan.taken}"
        return lost

    def _recover_due(self, scan: Scan, still_pending: set[int]) -> int:
        """Which parked messages are taken is sure: the first that are due."""
        together: list[int] = []
        lost = 0
        for number, at in sorted(self.due.items(), key=lambda item: (item[1], item[0])):
            if at > self._stream.now:
                scan.next_due = at - self._stream.now
                break
            self._require()
            if len(scan.taken) + len(together) >= scan.most:
                break
            message = self.messages[number]
            if message.place not in DELIVERED:
                self._forget(number)
            elif message.place is not Place.PARKED:
                del self.due[number]
            elif number in scan.in_flight:
                continue
            elif message.deliveries <= self.noted(number):
                together.append(number)
            elif self._may_start(scan, number, message.deliveries + 1) and not (
                scan.taken or together
            ):
                lost += self._take_or_lose(scan, number, message.deliveries + 1, still_pending)
                scan.is_alone = bool(scan.taken)
                if scan.is_alone:
                    break
        for number in together:
            deliveries = self.messages[number].deliveries + 1
            lost += self._take_or_lose(scan, number, deliveries, still_pending)
        return lost

    def _recover_left_behind(self, scan: Scan, chosen: list[int], still_pending: set[int]) -> int:
        """Of several messages that were left behind, the script may choose."""
        self._require()
        self._forgive_outage()
        forgiven = self._is_forgiven()
        candidates = {}
        for number in self.of(Place.PENDING):
            deliveries = self._deliveries_if_left_behind(number, scan.name, scan.age, forgiven)
            if (
                deliveries is not None
                and number not in scan.in_flight
                and self._may_start(scan, number, deliveries)
            ):
                candidates[number] = deliveries
        suspects = {n for n, deliveries in candidates.items() if self._crashes(n, deliveries)}
        to_be_had = {n for n in candidates if self.has_body(n)}
        took_before = bool(scan.taken)
        for number in chosen:
            assert number in to_be_had, f"{number} was taken, of {to_be_had}"
            assert number not in suspects or not scan.taken, "a suspect was not taken alone"
            self._check_charge(number, candidates[number])
            self._take(number, scan, candidates[number])
            scan.is_alone = number in suspects
        if not scan.is_full:
            passed_by = to_be_had - set(chosen)
            assert passed_by <= (suspects if scan.taken else set()), "more was to be had"
        return self._lose(
            [n for n in candidates if n not in chosen],
            still_pending,
            all_of_them=not scan.taken and not took_before,
        )

    def _crashes(self, number: int, deliveries: int) -> int:
        return deliveries - 1 - self.noted(number)

    def _may_start(self, scan: Scan, number: int, deliveries: int) -> bool:
        crashes = self._crashes(number, deliveries)
        return crashes <= scan.startable_crashes or crashes >= MAX_CRASHES

    def _take_or_lose(
        self, scan: Scan, number: int, deliveries: int, still_pending: set[int]
    ) -> int:
        if self.has_body(number):
            self._take(number, scan, deliveries)
            return 0
        return self._lose([number], still_pending, all_of_them=True)

    def _deliveries_if_left_behind(
        self, number: int, name: str, age: int, forgiven: bool
    ) -> int | None:
        message = self.messages[number]
        if message.owner == name:
            if self.idle(number) > age:
                return message.deliveries + 1
            return message.deliveries if self.idle(number) >= OWN_IDLE else None
        end = self.presence.get(message.owner)
        if end is None:
            dead = self.idle(number) >= LEASE
        else:
            dead = end <= self._stream.now and not forgiven
        return message.deliveries + 1 if dead else None

    def _check_charge(self, number: int, deliveries: int) -> None:
        """A crash is charged only where there was none to finish it; a lost reply is none."""
        message = self.messages[number]
        holder = message.received_by
        if deliveries > message.deliveries:
            assert holder is None or holder.silent or not holder.sends_heartbeats, (
                "taken from the living"
            )
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

    def _take(self, number: int, scan: Scan, deliveries: int) -> None:
        self._deliver(number, scan.name, deliveries)
        self.due.pop(number, None)
        scan.taken.append(number)
