"""What a stream and its groups must be like after each command, stated without Redis.

A method stands for one script of the protocol: it changes the state as the script must, and
returns what the script must reply.
"""

from __future__ import annotations

import json

from protocol_model.messages import (
    DELIVERED,
    GRACE,
    LEASE,
    NEEDED,
    TICK_MS,
    Ending,
    Message,
    NoGroup,
    Place,
)
from shared_sync.protocol.keys import PARKED


class Stream:
    """The stream, which several groups share, and the time."""

    def __init__(self) -> None:
        self.now = 0
        self.published = 0
        self.bodies: set[int] = set()
        self.groups: list[Group] = []

    @property
    def has_room(self) -> bool:
        """Whether few enough messages are unread that more of them add something."""
        return all(len(group.of(Place.UNREAD)) < 4 for group in self.groups)

    def publish(self) -> int:
        number = self.published
        self.published += 1
        self.bodies.add(number)
        for group in self.groups:
            group.messages.append(Message())
        return number

    def delete_body(self, number: int) -> None:
        """Delete the entry, as others may."""
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
    """One group and all that is kept for it. `check_exists()` raises `NoGroup`."""

    def __init__(self, stream: Stream, name: str, *, keeps_lost_bodies: bool) -> None:
        self.name = name
        self.exists = True
        self.messages: list[Message] = []
        self.history: dict[int, list[str]] = {}
        self.due: dict[int, int] = {}
        self.presence: dict[str, int] = {}
        self.holders: set[str] = set()
        """The names that are claimed."""
        self.outage_until = 0
        """Until when nobody is taken for dead; 0 without an outage."""
        self.last_heartbeat: int | None = None
        self.letters: list[tuple[int, list[str]]] = []
        """Dead letters: message and failures, in the order in which they were buried."""
        self.results: list[tuple[int, str]] = []
        self.replies: list[tuple[int, str]] = []
        """What a caller has received that waits."""
        self.outputs: list[int] = []
        """The messages that have emitted something, once for each output."""
        self.progress: dict[int, tuple[str, int]] = {}
        """Which process has stored the progress of each message, and with which number."""
        self._stream = stream
        self._keeps_lost_bodies = keeps_lost_bodies
        stream.groups.append(self)

    # --- where messages are ---

    def of(self, *places: Place) -> list[int]:
        return [n for n, message in enumerate(self.messages) if message.place in places]

    def owned_by(self, name: str) -> list[int]:
        return [n for n in self.of(Place.PENDING) if self.messages[n].owner == name]

    def recorded_failures(self, number: int) -> int:
        """Return how many failures are in the history."""
        return len(self.history.get(number, ()))

    def deliveries_on_record(self, number: int) -> int:
        """Return how many deliveries by this library the history tells of."""
        failures = self.history.get(number, [])
        last_attempt = json.loads(failures[-1])["attempt"] if failures else 0
        return max(len(failures), last_attempt)

    def is_on_record(self, name: str) -> bool:
        """Return whether a name has a lease or a claim; one that has not is another program's."""
        return name in self.presence or name in self.holders

    def has_body(self, number: int) -> bool:
        return number in self._stream.bodies

    @property
    def now(self) -> int:
        return self._stream.now

    def idle(self, number: int) -> int:
        return self.now - self.messages[number].delivered_at

    # --- the group itself ---

    def destroy(self) -> None:
        self.exists = False

    def ensure(self) -> bool:
        """Create it unless it exists; it begins again with everything in the stream."""
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

    def check_exists(self) -> None:
        if not self.exists:
            raise NoGroup

    # --- reading and settling ---

    def read(self, name: str, count: int) -> list[int]:
        self.check_exists()
        read = self.of(Place.UNREAD)[:count]
        for number in read:
            message = self.messages[number]
            message.place = Place.PENDING
            self.deliver(number, name, 1)
        return read

    def deliver(self, number: int, name: str, deliveries: int) -> None:
        message = self.messages[number]
        message.place = Place.PENDING
        message.owner = name
        message.deliveries = deliveries
        message.delivered_at = self.now
        message.received_by = None

    def deliver_elsewhere(self, number: int, name: str) -> None:
        """Another library takes a message from whoever has it."""
        message = self.messages[number]
        if message.place is Place.PENDING:
            message.uncounted += 1
        self.deliver(number, name, message.deliveries + 1)

    def begin_to_count(self, number: int) -> None:
        """Let no delivery count that the history does not tell of."""
        message = self.messages[number]
        message.failures = self.recorded_failures(number)
        message.crashes = self.deliveries_on_record(number) - message.failures
        message.uncounted = 0

    def finish(self, numbers: list[int]) -> int:
        """Finish messages without results; return how many of them this ended."""
        pending = [n for n in numbers if self.exists and self.messages[n].place in DELIVERED]
        ended = self._finish(numbers)
        deleted = [number for number in ended if self.has_body(number)]
        for number in numbers if ended else ():
            self._stream.drop_unless_needed(number)
        return max(len(pending), len(deleted)) if self._is_alone else len(pending)

    def finish_with_results(self, numbers: list[int]) -> list[int]:
        """Finish messages and publish their results."""
        self.check_exists()
        ended = self._finish(numbers)
        self.results += [(number, "done") for number in ended]
        for number in ended:
            self._stream.drop_unless_needed(number)
        return [int(number in ended) for number in numbers]

    def end(self, name: str, endings: list[Ending]) -> list[int]:
        """End messages with all that they publish; return 2 for those whose result was dropped."""
        self.check_exists()
        before = set(self.of(*DELIVERED))
        ended: list[Ending] = []
        gone: list[int] = []
        for one in endings:
            is_done = one.status == "done"
            message = self.messages[one.number]
            if one.number not in before:
                if self._restore(one.number, PARKED if is_done else name, 1):
                    ended.append(one)
                else:
                    gone.append(one.number)
            elif is_done or (message.place is Place.PENDING and message.owner == name):
                ended.append(one)
        for one in ended:
            self.messages[one.number].place = Place.FINISHED
            self.outputs += [one.number] * one.outputs
            if one.caller != "gone":
                written = self.replies if one.caller else self.results
                written.append((one.number, one.status))
        forgotten = [*gone, *(one.number for one in ended)]
        has_failed = any(number in self.history for number in forgotten)
        for number in forgotten:
            self.history.pop(number, None)
            if has_failed:
                self.due.pop(number, None)
        for one in ended:
            self._stream.drop_unless_needed(one.number)
        return [(1 + (one.caller == "gone")) if one in ended else 0 for one in endings]

    def _finish(self, numbers: list[int]) -> list[int]:
        ended = [
            number
            for number in numbers
            if self.exists
            and (self.messages[number].place in DELIVERED or self._restore(number, PARKED, 1))
        ]
        for number in ended:
            self.messages[number].place = Place.FINISHED
        has_failed = any(number in self.history for number in numbers)
        for number in numbers:
            self.history.pop(number, None)
            if has_failed:
                self.due.pop(number, None)
        return ended

    @property
    def _is_alone(self) -> bool:
        return [group for group in self._stream.groups if group.exists] == [self]

    def _restore(self, number: int, name: str, deliveries: int) -> bool:
        """Take a message for unfinished that is not pending, if its entry says that it is."""
        message = self.messages[number]
        if not (self._is_alone and self.has_body(number)) or message.place is Place.UNREAD:
            return False
        message.left_over += message.place is not Place.DROPPED
        message.place = Place.PENDING
        message.owner = name
        message.deliveries = deliveries
        message.delivered_at = self.now
        message.failures = self.recorded_failures(number)
        message.crashes = max(0, deliveries - 1 - message.failures)
        return True

    def restore_parked(self, number: int) -> None:
        """Park a message again whose time has come, and which is not pending."""
        if self._restore(number, PARKED, self.recorded_failures(number)):
            self.messages[number].place = Place.PARKED

    def delete_consumer(self, name: str) -> None:
        """Remove a consumer with all that it has pending, as others may."""
        owned = self.of(Place.PARKED) if name == PARKED else self.owned_by(name)
        for number in owned:
            self.messages[number].place = Place.DROPPED

    def park(self, name: str, number: int, deliveries: int, failure: str, delay: int) -> int:
        self.check_exists()
        message = self.messages[number]
        is_recorded = self.recorded_failures(number) >= deliveries
        if message.place not in DELIVERED and (
            is_recorded or not self._restore(number, name, deliveries)
        ):
            self.forget(number)
            return 0
        if (message.owner, message.deliveries) != (name, deliveries):
            return 0
        if self._loses_body_on_claim(number):
            self.forget(number)
            return -1
        message.place = Place.PARKED
        message.owner = PARKED
        self.due[number] = self.now + delay
        if not failure:
            message.crashes += 1
            return 1
        failures = self.history.setdefault(number, [])
        if failure not in failures:  # else a repetition, after the group had begun anew
            failures.append(failure)
        message.failures += 1
        return 1

    def fault(self, name: str, number: int) -> int:
        """Hand a message back at which its worker broke; that is noted in front of its history."""
        returned, gone = self.hand_back(name, [number])
        if returned:
            self.history.setdefault(number, [])
        return returned - gone

    def bury(self, name: str, number: int, failure: str) -> int:
        self.check_exists()
        message = self.messages[number]
        if message.place not in DELIVERED and not self._restore(number, name, 1):
            self.forget(number)
            return 0
        if message.owner != name:
            return 0
        lost = not self.has_body(number)
        if lost:
            message.place = Place.LOST
        else:
            message.place = Place.DEAD
            self.letters.append((number, [*self.history.get(number, ()), failure]))
            self.results.append((number, "dead"))
        self.forget(number)
        self._stream.drop_unless_needed(number)
        return -1 if lost else 1

    def report(self, name: str, number: int, delivery: int, process: str, sequence: int) -> str:
        self.check_exists()
        message = self.messages[number]
        is_owned = message.place is Place.PENDING and message.owner == name
        if not is_owned or message.deliveries != delivery:
            return "not owned"
        stored_by, newest = self.progress.get(number, ("", 0))
        if stored_by == process and newest >= sequence:
            return "sent before"
        self.progress[number] = (process, sequence)
        return "sent"

    def drop_progress(self) -> list[int]:
        """Return how many messages with progress had ended, and how many are left."""
        self.check_exists()
        ended = [one for one in self.progress if self.messages[one].place not in DELIVERED]
        for number in ended:
            del self.progress[number]
        return [len(ended), len(self.progress)]

    def forget(self, number: int) -> None:
        self.history.pop(number, None)
        self.due.pop(number, None)

    def _loses_body_on_claim(self, number: int) -> bool:
        if self.has_body(number) or self._keeps_lost_bodies:
            return False
        self.messages[number].place = Place.LOST
        self.history.pop(number, None)
        return True

    def hand_back(self, name: str, numbers: list[int]) -> list[int]:
        self.check_exists()
        returned = gone = 0
        for number in numbers:
            message = self.messages[number]
            if message.place not in DELIVERED:
                self._restore(number, name, 1 + self.recorded_failures(number))
            if message.place is not Place.PENDING or message.owner != name:
                continue
            if self._loses_body_on_claim(number):
                gone += 1
                continue
            message.place = Place.PARKED
            message.owner = PARKED
            message.deliveries -= 1
            self.due[number] = self.now
            returned += 1
        return [returned, gone]

    def leave(self, name: str, age: int, *, predecessor_is_foreign: bool) -> list[int]:
        """Hand everything back, and charge what a predecessor had and nobody has taken over."""
        self.check_exists()
        for number in self.owned_by(name):
            message = self.messages[number]
            if self.idle(number) <= age:
                continue
            if predecessor_is_foreign:
                self.begin_to_count(number)
                message.deliveries = message.failures + message.crashes + 1
            else:
                message.crashes += 1
                message.deliveries += 1
        answer = self.hand_back(name, self.owned_by(name))
        self.presence.pop(name, None)
        self.holders.discard(name)
        if not self.presence:
            self.last_heartbeat, self.outage_until = None, 0
        return answer

    # --- heartbeats ---

    def heartbeat(self, name: str) -> tuple[int, int, int, int]:
        """Return the numbers of entries in the stream, pending, parked and dead letters."""
        self.forgive_outage()
        self.presence[name] = self.now + LEASE
        self.last_heartbeat = self.now
        self.holders.add(name)
        forgiven = self.is_forgiven()
        self.check_exists()
        for ended in [] if forgiven else self._ended_leases():
            if not self.owned_by(ended):
                del self.presence[ended]
                self.holders.discard(ended)
        if len(self.holders) > len(self.presence):
            for name_without_lease in self.holders - self.presence.keys():
                if self.owned_by(name_without_lease):
                    self.presence[name_without_lease] = self.now + LEASE
                else:
                    self.holders.discard(name_without_lease)
        parked = self.of(Place.PARKED)
        for number in parked:
            self.due.setdefault(number, self.now)
            self.hasten(number)
        pending = len(self.of(*DELIVERED))
        return len(self._stream.bodies), pending, len(parked), len(self.letters)

    def hasten(self, number: int) -> bool:
        """Let a parked message wait for no longer than its history says; whether it is due now.

        If its last delivery is not on record, that is taken for a crash, and the longest delay
        after one is shorter than a tick. A history from before a lost group may have a record of a
        delivery that crashed in this one.
        """
        failures = self.history.get(number)
        latest = self.now
        is_of_record = self.messages[number].deliveries <= self.deliveries_on_record(number)
        if failures and is_of_record:
            latest += json.loads(failures[-1])["delay_ms"] // TICK_MS
        self.due[number] = min(self.due[number], latest)
        return is_of_record and self.due[number] <= self.now

    def restore_leases(self) -> None:
        """Give a lease to each name that is claimed, has none and has a message pending."""
        for number in self.of(Place.PENDING) if self.exists else ():
            owner = self.messages[number].owner
            if owner in self.holders:
                self.presence.setdefault(owner, self.now + LEASE)

    def _ended_leases(self) -> list[str]:
        return [name for name, end in self.presence.items() if end <= self.now]

    def forgive_outage(self) -> None:
        newest = self.last_heartbeat
        if newest is None and self.presence:
            newest = max(self.presence.values()) - LEASE
        if newest is None or self.now - newest < LEASE / 3:
            return
        if any(end <= self.now + GRACE for end in self.presence.values()):
            self.outage_until = self.now + GRACE

    def is_forgiven(self) -> bool:
        if self.outage_until > self.now:
            return True
        self.outage_until = 0
        return False
