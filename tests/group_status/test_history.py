"""What degrades a group that is watched from outside, and what does not."""

from __future__ import annotations

import pytest
from helpers import Clock

from shared_sync.group_status import Limits, problems
from shared_sync.group_status.consumers import consumers_of
from shared_sync.group_status.history import SAMPLE_SECONDS, History
from shared_sync.protocol.group_reading import ConsumerReading, GroupReading
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.survey import Survey

KEYS = Keys.of("jobs", "workers")
NOW_MS = 1_800_000_000_000
LIVE = ConsumerReading("w1", NOW_MS + 30_000, None, 0, None, has_paused=False)


class Group:
    """A group as readings show it, ten seconds apart."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - it is frozen
        self.clock = Clock()
        self.limits = limits
        self.history = History(limits, clock=self.clock)
        self.alive, self.waiting, self.pending, self.dead = 1, 0, 0, 0
        self.added: int | None = 0
        self.oldest_seconds: float | None = None

    def reasons(self) -> list[str]:
        self.clock.now += SAMPLE_SECONDS
        waits_since = None
        if self.oldest_seconds is not None:
            waits_since = f"{NOW_MS - round(self.oldest_seconds * 1000)}-0"
        reading = GroupReading(
            now_ms=NOW_MS,
            group_exists=True,
            entries=self.waiting + self.pending,
            dead=self.dead,
            pending=self.pending,
            parked=0,
            groups=1,
            unread=None,
            next_due_ms=None,
            scheduled=0,
            next_scheduled_ms=None,
            pause=None,
            leases=self.alive,
            consumers_total=self.alive,
            consumers=[LIVE] * self.alive,
        )
        survey = Survey(
            now_ms=NOW_MS, added=self.added, length=reading.entries, oldest_waiting_id=waits_since
        )
        self.history.note(reading, survey)
        consumers = consumers_of(reading)
        found = problems.find(
            KEYS, self.limits, reading, survey, consumers, self.history, hazards=()
        )
        return [problem.reason for problem in found]

    def pass_by(self, seconds: float, *, arrive: int, finish: int, die: int = 0) -> list[str]:
        """So many messages a step arrive, are finished, and become dead letters."""
        reasons: list[str] = []
        for _ in range(round(seconds / SAMPLE_SECONDS)):
            if self.added is not None:
                self.added += arrive
            self.waiting += arrive - finish
            self.dead += die
            reasons = self.reasons()
        return reasons


@pytest.fixture
def group() -> Group:
    return Group()


def test_a_group_that_gets_on_is_well(group: Group) -> None:
    group.waiting = 50
    assert group.pass_by(900, arrive=10, finish=10, die=0) == []


def test_waiting_and_unfinished_messages_need_a_live_consumer(
    group: Group,
) -> None:
    group.alive = 0
    assert group.reasons() == []
    group.waiting = 3000
    (reason,) = group.reasons()
    assert reason.startswith("no consumer of group workers is alive, and 3000 messages wait")
    group.waiting, group.pending = 0, 2
    assert "and 2 messages were left unfinished" in group.reasons()[0]
    group.alive = 1
    assert group.reasons() == []


def test_a_message_that_waits_longer_than_the_limit_degrades(group: Group) -> None:
    group.waiting, group.oldest_seconds = 1, 299.0
    assert group.reasons() == []
    group.oldest_seconds = 301.0
    assert "the oldest message has waited for 301 s, the limit is 300 s" in group.reasons()[0]


def test_an_id_that_is_no_time_says_nothing_about_a_wait(group: Group) -> None:
    """Such as 1-1, which a publisher has chosen itself."""
    group.waiting, group.oldest_seconds = 1, NOW_MS / 1000 - 0.001
    assert group.reasons() == []


def test_more_arrivals_than_completions_for_minutes_degrade(group: Group) -> None:
    group.waiting = 5
    assert group.pass_by(290, arrive=10, finish=9) == []
    reasons = group.pass_by(60, arrive=10, finish=9)
    assert len(reasons) == 1
    assert "more messages have arrived than were finished (300 against 270)" in reasons[0]
    assert group.pass_by(60, arrive=0, finish=8) == []


def test_a_queue_that_was_empty_in_between_does_not_grow(group: Group) -> None:
    group.pass_by(200, arrive=10, finish=9)
    group.waiting = 0
    assert group.reasons() == []
    assert group.pass_by(150, arrive=10, finish=9) == []


def test_a_server_that_does_not_count_entries_shows_growth_by_the_waiting_messages() -> None:
    group = Group()
    group.added, group.waiting = None, 5
    assert "more messages have arrived" in group.pass_by(320, arrive=10, finish=9)[0]


def test_too_many_dead_letters_degrade(group: Group) -> None:
    assert group.pass_by(100, arrive=100, finish=100, die=9) == []
    reasons = group.pass_by(300, arrive=100, finish=100, die=11)
    assert "became dead letters, more than 10 %" in reasons[0]
    assert group.pass_by(600, arrive=100, finish=100, die=0) == []


def test_purging_dead_letters_does_not_hide_new_ones(group: Group) -> None:
    group.pass_by(60, arrive=10, finish=10, die=5)
    group.dead = 0
    assert "dead letters" in group.pass_by(60, arrive=10, finish=10, die=5)[0]


def test_each_limit_can_be_switched_off() -> None:
    group = Group(Limits(max_wait_seconds=None, growth_seconds=None, max_dead_share=None))
    group.waiting, group.oldest_seconds = 5, 100_000.0
    assert group.pass_by(900, arrive=20, finish=10, die=10) == []
