"""A pass of a reader settles and fetches in one round trip, and then runs what it has."""

from __future__ import annotations

import threading
from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Clock
from pools import (
    BLOCK_SECONDS,
    NOTHING_FOUND,
    PassingReader,
    Pool,
    delivered,
    recovered,
    row,
)
from protocol_client import KEYS
from readers import first, waiting

from shared_sync.errors import GroupMissing, RedisRefused, RedisUnavailable
from shared_sync.redis_consumer.reader import (
    FINISH_PAUSE_SECONDS,
    LARGE_BYTES,
    SLOW_SECONDS,
)

LOST = RedisUnavailable("the connection broke")
REFUSED = RedisRefused("OOM no room", code="OOM")
FINISHED = [[1], b"", b""]


def taking(clock: Clock, seconds: float) -> Callable[[str, dict[str, Any]], None]:
    """A processor that takes so long."""

    def process(_id: str, _fields: dict[str, Any]) -> None:
        clock.now += seconds

    return process


# --- one pass ---------------------------------------------------------------------------------


def test_a_pass_settles_the_messages_of_the_last_one_with_the_next_read(clock: Clock) -> None:
    pool = Pool(clock)
    (reader,) = pool.readers
    assert reader.make_pass(delivered("1-0", "2-0")) == ["XREADGROUP"]
    assert pool.ran == ["1-0", "2-0"]
    assert reader.make_pass(2, delivered("3-0")) == ["finish", "XREADGROUP"]
    assert pool.ran == ["1-0", "2-0", "3-0"]
    assert pool.figures.counters["jobs_processed"] == 2
    assert pool.in_flight.ids(KEYS) == {"3-0"}


def test_while_there_are_messages_a_read_asks_for_many_and_does_not_wait(clock: Clock) -> None:
    (reader,) = Pool(clock, prefetch=10).readers
    reader.make_pass(delivered("1-0"))
    reader.make_pass(1, delivered("2-0"))
    assert reader.last_read() == (10, None)


def test_others_see_for_how_long_a_reader_has_been_fetching(clock: Clock) -> None:
    pool = Pool(clock)
    (reader,) = pool.readers
    seen: list[float] = []

    def look() -> None:
        clock.now += 0.1
        seen.append(round(pool.in_flight.longest_fetch_seconds(clock.now), 1))

    reader.make_pass(first(look, then=delivered("1-0")))
    look()
    with pytest.raises(RedisUnavailable):
        reader.make_pass(first(look, then=LOST))
    look()
    assert seen == [0.1, 0, 0.1, 0]


def test_an_automatic_prefetch_grows_with_short_jobs_and_a_long_one_sets_it_back(
    clock: Clock,
) -> None:
    seconds = 0.001

    def process(*_: object) -> None:
        clock.now += seconds

    (reader,) = Pool(clock, process=process, prefetch="auto").readers
    asked_for = []
    for number in range(1, 5):
        reader.make_pass(*[1] * (number > 1), delivered(f"{number}-0"))
        asked_for.append(reader.last_read()[0])
    seconds = 0.1
    reader.make_pass(1, delivered("5-0"))
    reader.make_pass(1, delivered("6-0"))
    assert [*asked_for, reader.last_read()[0]] == [1, 2, 4, 8, 1]


def test_where_nothing_is_left_a_reader_waits_for_one_message(clock: Clock) -> None:
    """So that of many that come at once each waiting reader gets its share."""
    (reader,) = Pool(clock, prefetch=10).readers
    reader.make_pass(None)
    assert reader.last_read() == (10, None)
    clock.now += 0.2
    reader.make_pass(None)
    assert reader.last_read() == (1, 800), "until the next turn at recovery"
    clock.now += 0.8
    assert reader.make_pass(NOTHING_FOUND) == ["recover"]
    reader.make_pass(delivered("1-0"))
    assert reader.last_read() == (1, round(BLOCK_SECONDS * 1000))
    reader.make_pass(1, None)
    assert reader.last_read() == (10, None), "there may be more where that came from"


def test_a_reader_is_idle_while_it_waits_and_at_no_other_time(clock: Clock) -> None:
    (reader,) = Pool(clock).readers
    seen: list[bool] = []

    def look() -> None:
        seen.append(reader.slot.is_idle)

    reader.make_pass(first(look, then=None))
    reader.make_pass(first(look, then=delivered("1-0")))
    reader.make_pass(1, first(look, then=None))
    with pytest.raises(RedisUnavailable):
        reader.make_pass(first(look, then=LOST))
    assert seen == [False, True, False, True]
    assert not reader.slot.is_idle


def test_messages_that_an_error_left_in_the_slot_run_before_any_are_fetched(clock: Clock) -> None:
    pool = Pool(clock)
    (reader,) = pool.readers
    run, runs = reader._delivery.run, 0

    def fails_once(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise MemoryError
        return run(*arguments)

    reader._delivery.run = fails_once  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        reader.make_pass(delivered("1-0", "2-0"))
    assert pool.in_flight.ids(KEYS) == {"2-0"}, "the first is found in Redis and run again"
    assert reader.make_pass() == []
    assert pool.ran == ["2-0"]


def test_the_thread_that_makes_the_passes_is_known_and_has_loaded_the_processor(
    clock: Clock,
) -> None:
    (reader,) = Pool(clock).readers
    started: list[int] = []
    reader._runner.start = lambda: started.append(threading.get_ident())  # type: ignore[method-assign]

    def work() -> None:
        assert reader.begin()
        for _ in range(2):
            reader.make_pass(None)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert started == [thread.ident]
    assert reader.slot.thread_id == thread.ident


# --- settling in between ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "exchanges"),
    [
        (SLOW_SECONDS * 1.1, [["XREADGROUP"], ["finish"], ["finish"]]),
        (SLOW_SECONDS / 10, [["XREADGROUP"]]),
    ],
    ids=["slow", "quick"],
)
def test_the_outcome_of_a_slow_message_is_sent_before_the_next_one_starts(
    clock: Clock, seconds: float, exchanges: list[list[str]]
) -> None:
    pool = Pool(clock, process=taking(clock, seconds))
    (reader,) = pool.readers
    reader.make_pass(delivered("1-0", "2-0", "3-0"), *[1] * (len(exchanges) - 1))
    assert reader.connection.names() == exchanges
    assert pool.ran == ["1-0", "2-0", "3-0"]


def test_large_results_are_sent_before_many_of_them_are_kept(clock: Clock) -> None:
    (reader,) = Pool(clock, process=lambda *_: "x" * (LARGE_BYTES // 2)).readers
    reader.make_pass(delivered("1-0", "2-0", "3-0"), *[[[1], b"", b""]] * 2)
    assert reader.connection.names() == [["XREADGROUP"], ["finish_with_results"] * 2]


def test_what_comes_after_a_job_does_not_make_the_next_one_older(clock: Clock) -> None:
    """Such as writing a large result, or a log that takes its time."""
    begun: list[float] = []

    class Slow(UserDict[str, str]):
        def __getitem__(self, name: str) -> str:
            clock.now += 5
            return super().__getitem__(name)

    def process(*_: object) -> Slow:
        assert reader.slot.attempt is not None
        begun.append(clock.now - reader.slot.attempt.started_at)
        return Slow(text="hello")

    (reader,) = Pool(clock, process=process).readers
    reader.make_pass(delivered("1-0", "2-0"), FINISHED)
    assert begun == [0.0, 0.0]


def test_while_an_outcome_is_not_confirmed_nothing_is_fetched(clock: Clock) -> None:
    pool = Pool(clock)
    (reader,) = pool.readers
    reader.make_pass(delivered("1-0"))
    with pytest.raises(RedisUnavailable):
        reader.make_pass(LOST)
    with pytest.raises(RedisRefused):
        reader.make_pass(REFUSED)
    assert reader.connection.names()[-1] == ["finish"]
    assert pool.in_flight.ids(KEYS) == {"1-0"}
    assert reader.make_pass(1, delivered("2-0")) == ["finish"]
    assert reader.connection.names()[-1] == ["XREADGROUP"]


# --- recovery ---------------------------------------------------------------------------------


def test_a_turn_at_recovery_takes_the_place_of_a_read(clock: Clock) -> None:
    pool = Pool(clock, prefetch=10)
    (reader,) = pool.readers
    clock.now += 1
    assert reader.make_pass(recovered(row("1-0", 2, b"dead", 5))) == ["recover"]
    assert pool.ran == ["1-0"]
    assert pool.figures.counters["jobs_recovered"] == 1


def test_an_idle_sibling_is_left_its_share_of_what_is_taken_over(clock: Clock) -> None:
    """It cannot be woken to take it, and looks by itself in its turn."""
    one, other = Pool(clock, prefetch=10, readers=2).readers
    most: list[int] = []

    def recover_meanwhile() -> None:
        clock.now += 1
        one.make_pass(NOTHING_FOUND)
        most.append(one.connection.sent[-1][-1][3 + 8 + 10])

    one.make_pass(None)
    other.make_pass(None)
    other.make_pass(first(recover_meanwhile, then=None))
    recover_meanwhile()
    assert most == [5, 10]


def test_after_retries_a_reader_looks_for_new_messages_before_it_takes_more_of_them(
    clock: Clock,
) -> None:
    """Though it found none before: some may have come since."""
    pool = Pool(clock, prefetch=10)
    (reader,) = pool.readers
    reader.make_pass(None)
    clock.now += 1
    assert reader.make_pass(recovered(row("1-0", 1), more=True)) == ["recover"]
    assert reader.make_pass(1, delivered("2-0")) == ["finish", "XREADGROUP"]
    assert reader.last_read() == (10, None)
    assert reader.make_pass(1, recovered(row("3-0", 1), more=True)) == ["finish", "recover"]


def test_while_new_messages_wait_no_more_retries_are_taken_than_new_ones_were_read(
    clock: Clock,
) -> None:
    (reader,) = Pool(clock, prefetch=10).readers

    def most_retries() -> int:
        clock.now += 1
        reader.make_pass(*[reader.outbox.unsettled] * bool(reader.outbox.unsettled), NOTHING_FOUND)
        return int(reader.connection.sent[-1][-1][3 + 8 + 10])

    assert most_retries() == 1
    reader.make_pass(delivered("1-0", "2-0", "3-0"))
    assert most_retries() == 3
    reader.make_pass(None)
    assert most_retries() == 10, "none waits"


def test_what_a_dead_consumer_left_keeps_no_reader_from_taking_more_of_it(clock: Clock) -> None:
    """Its messages are not retries, and have waited for a lease."""
    pool = Pool(clock)
    (reader,) = pool.readers
    clock.now += 1
    reader.make_pass(recovered(row("1-0", 1, b"stranger", 5), more=True))
    clock.now += 1
    assert reader.make_pass(1, NOTHING_FOUND) == ["finish", "recover"]


def test_after_a_suspect_what_had_to_wait_for_it_may_start_at_once(clock: Clock) -> None:
    pool = Pool(clock)
    (reader,) = pool.readers
    clock.now += 1
    reader.make_pass(recovered(row("1-0", 2, b"dead", 5)))
    clock.now += 0.02
    assert reader.make_pass(1, NOTHING_FOUND) == ["finish"]
    assert reader.connection.names()[-1] == ["recover"]


def test_until_a_suspects_outcome_is_settled_nothing_that_crashed_starts_beside_it(
    clock: Clock,
) -> None:
    """If that took the process down, the suspect would be charged although it had ended."""
    one, other = Pool(clock, readers=2).readers
    clock.now += 1
    one.make_pass(recovered(row("1-0", 2, b"dead", 5)))
    with pytest.raises(RedisUnavailable):
        one.make_pass(LOST)
    clock.now += 1
    other.make_pass(NOTHING_FOUND)
    startable = 3 + 8 + 9
    assert other.connection.sent[-1][-1][startable] == 1
    clock.now += 1
    one.make_pass(0, NOTHING_FOUND)
    clock.now += 1
    other.make_pass(NOTHING_FOUND)
    assert other.connection.sent[-1][-1][startable] == 3


# --- siblings ---------------------------------------------------------------------------------


def busy_and_idle(clock: Clock, act: Callable[[PassingReader], None]) -> tuple[Pool, list[str]]:
    """A reader runs a long job with others behind it, while an idle one acts; what that ran."""
    ran: list[str] = []

    def process(message_id: str, _: object) -> None:
        if message_id == "1-0":
            clock.now += 0.1
            before = len(pool.ran)
            act(idle)
            ran.extend(pool.ran[before:])

    pool = Pool(clock, process=process, readers=2)
    busy, idle = pool.readers
    idle.make_pass(None)
    busy.make_pass(delivered("1-0", "2-0", "3-0", "4-0"), 1)
    return pool, ran


def test_an_idle_reader_runs_what_waits_behind_a_siblings_long_job(clock: Clock) -> None:
    def act(idle: PassingReader) -> None:
        assert idle.make_pass() == [], "without asking Redis"

    pool, ran = busy_and_idle(clock, act)
    assert ran == ["3-0", "4-0"]
    assert pool.ran == ["1-0", "3-0", "4-0", "2-0"]


def test_while_messages_wait_behind_a_young_job_an_idle_reader_waits_a_moment_only(
    clock: Clock,
) -> None:
    def act(idle: PassingReader) -> None:
        clock.now -= 0.1
        idle.make_pass(None)
        assert idle.last_read() == (1, 50)
        clock.now += 0.1

    _, ran = busy_and_idle(clock, act)
    assert ran == []


def test_a_reader_that_has_just_become_idle_waits_a_moment_only(clock: Clock) -> None:
    """A sibling may be receiving many messages just then, the first of which takes long."""
    receiving, idle = Pool(clock, readers=2).readers

    def become_idle() -> None:
        idle.make_pass(None)
        idle.make_pass(None)
        assert idle.last_read() == (1, 50)
        idle.make_pass(None)
        assert idle.last_read() == (1, round(BLOCK_SECONDS * 1000))

    receiving.make_pass(first(become_idle, then=delivered("1-0", "2-0")))


def test_a_reader_without_siblings_waits_as_long_as_it_may(clock: Clock) -> None:
    (reader,) = Pool(clock).readers
    reader.make_pass(None)
    reader.make_pass(None)
    assert reader.last_read() == (1, round(BLOCK_SECONDS * 1000))


# --- stopping ---------------------------------------------------------------------------------


def test_when_the_pool_stops_nothing_more_starts_and_the_rest_goes_back(clock: Clock) -> None:
    pool = Pool(clock, process=lambda *_: pool.pauses.close())
    (reader,) = pool.readers
    reader.make_pass(delivered("1-0", "2-0", "3-0"))
    assert pool.ran == ["1-0"]
    assert waiting(reader.slot) == ["2-0", "3-0"]
    reader.connection.replies.extend([1, [2, 0]])
    reader.finish(threading.Event())
    assert reader.connection.names()[-1] == ["finish", "hand_back"]
    assert pool.in_flight.ids(KEYS) == set()
    assert pool.figures.counters["jobs_handed_back"] == 2
    assert reader.connection.closes == 1


class Abandon(threading.Event):
    """Is set after so many waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == FINISH_PAUSE_SECONDS
        self.waits -= 1
        return self.waits <= 0


def test_what_redis_does_not_confirm_is_sent_until_nobody_waits_for_it_any_more(
    clock: Clock,
) -> None:
    pool = Pool(clock)
    (reader,) = pool.readers
    closed: list[bool] = []
    reader._runner.close = lambda: closed.append(True)  # type: ignore[method-assign]
    reader.make_pass(delivered("1-0"))
    reader.connection.replies.extend([LOST, REFUSED, LOST, 1])
    reader.finish(Abandon(3))
    assert reader.connection.names()[1:] == [["finish"]] * 3
    assert pool.in_flight.ids(KEYS) == {"1-0"}
    assert not pool.availability.connected
    assert pool.figures.counters["redis_operations"] == 5
    assert closed == [True]
    reader.finish(Abandon(3))
    assert pool.in_flight.ids(KEYS) == set()


def test_without_its_group_a_reader_has_nothing_left_to_settle(clock: Clock) -> None:
    (reader,) = Pool(clock).readers
    reader.make_pass(delivered("1-0"))
    reader.connection.replies.append(GroupMissing("NOGROUP gone", code="NOGROUP"))
    reader.finish(Abandon(1))
    assert reader.connection.names()[1:] == [["finish"]]
    assert reader.connection.closes == 1


def test_a_retry_that_a_sibling_takes_before_the_reply_that_it_was_parked_goes_back(
    clock: Clock,
) -> None:
    """With a short delay it may be due so soon; its first reader still has it in the outbox."""

    def process(*_: object) -> None:
        raise ValueError("no good")

    pool = Pool(clock, process=process, readers=2)
    one, other = pool.readers
    one.make_pass(delivered("1-0"))

    def take_it() -> None:
        clock.now += 2.0
        assert other.make_pass(recovered(row("1-0", 2))) == ["recover"]

    one.make_pass(first(take_it, then=[[1], b"", b""]), delivered())
    assert pool.ran == ["1-0"]
    assert pool.in_flight.ids(KEYS) == {"1-0"}, "it is not forgotten"
    assert other.make_pass([1, 0], delivered()) == ["hand_back", "XREADGROUP"]
    assert pool.in_flight.ids(KEYS) == set()
