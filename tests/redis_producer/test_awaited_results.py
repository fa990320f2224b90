"""A result reaches the handle of its job, whether it comes before or after its id is known."""

from __future__ import annotations

import gc
import threading

import pytest
from consumers import LOGGER
from helpers import Clock, Figures

from shared_sync import Result
from shared_sync.common.guarded import GuardedLogger, GuardedRecorder
from shared_sync.errors import ConsumerStateError, ResultTimeout
from shared_sync.redis_producer import recent
from shared_sync.redis_producer.awaited_results import AwaitedResults
from shared_sync.redis_producer.recent import RecentResults


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def waiting(figures: Figures, clock: Clock) -> AwaitedResults:
    return AwaitedResults(GuardedRecorder(figures, GuardedLogger(LOGGER)), clock)


def done(job_id: str) -> Result:
    return Result(job_id, "done")


def test_a_result_that_comes_before_the_reply_to_the_publication_is_found(
    waiting: AwaitedResults, figures: Figures
) -> None:
    waiting.begin()
    number = waiting.begin()
    waiting.receive(Result("1-0", "progress", {"n": 1}))
    waiting.receive(done("1-0"))
    awaited = waiting.add("1-0", sent_at=99.0)
    waiting.end(number)
    assert awaited.wait(0) == done("1-0")
    assert awaited.progress == Result("1-0", "progress", {"n": 1})
    assert figures.durations == {"job_round_trip": 1}


def test_a_result_that_comes_later_is_found_and_all_handles_of_a_job_have_it(
    waiting: AwaitedResults,
) -> None:
    first = waiting.add("1-0", 0.0)
    with pytest.raises(ResultTimeout):
        first.wait(0)
    waiting.receive(done("1-0"))
    assert first.wait(0) == waiting.add("1-0", 0.0).wait(0) == done("1-0")


def test_the_first_final_result_counts_as_each_group_of_a_stream_sends_one(
    waiting: AwaitedResults,
) -> None:
    waiting.keep_recent()
    awaited = waiting.add("1-0", 0.0)
    for late in (done("1-0"), Result("1-0", "progress"), Result("1-0", "dead")):
        waiting.receive(late)
        assert (awaited.wait(0), awaited.progress) == (done("1-0"), None)
    del awaited
    gc.collect()
    assert waiting.add("1-0", 0.0).wait(0) == done("1-0")


def test_results_of_dropped_handles_and_of_strangers_are_kept_no_longer_than_a_publication(
    waiting: AwaitedResults,
) -> None:
    waiting.add("1-0", 0.0)
    gc.collect()
    waiting.receive(done("1-0"))
    assert not waiting._early
    older = waiting.begin()
    waiting.receive(done("2-0"))
    younger = waiting.begin()  # one after the other goes on for ever
    waiting.end(older)
    assert not waiting._early
    waiting.receive(done("3-0"))
    assert len(waiting._early) == 1
    waiting.end(younger)
    assert not waiting._early


def test_closing_ends_waits_but_keeps_results_that_have_arrived(waiting: AwaitedResults) -> None:
    open_one, ended = waiting.add("1-0", 0.0), waiting.add("2-0", 0.0)
    waiting.receive(done("2-0"))
    waiting.close()
    for awaited in (open_one, waiting.add("3-0", 0.0)):
        with pytest.raises(ConsumerStateError, match="was closed before the result of"):
            awaited.wait(None)
    assert ended.wait(None) == done("2-0")


def test_a_result_that_arrived_between_two_calls_with_the_same_key_is_found(
    waiting: AwaitedResults, clock: Clock
) -> None:
    waiting.keep_recent()
    for _ in range(2):  # the second time the handle of the first was dropped
        waiting.receive(Result("1-0", "progress"))
        waiting.receive(done("1-0"))
        assert waiting.add("1-0", 0.0).wait(0) == done("1-0")
        gc.collect()
    clock.now += recent.KEPT_SECONDS + 1
    waiting.receive(done("2-0"))
    with pytest.raises(ResultTimeout):
        waiting.add("1-0", 0.0).wait(0)


def test_recent_results_take_a_bounded_part_of_memory(clock: Clock) -> None:
    kept = RecentResults(clock)
    for number in range(recent.MOST + 1):
        kept.add(done(f"{number}-1"))
    assert (kept.find("0-1"), kept.find("1-1")) == (None, done("1-1"))
    large = Result("1-2", "done", {"audio": bytes(recent.MOST_BYTES - 10), "n": [1]})
    kept.add(large)
    kept.add(large)
    assert kept.find("1-1") is None
    assert kept.find("2-1") is not None
    assert kept.find("1-2") is large
    kept.add(Result("1-3", "done", {"text": 20 * "x"}))
    assert kept.find("1-2") is None
    assert kept.find("1-3") is not None


def report(entry_id: str) -> Result:
    return Result("1-0", "progress", entry_id=entry_id)


def test_a_wait_for_an_update_ends_with_each_newer_result_and_the_last_one_is_final(
    waiting: AwaitedResults,
) -> None:
    awaited = waiting.add("1-0", 0.0)
    assert awaited.wait_for_update("", 0) is None
    final = Result("1-0", "done", entry_id="9-0")
    to_come = [report("7-0"), report("8-0"), final]
    seen, after = [], ""
    for result in to_come:
        threading.Timer(0.01, waiting.receive, [result]).start()
        update = awaited.wait_for_update(after, 30)
        assert update is not None
        after = update.entry_id
        seen.append(update)
    assert seen == to_come
    assert awaited.wait_for_update("9-0", None) is None
    assert awaited.wait_for_update("8-0", None) is final


def test_closing_ends_a_wait_for_an_update(waiting: AwaitedResults) -> None:
    awaited = waiting.add("1-0", 0.0)
    waiting.receive(report("7-0"))
    threading.Timer(0.01, waiting.close).start()
    with pytest.raises(ConsumerStateError, match="closed"):
        awaited.wait_for_update("7-0", 30)
