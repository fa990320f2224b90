"""What a step of recovery must take.

Between several messages that were left behind the script may choose. So the model is given what
the script took, and fails if that was not to be had, or if more had to be taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol_model.group import Group
from protocol_model.messages import DELIVERED, MAX_CRASHES, OWN_IDLE, Place


@dataclass
class Step:
    """What one step of recovery was asked for."""

    name: str
    age: int
    foreign_idle: int
    predecessor_is_foreign: bool
    startable_crashes: int
    most: int
    in_flight: frozenset[int]
    due_comes_last: bool
    again: int | None
    """The message that is asked for again, as it was lost with a reply."""
    due_rank: int
    """How many of the due times it passes over."""
    is_whole: bool
    """Whether it comes by every message. Steps that begin among the dead consumers do, too."""


@dataclass
class Recovery:
    """One step of recovery, and what has come of it so far."""

    group: Group
    step: Step
    still_pending: set[int]
    """What the group has pending after the step."""
    taken: list[int] = field(default_factory=list)
    lost: int = 0
    """How many messages ended because their entries were gone."""
    is_alone: bool = False
    next_due: int | None = None
    """Ticks until the next parked message is due, if the step got so far."""

    @property
    def is_full(self) -> bool:
        return self.is_alone or len(self.taken) >= self.step.most

    def check(self, taken: list[int], named: set[int]) -> None:
        """Let the group be as it must be after a step that took these messages.

        `named` are those that the step said were lost with a reply.
        """
        self.group.check_exists()
        if self.step.name not in self.group.holders:
            assert not taken, "something was taken under a name that is not on record"
            return
        self.group.restore_leases()
        self._take_again()
        if self.is_alone:
            assert (self.taken, named) == (taken, set())
            return
        lost_with_a_reply = {n for n in self.group.of(Place.PENDING) if self._is_lost(n)}
        assert named <= lost_with_a_reply
        assert named == lost_with_a_reply or taken or not self.step.is_whole, "more are lost"
        left_behind = [n for n in taken if self.group.messages[n].place is Place.PENDING]
        if self.step.due_comes_last:
            self._recover_left_behind(left_behind)
            if not self.is_full:
                self._recover_due()
        else:
            self._recover_due()
            if not self.is_full:
                self._recover_left_behind(left_behind)
        assert self.taken == taken, f"{taken} were taken, and not {self.taken}"

    # --- a message that was lost with a reply ---

    def _is_lost(self, number: int) -> bool:
        """Return whether this process was sent a message, and no reply can bring it any more."""
        message = self.group.messages[number]
        return (
            (message.place, message.owner) == (Place.PENDING, self.step.name)
            and number not in self.step.in_flight
            and OWN_IDLE <= self.group.idle(number) <= self.step.age
        )

    def _take_again(self) -> None:
        number = self.step.again
        if number is None or not self.group.exists or not self._is_lost(number):
            return
        deliveries = self.group.messages[number].deliveries
        if not self._may_start(number, deliveries):
            return
        if self.group.has_body(number):
            self._charge(number, deliveries)
            self._take(number, deliveries)
            self.is_alone = True
        else:
            self._lose([number], all_of_them=True)

    # --- due messages ---

    def _recover_due(self) -> None:
        """There is no choice between parked messages: the first that are due are taken."""
        group = self.group
        together: list[int] = []
        by_due_time = sorted(group.due.items(), key=lambda item: (item[1], item[0]))
        for place, (number, at) in enumerate(by_due_time[self.step.due_rank :]):
            is_first = place == 0 and group.messages[number].place is Place.PARKED
            if at > group.now and not (is_first and group.hasten(number)):
                self.next_due = group.due[number] - group.now
                break
            group.check_exists()
            if len(self.taken) + len(together) >= self.step.most:
                break
            message = group.messages[number]
            if message.place not in DELIVERED:
                group.restore_parked(number)
            if message.place not in DELIVERED:
                group.forget(number)
            elif message.place is not Place.PARKED:
                del group.due[number]
            elif number in self.step.in_flight:
                continue
            elif message.deliveries <= group.recorded_failures(number):
                together.append(number)
            elif self._may_start(number, message.deliveries + 1):
                if self.taken or together:
                    break  # the next step takes it alone
                self._take_or_lose(number)
                self.is_alone = bool(self.taken)
                if self.is_alone:
                    break
        for number in together:
            self._take_or_lose(number)

    def _take_or_lose(self, number: int) -> None:
        if self.group.has_body(number):
            self._take(number, self.group.messages[number].deliveries + 1)
        else:
            self._lose([number], all_of_them=True)

    # --- messages that were left behind ---

    def _recover_left_behind(self, chosen: list[int]) -> None:
        group = self.group
        group.check_exists()
        group.forgive_outage()
        forgiven = group.is_forgiven()
        candidates = {}
        for number in group.of(Place.PENDING):
            deliveries = self._deliveries_if_left_behind(number, forgiven)
            if (
                deliveries is not None
                and number not in self.step.in_flight
                and self._may_start(number, deliveries)
            ):
                candidates[number] = deliveries
        suspects = {n for n, deliveries in candidates.items() if self._crashes(n, deliveries)}
        to_be_had = {n for n in candidates if group.has_body(n)}
        had_taken = bool(self.taken)
        for number in chosen:
            assert number in to_be_had, f"{number} was taken, of {to_be_had}"
            assert number not in suspects or not self.taken, "a suspect was not taken alone"
            self._charge(number, candidates[number])
            self._take(number, candidates[number])
            self.is_alone = number in suspects
        if self.step.is_whole and not self.is_full:
            passed_by = to_be_had - set(chosen)
            assert passed_by <= (suspects if self.taken else set()), "more was to be had"
        self._lose(
            [n for n in candidates if n not in chosen],
            all_of_them=self.step.is_whole and not self.taken and not had_taken,
        )

    def _deliveries_if_left_behind(self, number: int, forgiven: bool) -> int | None:
        """Return the count at which a message is taken; None if its consumer works on it."""
        group, message = self.group, self.group.messages[number]
        if self._was_elsewhere(number):
            is_left = (
                message.owner == self.step.name or group.idle(number) >= self.step.foreign_idle
            )
            return group.deliveries_on_record(number) + 1 if is_left else None
        if message.owner == self.step.name:
            return message.deliveries + 1 if group.idle(number) > self.step.age else None
        dead = group.presence[message.owner] <= group.now and not forgiven
        return message.deliveries + 1 if dead else None

    def _was_elsewhere(self, number: int) -> bool:
        """Return whether another program had the message, as far as anybody can tell."""
        owner = self.group.messages[number].owner
        if owner == self.step.name:
            return self.step.predecessor_is_foreign and self.group.idle(number) > self.step.age
        return not self.group.is_on_record(owner)

    def _charge(self, number: int, deliveries: int) -> None:
        """A crash is charged only if nobody could finish the message; a lost reply is no crash."""
        message = self.group.messages[number]
        receiver = message.received_by
        if self._was_elsewhere(number):
            assert receiver is None or not receiver.sends_heartbeats, "taken from the living"
            self.group.begin_to_count(number)
        elif deliveries > message.deliveries:
            assert receiver is None or receiver.silent or not receiver.sends_heartbeats, (
                "taken from the living"
            )
            message.crashes += 1
        else:
            assert receiver is None or not receiver.dead, f"the crash with {number} was not charged"

    # --- both ---

    def _crashes(self, number: int, deliveries: int) -> int:
        """Return the crashes so far; a history from before a lost group may have more lines."""
        return max(0, deliveries - 1 - self.group.recorded_failures(number))

    def _may_start(self, number: int, deliveries: int) -> bool:
        crashes = self._crashes(number, deliveries)
        return crashes <= self.step.startable_crashes or crashes >= MAX_CRASHES

    def _lose(self, candidates: list[int], *, all_of_them: bool) -> None:
        """Those of the candidates whose entries are gone may have ended, or all must have."""
        for number in candidates:
            if self.group.has_body(number):
                continue
            if number in self.still_pending:
                assert not all_of_them, f"the entry of {number} is gone and it did not end"
                continue
            self.group.messages[number].place = Place.LOST
            self.group.forget(number)
            self.lost += 1

    def _take(self, number: int, deliveries: int) -> None:
        self.group.deliver(number, self.step.name, deliveries)
        self.group.due.pop(number, None)
        self.taken.append(number)
