"""A message is held by one reader at a time, from fetching to settling, and given back whole."""

from __future__ import annotations

import threading

import pytest
from helpers import Clock, Interrupted, returns

from shared_sync.protocol.commands import Entry, Read
from shared_sync.redis_consumer.in_flight import LONGEST_STEP_SECONDS, InHand
from shared_sync.redis_consumer.timeouts import PASSES_PER_DEADLINE, longest_step_seconds


def entries(*ids: str) -> list[Entry]:
    return [Entry(entry_id, []) for entry_id in ids]


@pytest.fixture
def in_hand(clock: Clock) -> InHand:
    return InHand(clock)


def test_entries_are_started_in_the_order_they_were_fetched(in_hand: InHand) -> None:
    in_hand.admit("r1", entries("1-0", "2-0"))
    in_hand.admit("r1", entries("3-0"))
    started = [in_hand.start_next("r1") for _ in range(4)]
    assert [entry and entry.id for entry in started] == ["1-0", "2-0", "3-0", None]


def test_a_reader_starts_only_what_it_fetched_itself(in_hand: InHand) -> None:
    in_hand.admit("r1", entries("1-0"))
    assert in_hand.start_next("r2") is None
    assert not in_hand.has_waiting("r2")
    assert in_hand.has_waiting("r1")


def test_a_message_that_is_held_already_is_left_to_its_holder(in_hand: InHand) -> None:
    in_hand.admit("r1", entries("1-0"))
    in_hand.admit("r2", entries("1-0", "2-0"))
    started = in_hand.start_next("r2")
    assert started is not None
    assert started.id == "2-0"
    assert in_hand.start_next("r2") is None


def test_what_a_reader_lost_by_an_error_is_held_no_more(in_hand: InHand) -> None:
    in_hand.admit("r1", entries("1-0", "2-0", "3-0"))
    in_hand.admit("r2", entries("4-0"))
    for reader in ("r1", "r1", "r2"):
        in_hand.start_next(reader)
        in_hand.stop_running(reader)
    in_hand.keep_only("r1", ["1-0"])
    assert set(in_hand.ids()) == {"1-0", "3-0", "4-0"}


def test_a_message_stays_held_while_it_runs_and_until_it_is_settled(in_hand: InHand) -> None:
    in_hand.admit("r1", entries("1-0"))
    in_hand.start_next("r1")
    in_hand.stop_running("r1")
    assert in_hand.ids() == ["1-0"]
    in_hand.admit("r2", entries("1-0"))
    assert in_hand.start_next("r2") is None
    in_hand.release(["1-0"])
    assert in_hand.ids() == []


def test_a_settled_message_can_be_fetched_again(in_hand: InHand) -> None:
    in_hand.admit("r1", entries("1-0"))
    in_hand.start_next("r1")
    in_hand.release(["1-0"])
    in_hand.admit("r2", entries("1-0"))
    assert in_hand.start_next("r2") is not None


def test_what_runs_is_shown_with_its_reader_and_how_long(in_hand: InHand, clock: Clock) -> None:
    in_hand.admit("r1", entries("1-0"))
    in_hand.admit("r2", entries("2-0"))
    in_hand.start_next("r1")
    clock.now += 2.5
    in_hand.start_next("r2")
    running = [(job.entry.id, job.reader, job.seconds) for job in in_hand.running()]
    assert running == [("1-0", "r1", 2.5), ("2-0", "r2", 0.0)]
    assert {job.thread for job in in_hand.running()} == {threading.get_ident()}
    in_hand.stop_running("r1")
    assert [job.entry.id for job in in_hand.running()] == ["2-0"]


def test_releasing_says_whether_a_message_had_crashes_behind_it(in_hand: InHand) -> None:
    in_hand.admit("r1", [Entry("1-0", []), Entry("2-0", [], deliveries=2)])
    assert not in_hand.release(["1-0", "9-0"])
    assert in_hand.release(["2-0"])
    assert not in_hand.release(["2-0"])


@pytest.mark.parametrize(
    ("crashes_held", "max_crashes", "startable"),
    [
        ([], 3, 3),
        ([0, 0], 3, 3),
        ([1, 0], 3, 1),
        ([2], 3, 0),
        ([2, 1], 3, 0),
        ([3], 3, 0),
        ([1], 2, 0),
        ([3], 5, 3),
        ([0], 1, 1),
    ],
)
def test_a_message_on_its_last_chance_starts_beside_no_other_that_crashed(
    in_hand: InHand, crashes_held: list[int], max_crashes: int, startable: int
) -> None:
    held = [
        Entry(f"{number}-0", [], deliveries=crashes + 1)
        for number, crashes in enumerate(crashes_held)
    ]
    in_hand.admit("r1", held)
    assert in_hand.startable_crashes(max_crashes) == startable
    in_hand.release([entry.id for entry in held])
    assert in_hand.startable_crashes(max_crashes) == max_crashes


def test_reads_from_which_a_message_may_have_killed_are_known_while_it_is_held(
    in_hand: InHand,
) -> None:
    read, uncharged = Read(b"w1", 1000), Read(b"w2", 2000)
    in_hand.admit("r1", [Entry("1-0", [], deliveries=2, left_by=read)])
    in_hand.admit("r2", [Entry("2-0", [], deliveries=1, left_by=uncharged), Entry("3-0", [])])
    assert in_hand.reads_run_again() == {read}
    in_hand.release(["1-0"])
    assert in_hand.reads_run_again() == set()


def test_withdrawing_takes_what_was_not_started_and_leaves_what_runs(in_hand: InHand) -> None:
    in_hand.admit("r1", entries("1-0", "2-0", "3-0"))
    in_hand.start_next("r1")
    assert in_hand.withdraw("r1") == ["2-0", "3-0"]
    assert in_hand.ids() == ["1-0"]
    assert in_hand.start_next("r1") is None
    assert in_hand.withdraw("r1") == []


def test_what_is_set_aside_does_not_start_and_stays_held_until_it_is_released(
    in_hand: InHand,
) -> None:
    in_hand.admit("r1", entries("1-0", "2-0", "3-0"))
    in_hand.start_next("r1")
    assert in_hand.set_aside("r1") == ["2-0", "3-0"]
    assert in_hand.start_next("r1") is None
    assert in_hand.ids() == ["1-0", "2-0", "3-0"]
    in_hand.keep_only("r1", [])
    assert in_hand.ids() == ["2-0", "3-0"]
    in_hand.release(["2-0", "3-0"])
    assert in_hand.ids() == []


def test_withdrawing_from_one_reader_leaves_the_others_alone(in_hand: InHand) -> None:
    in_hand.admit("r1", entries("1-0"))
    in_hand.admit("r2", entries("2-0"))
    assert in_hand.withdraw("r1") == ["1-0"]
    assert in_hand.start_next("r2") is not None


def test_withdrawing_from_all_takes_everything_not_started(in_hand: InHand) -> None:
    in_hand.admit("r1", entries("1-0", "2-0"))
    in_hand.admit("r2", entries("3-0"))
    in_hand.start_next("r1")
    assert sorted(in_hand.withdraw()) == ["2-0", "3-0"]


def test_after_closing_nothing_starts_and_what_arrives_late_can_be_withdrawn(
    in_hand: InHand,
) -> None:
    in_hand.admit("r1", entries("1-0"))
    in_hand.close()
    in_hand.admit("r1", entries("2-0"))
    assert in_hand.start_next("r1") is None
    assert in_hand.withdraw() == ["1-0", "2-0"]
    assert in_hand.ids() == []


def test_asking_for_an_unknown_reader_or_message_is_harmless(in_hand: InHand) -> None:
    in_hand.stop_running("nobody")
    in_hand.release(["9-0"])
    assert in_hand.withdraw("nobody") == []
    assert not in_hand.has_waiting("nobody")


def test_eight_readers_that_fetch_the_same_messages_start_each_of_them_once() -> None:
    in_hand = InHand()
    together = threading.Barrier(8)
    started: list[str] = []

    def read(reader: str) -> None:
        together.wait(10)
        for number in range(200):
            in_hand.admit(reader, entries(f"{number}-0"))
            while (entry := in_hand.start_next(reader)) is not None:
                started.append(entry.id)
                in_hand.stop_running(reader)

    threads = [threading.Thread(target=read, args=(f"r{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(started) == sorted(f"{number}-0" for number in range(200))
    assert len(in_hand.ids()) == 200
    assert in_hand.running() == []


def test_a_signal_handler_may_ask_what_runs_while_its_thread_does() -> None:
    clock = Interrupted()
    in_hand = InHand(clock)
    in_hand.admit("r1", entries("1-0"))
    in_hand.start_next("r1")
    seen: list[list[str]] = []

    def ask() -> None:
        seen.append([job.entry.id for job in in_hand.running()])

    clock.handler = ask
    assert returns(ask)
    assert seen == [["1-0"], ["1-0"]]


# --- how old jobs are -----------------------------------------------------------------------------


def test_nobody_is_given_up_for_a_standstill_of_the_whole_process(
    in_hand: InHand, clock: Clock
) -> None:
    in_hand.admit("r1", entries("1-0"))
    in_hand.start_next("r1")
    clock.now += 3
    assert in_hand.give_up(8) == []
    clock.now += 60
    assert in_hand.give_up(8) == []
    (job,) = in_hand.running()
    assert job.seconds == 3 + LONGEST_STEP_SECONDS
    clock.now += 2
    assert [late.entry.id for late in in_hand.give_up(8)] == ["1-0"]
    assert in_hand.give_up(8) == [], "each is told once"


def test_what_passed_before_a_job_began_does_not_make_it_older(
    in_hand: InHand, clock: Clock
) -> None:
    in_hand.admit("r1", entries("1-0"))
    clock.now += 60
    in_hand.start_next("r1")
    assert [job.seconds for job in in_hand.running()] == [0.0]


@pytest.mark.parametrize("deadline", [0.1, 0.3, 8.0, 3600.0])
def test_a_standstill_takes_at_most_half_of_a_deadline_and_a_slow_pass_counts_whole(
    clock: Clock, deadline: float
) -> None:
    step = longest_step_seconds(deadline)
    assert 1.5 * min(2.0, deadline / PASSES_PER_DEADLINE) <= step <= deadline / 2
    in_hand = InHand(clock, longest_step_seconds=step)
    in_hand.admit("r1", entries("1-0"))
    in_hand.start_next("r1")
    clock.now += 3600
    assert in_hand.give_up(deadline) == []
