"""A message is in one place at a time, from fetching to settling, and every place is looked at."""

from __future__ import annotations

from functools import partial

import pytest
from helpers import returns
from protocol_client import KEYS
from readers import add_slot, entries, start, suspect, waiting

from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Read
from shared_sync.redis_consumer.in_flight import STEAL_AFTER_SECONDS, InFlight

OTHER = Keys.of("jobs", "archive")


@pytest.fixture
def in_flight() -> InFlight:
    return InFlight()


# --- fetching ---------------------------------------------------------------------------------


def test_what_a_read_brings_waits_in_the_slot_of_its_reader_alone(in_flight: InFlight) -> None:
    first, second = add_slot(in_flight, "r1"), add_slot(in_flight, "r2")
    in_flight.admit_read(first, KEYS, entries("1-0", "2-0"), in_flight.newest(KEYS))
    assert waiting(first) == ["1-0", "2-0"]
    assert waiting(second) == []
    assert in_flight.newest(KEYS) == (2, 0)


def test_a_read_that_brought_nothing_changes_nothing(in_flight: InFlight) -> None:
    slot = add_slot(in_flight, "r1")
    in_flight.admit_read(slot, KEYS, entries("5-1"), in_flight.newest(KEYS))
    in_flight.admit_read(slot, KEYS, [], in_flight.newest(KEYS))
    assert in_flight.newest(KEYS) == (5, 1)
    assert waiting(slot) == ["5-1"]


def test_a_reply_that_comes_late_does_not_make_the_newest_id_older(in_flight: InFlight) -> None:
    slow, quick = add_slot(in_flight, "r1"), add_slot(in_flight, "r2")
    before = in_flight.newest(KEYS)
    in_flight.admit_read(quick, KEYS, entries("10-0"), before)
    in_flight.admit_read(slow, KEYS, entries("9-0"), before)
    assert in_flight.newest(KEYS) == (10, 0)
    assert waiting(slow) == ["9-0"]


def test_what_a_group_that_was_lost_delivers_anew_is_left_to_who_has_it(
    in_flight: InFlight,
) -> None:
    """Also with ids of which the older is not the smaller text."""
    first, second = add_slot(in_flight, "r1"), add_slot(in_flight, "r2")
    in_flight.admit_read(first, KEYS, entries("9-0", "10-0"), in_flight.newest(KEYS))
    start(first)
    in_flight.admit_read(second, KEYS, entries("9-0", "10-0", "11-0"), in_flight.newest(KEYS))
    assert waiting(second) == ["11-0"]


def test_a_message_that_is_in_flight_is_not_admitted_wherever_it_is(in_flight: InFlight) -> None:
    outbox = ["3-0"]
    first = add_slot(in_flight, "r1", "1-0", "2-0")
    in_flight.add_outbox(KEYS, lambda: outbox)
    in_flight.add_outbox(KEYS, lambda: ["4-0"])
    second = add_slot(in_flight, "r2", "5-0")
    start(first)
    in_flight.admit(second, KEYS, entries("1-0", "2-0", "3-0", "4-0", "5-0", "6-0"))
    assert waiting(second) == ["5-0", "6-0"]
    outbox.clear()
    in_flight.admit(second, KEYS, entries("3-0"))
    assert waiting(second) == ["5-0", "6-0", "3-0"], "what was settled can be fetched again"


def test_all_that_waits_runs_or_is_not_settled_is_in_flight(in_flight: InFlight) -> None:
    slot = add_slot(in_flight, "r1", "1-0", "2-0")
    in_flight.add_outbox(KEYS, lambda: ["3-0"])
    in_flight.add_outbox(KEYS, lambda: ["4-0"])
    add_slot(in_flight, "r2", "5-0")
    start(slot)
    assert in_flight.ids(KEYS) == {"1-0", "2-0", "3-0", "4-0", "5-0"}
    slot.end_attempt()
    assert in_flight.ids(KEYS) == {"2-0", "3-0", "4-0", "5-0"}


def test_messages_of_another_stream_or_group_may_have_the_same_ids(in_flight: InFlight) -> None:
    first, second = add_slot(in_flight, "r1", "1-0", "2-0"), add_slot(in_flight, "r2")
    in_flight.add_outbox(KEYS, lambda: ["3-0"])
    in_flight.add_outbox(OTHER, lambda: ["4-0"])
    in_flight.admit(second, OTHER, entries("1-0", "3-0", "4-0"))
    assert waiting(second) == ["1-0", "3-0"]
    assert in_flight.ids(KEYS) == {"1-0", "2-0", "3-0"}
    assert in_flight.ids(OTHER) == {"1-0", "3-0", "4-0"}
    assert in_flight.withdraw(OTHER) == ["1-0", "3-0"]
    assert waiting(first) == ["1-0", "2-0"]
    in_flight.admit_read(second, OTHER, entries("9-0"), in_flight.newest(OTHER))
    assert (in_flight.newest(OTHER), in_flight.newest(KEYS)) == ((9, 0), (0, 0))


# --- taking from a sibling --------------------------------------------------------------------


def test_an_idle_reader_takes_the_newer_half_of_what_waits_behind_a_long_job(
    in_flight: InFlight,
) -> None:
    busy = add_slot(in_flight, "r1", "1-0", "2-0", "3-0", "4-0", "5-0", "6-0")
    idle = add_slot(in_flight, "r2")
    start(busy, 0.0)
    assert in_flight.take_from_sibling(idle, STEAL_AFTER_SECONDS)
    assert waiting(busy) == ["2-0", "3-0"]
    assert waiting(idle) == ["4-0", "5-0", "6-0"]


def test_a_single_message_behind_a_long_job_is_taken_whatever_stream_it_is_of(
    in_flight: InFlight,
) -> None:
    busy = add_slot(in_flight, "r1", "1-0", "2-0", source=OTHER)
    idle = add_slot(in_flight, "r2")
    start(busy)
    assert in_flight.take_from_sibling(idle, 1.0)
    assert idle.source == OTHER
    assert waiting(busy) == []
    assert waiting(idle) == ["2-0"]


@pytest.mark.parametrize("seconds", [0.0, 0.9 * STEAL_AFTER_SECONDS])
def test_a_job_that_has_just_begun_is_left_its_messages_and_reported(
    in_flight: InFlight, seconds: float
) -> None:
    """It may become a long one, so the idle reader has to look again soon."""
    busy, idle = add_slot(in_flight, "r1", "1-0", "2-0"), add_slot(in_flight, "r2")
    start(busy, 100.0)
    assert in_flight.take_from_sibling(idle, 100.0 + seconds)
    assert waiting(busy) == ["2-0"]
    assert waiting(idle) == []


def test_a_reader_between_two_jobs_is_left_its_messages_and_reported(in_flight: InFlight) -> None:
    add_slot(in_flight, "r1", "1-0")
    idle = add_slot(in_flight, "r2")
    assert in_flight.take_from_sibling(idle, 1.0)
    assert waiting(idle) == []


def test_where_nothing_waits_nothing_is_taken(in_flight: InFlight) -> None:
    busy, idle = add_slot(in_flight, "r1", "1-0"), add_slot(in_flight, "r2")
    start(busy)
    assert not in_flight.take_from_sibling(idle, 1.0)
    assert not in_flight.take_from_sibling(busy, 1.0), "a reader takes nothing from itself"


def test_messages_are_taken_from_the_sibling_that_has_some_to_give(in_flight: InFlight) -> None:
    begun = add_slot(in_flight, "r1", "1-0", "2-0")
    add_slot(in_flight, "r2")
    long = add_slot(in_flight, "r3", "3-0", "4-0")
    idle = add_slot(in_flight, "r4")
    start(begun, 0.99)
    start(long, 0.5)
    assert in_flight.take_from_sibling(idle, 1.0)
    assert waiting(idle) == ["4-0"]


# --- withdrawing ------------------------------------------------------------------------------


def test_withdrawing_takes_what_was_not_started_and_leaves_what_runs(in_flight: InFlight) -> None:
    slot = add_slot(in_flight, "r1", "1-0", "2-0", "3-0")
    attempt = start(slot)
    assert in_flight.withdraw(KEYS, slot) == ["2-0", "3-0"]
    assert slot.attempt is attempt
    assert in_flight.ids(KEYS) == {"1-0"}
    assert slot.start_next(0.0) is None
    assert in_flight.withdraw(KEYS, slot) == []


def test_withdrawing_from_one_reader_leaves_the_others_alone(in_flight: InFlight) -> None:
    first, second = add_slot(in_flight, "r1", "1-0"), add_slot(in_flight, "r2", "2-0")
    assert in_flight.withdraw(KEYS, first) == ["1-0"]
    assert waiting(second) == ["2-0"]


def test_withdrawing_from_all_takes_everything_that_was_not_started(in_flight: InFlight) -> None:
    first = add_slot(in_flight, "r1", "1-0", "2-0")
    add_slot(in_flight, "r2", "3-0")
    start(first)
    assert sorted(in_flight.withdraw(KEYS)) == ["2-0", "3-0"]
    assert in_flight.ids(KEYS) == {"1-0"}


def test_what_is_withdrawn_into_an_outbox_stays_in_flight_until_it_is_settled_there(
    in_flight: InFlight,
) -> None:
    slot, outbox = add_slot(in_flight, "r1", "1-0", "2-0"), list[str]()
    in_flight.add_outbox(KEYS, outbox.copy)
    start(slot)
    assert in_flight.withdraw(KEYS, slot, into=outbox.extend) == ["2-0"]
    assert in_flight.ids(KEYS) == {"1-0", "2-0"}
    outbox.clear()
    assert in_flight.ids(KEYS) == {"1-0"}


# --- suspects ---------------------------------------------------------------------------------


def test_suspects_are_the_unsettled_messages_that_have_a_crash_behind_them(
    in_flight: InFlight,
) -> None:
    first, second = add_slot(in_flight, "r1"), add_slot(in_flight, "r2", "3-0")
    failed = suspect("4-0")
    failed.history = b"{}\n"
    runs, waits = suspect("1-0", 1, Read(b"dead", 1000)), suspect("2-0", 2)
    first.waiting.extend([runs])
    second.waiting.extend([waits, failed])
    start(first)
    assert in_flight.suspects() == [runs, waits]
    first.end_attempt()
    in_flight.withdraw(KEYS, second)
    assert in_flight.suspects() == []
    first.unsettled_suspects.append(runs)
    assert in_flight.suspects() == [runs], "until Redis has confirmed what became of it"


# --- interrupted ------------------------------------------------------------------------------


def test_a_signal_handler_may_stop_the_consumer_while_its_thread_lists_what_is_there(
    in_flight: InFlight,
) -> None:
    withdrawn: list[str] = []

    def interrupted() -> list[str]:
        withdrawn.extend(in_flight.withdraw(KEYS))
        return []

    in_flight.add_outbox(KEYS, interrupted)
    add_slot(in_flight, "r1", "1-0")
    assert returns(partial(in_flight.ids, KEYS))
    assert withdrawn == ["1-0"]
