"""A slot says at any moment which message its reader has, and where that stands."""

from __future__ import annotations

import threading

from readers import entries, start, waiting

from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.slot import Activity, Attempt, Slot


def test_messages_start_in_the_order_they_were_fetched_in() -> None:
    slot = Slot("r1")
    slot.waiting.extend(entries("1-0", "2-0"))
    slot.waiting.extend(entries("3-0"))
    started = [slot.start_next(0.0) for _ in range(4)]
    ids = [attempt and attempt.entries[0].id for attempt in started]
    assert ids == ["1-0", "2-0", "3-0", None]


def test_an_attempt_has_one_message_the_moment_it_started_at_and_a_number_that_grows() -> None:
    slot = Slot("r1")
    slot.waiting.extend(entries("1-0", "2-0"))
    first, second = start(slot, 5.0), start(slot, 6.0)
    assert ([entry.id for entry in first.entries], first.started_at) == (["1-0"], 5.0)
    assert second.number > first.number
    assert not first.given_up


def test_a_message_stays_in_the_slot_until_its_attempt_has_ended() -> None:
    slot = Slot("r1")
    slot.waiting.extend(entries("1-0", "2-0"))
    attempt = start(slot)
    assert slot.attempt is attempt
    assert waiting(slot) == ["2-0"]
    slot.end_attempt()
    assert slot.attempt is None
    assert waiting(slot) == ["2-0"]


def test_a_slot_without_messages_runs_nothing() -> None:
    slot = Slot("r1")
    slot.waiting.extend(entries("1-0"))
    start(slot)
    assert slot.start_next(0.0) is None
    assert slot.attempt is None, "also one that an error left there"
    slot.end_attempt()
    assert slot.attempt is None


def test_when_it_last_moved_is_the_start_and_then_the_end_of_an_attempt() -> None:
    slot = Slot("r1", now=1.0)
    assert slot.moved_at == 1.0
    slot.waiting.extend(entries("1-0"))
    attempt = start(slot, 5.0)
    assert slot.moved_at == 5.0
    attempt.ended_at = 7.0
    slot.end_attempt()
    assert slot.moved_at == 7.0


def test_a_job_and_the_wait_for_a_reply_have_limits_of_their_own() -> None:
    slot = Slot("r1")
    assert not slot.is_in_bounds
    slot.runs_processor = True
    assert slot.is_in_bounds
    slot.runs_processor, slot.receives = False, True
    assert slot.is_in_bounds
    activity = Activity()
    assert not activity.is_in_bounds
    activity.receives = True
    assert activity.is_in_bounds


def test_the_thread_of_a_reader_is_the_one_that_says_so() -> None:
    slot = Slot("r1")
    thread = threading.Thread(target=slot.belongs_here)
    thread.start()
    thread.join(10)
    assert slot.thread_id == thread.ident


def test_all_threads_get_the_same_job_of_an_attempt() -> None:
    entries = [Entry("1-0", []), Entry("2-0", [])]
    attempt = Attempt(entries, 1, 0.0)
    assert attempt.jobs is None
    begin, seen = threading.Barrier(4), []

    def ask() -> None:
        begin.wait(10)
        seen.append((attempt.job(entries[0]), attempt.job(entries[1])))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 4
    assert len({(id(first), id(second)) for first, second in seen}) == 1
    attempt.end_jobs()
    assert all(job.has_ended for job in seen[0])
