"""While it is held, a pool takes no messages; it may try one at a time, and says why."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import redis
from consumers import STREAM, Make, owners, pending, results
from helpers import Clock, Gate, eventually, in_a_fork, returns
from pools import NOTHING_FOUND, Pool, delivered, recovered, row
from protocol_client import KEYS
from readers import add_slot, entries, first, start, waiting

from shared_sync import RedisStreamConsumer, RedisStreamProducer, current_message
from shared_sync.protocol.keys import PARKED
from shared_sync.redis_consumer.faults import pauses as pauses_module
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.slot import Slot

LOGGER = logging.getLogger("tests.pauses")
WHY = "circuit breaker 'translator' is open"
RETURNED = [1, 0]


@pytest.fixture
def pauses(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Those of a pool whose readers wait for a moment each time, while its clock stands still."""
    monkeypatch.setattr(pauses_module, "LONGEST_WAIT_SECONDS", 0.02)
    return Pauses(logger=LOGGER, clock=clock)


def may_try(pauses: Pauses) -> bool:
    with pauses.trial(Slot("r1")) as may:
        return may


# --- who may take a message -------------------------------------------------------------------


def test_it_is_held_until_each_name_that_holds_it_has_released_it(pauses: Pauses) -> None:
    pauses.hold("a", "a is broken")
    pauses.hold("b", "b is broken")
    pauses.hold("a", "a is broken still")
    assert pauses.reasons() == ["a is broken still", "b is broken"]
    pauses.release("a")
    assert pauses.is_held
    pauses.release("unknown")
    pauses.release("b")
    assert not pauses.is_held
    assert pauses.reasons() == []
    assert not may_try(pauses), "there is nothing to try: all is allowed"


def test_when_its_time_comes_one_reader_at_a_time_tries_a_message(
    pauses: Pauses, clock: Clock
) -> None:
    pauses.hold("a", WHY, until=clock.now + 12, trials=True)
    assert not pauses.allows_trials
    assert pauses.reasons() == [f"{WHY}, next trial in 12 s"]
    clock.now += 12
    assert pauses.reasons() == [f"{WHY}, one message at a time is tried"]
    with pauses.trial(Slot("r1")) as may:
        assert may
        assert pauses.allows_trials
        assert not may_try(pauses), "another reader waits"
    assert may_try(pauses)
    assert pauses.is_held, "a trial alone releases nothing"


def test_many_readers_never_try_two_messages_at_the_same_time() -> None:
    pauses = Pauses(logger=LOGGER)
    pauses.hold("a", WHY, until=0.0, trials=True)
    tries, most, at_work = 0, 0, 0

    def read(number: int) -> None:
        nonlocal tries, most, at_work
        slot = Slot(f"r{number}")
        for _ in range(50):
            with pauses.trial(slot) as may:
                if may:
                    at_work += 1
                    most = max(most, at_work)
                    tries += 1
                    threading.Event().wait(0.0002)
                    at_work -= 1

    with ThreadPoolExecutor(8) as readers:
        list(readers.map(read, range(8)))
    assert most == 1
    assert tries >= 50


def test_a_hold_may_end_after_some_trials(pauses: Pauses, clock: Clock) -> None:
    def hold() -> None:
        pauses.hold("a", WHY, until=clock.now + 1, trials=True, most_trials=2)

    hold()
    pauses.has_tried()
    pauses.has_tried()
    assert pauses.is_held_by("a"), "before the time has come, nothing was a trial of it"
    clock.now += 1
    pauses.has_tried()
    hold()
    clock.now += 1
    pauses.has_tried()
    assert pauses.is_held_by("a"), "the count began anew"
    pauses.has_tried()
    assert not pauses.is_held
    assert not pauses.is_held_by("a")


def test_the_latest_of_several_times_counts(pauses: Pauses, clock: Clock) -> None:
    pauses.hold("a", "a", until=clock.now + 5, trials=True)
    pauses.hold("b", "b", until=clock.now + 9)
    clock.now += 5
    assert not pauses.allows_trials
    clock.now += 4
    assert may_try(pauses)


def test_a_hold_without_trials_ends_by_itself(
    pauses: Pauses, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pauses.hold("a", "too many errors", until=clock.now + 9.5)
    assert pauses.reasons() == ["too many errors, messages are taken again in 10 s"]
    clock.now += 9.5
    assert pauses.reasons() == []
    assert not may_try(pauses)
    assert not pauses.is_held
    assert caplog.messages == [
        "no messages are taken: too many errors, messages are taken again in 10 s",
        "messages are taken again after 9.5 s",
    ]


def test_a_trial_that_hangs_past_its_deadline_is_waited_for_no_more(
    pauses: Pauses, clock: Clock
) -> None:
    pauses.hold("a", WHY, until=clock.now, trials=True)
    slot = add_slot(InFlight(), "r1", "1-0")
    with pauses.trial(slot):
        start(slot).given_up = True
        with pauses.trial(Slot("r2")) as may:
            assert may
            slot.end_attempt()
            assert not may_try(pauses), "the second trial goes on"


@pytest.mark.parametrize(
    "end",
    [lambda pauses: pauses.release("a"), Pauses.close, lambda pauses: pauses.hold("a", "b")],
    ids=["release", "close", "another reason"],
)
def test_a_reader_that_waits_wakes_when_something_changes(end: Callable[[Pauses], None]) -> None:
    pauses = Pauses(logger=LOGGER)
    pauses.hold("a", "it is a test")
    woken = threading.Event()

    def wait() -> None:
        may_try(pauses)
        woken.set()

    reader = threading.Thread(target=wait, daemon=True)
    reader.start()
    eventually(lambda: pauses._changed._waiters)  # type: ignore[attr-defined]
    end(pauses)
    assert woken.wait(0.9), "sooner than the wait ends by itself"


def test_nothing_starts_once_the_pool_stops(pauses: Pauses, clock: Clock) -> None:
    pauses.hold("a", WHY, until=clock.now, trials=True)
    pauses.close()
    assert not may_try(pauses)
    pauses.release("a")
    assert pauses.is_held
    pauses.close()
    assert not may_try(pauses)


def test_who_wants_to_know_is_called_when_taking_messages_stops_and_not_again(
    clock: Clock,
) -> None:
    calls: list[int] = []
    pauses = Pauses(logger=LOGGER, on_hold=lambda: calls.append(1), clock=clock)
    pauses.hold("a", "a")
    pauses.hold("b", "b")
    assert len(calls) == 1
    pauses.release("a")
    pauses.release("b")
    pauses.hold("a", "a")
    assert len(calls) == 2


def test_a_fork_while_another_thread_is_in_here_does_no_harm(pauses: Pauses) -> None:
    is_inside, let_go = threading.Event(), threading.Event()

    def stay() -> None:
        with pauses._changed:
            is_inside.set()
            let_go.wait(60)

    threading.Thread(target=stay, daemon=True).start()
    assert is_inside.wait(10)
    try:
        assert in_a_fork(lambda: returns(partial(pauses.hold, "a", "a")))
    finally:
        let_go.set()


# --- what readers do --------------------------------------------------------------------------


def test_a_reader_that_is_told_to_pause_in_the_middle_hands_back_what_waits(clock: Clock) -> None:
    pool = Pool(
        clock, process=lambda *_: pool.pauses.hold("a", WHY, until=clock.now + 60, trials=True)
    )
    (reader,) = pool.readers
    reader.make_pass(delivered("1-0", "2-0", "3-0"))
    assert pool.ran == ["1-0"]
    assert waiting(reader.slot) == ["2-0", "3-0"]
    pool.pauses.close()  # so that the test need not wait
    assert reader.make_pass(1, RETURNED) == ["finish", "hand_back"]
    assert waiting(reader.slot) == []
    assert reader.make_pass() == []
    assert pool.ran == ["1-0"]


def test_a_trial_is_one_message_of_those_handed_back_first_and_is_settled_at_once(
    clock: Clock,
) -> None:
    pool = Pool(clock, prefetch=10)
    (reader,) = pool.readers
    pool.pauses.hold("a", WHY, until=clock.now, trials=True)
    clock.now += 0.1
    assert reader.make_pass(recovered(row("7-0", 1)), 1) == ["recover"]
    assert reader.connection.names()[-1] == ["finish"]
    assert pool.ran == ["7-0"]
    reader.make_pass(delivered("8-0"), 1)
    assert ("COUNT", 1) in zip(*[iter(reader.connection.sent[-2][0][4:8])] * 2, strict=True)
    assert pool.ran == ["7-0", "8-0"]


def test_a_message_that_was_handed_back_and_a_new_one_take_turns_whichever_reader_tries(
    clock: Clock,
) -> None:
    pool = Pool(clock, readers=3)
    pool.pauses.hold("a", WHY, until=clock.now, trials=True)
    for reader in pool.readers:
        clock.now += 0.1
        reply = recovered(row("7-0", 1)) if reader is not pool.readers[1] else delivered("8-0")
        fetch = "recover" if reader is not pool.readers[1] else "XREADGROUP"
        assert reader.make_pass(reply, 1) == [fetch]
    assert pool.ran == ["7-0", "8-0", "7-0"]


def test_a_message_that_comes_when_trials_are_forbidden_anew_is_handed_back(clock: Clock) -> None:
    pool = Pool(clock)
    (reader,) = pool.readers
    pool.pauses.hold("a", WHY, until=clock.now, trials=True)
    clock.now += 0.1

    def forbid() -> None:
        pool.pauses.hold("a", WHY)

    reader.make_pass(first(forbid, then=recovered(row("7-0", 1))))
    assert pool.ran == []
    pool.pauses.close()
    assert reader.make_pass(RETURNED) == ["hand_back"]


def test_after_the_pause_a_reader_looks_at_once_for_what_was_handed_back(clock: Clock) -> None:
    pool = Pool(clock)
    (reader,) = pool.readers
    pool.pauses.hold("a", "a", until=clock.now)
    assert reader.make_pass() == []
    clock.now += 0.1
    assert reader.make_pass(NOTHING_FOUND) == ["recover"]


def test_what_another_reader_takes_before_the_reply_that_it_went_back_goes_back_again(
    clock: Clock,
) -> None:
    """The server has handed it back, and given it to the other reader, before the first knows."""
    pool = Pool(clock, readers=2)
    one, other = pool.readers
    pool.pauses.hold("a", "a", until=clock.now + 1)
    one.slot.source = KEYS
    one.slot.waiting.extend(entries("7-0"))
    clock.now += 0.5

    def take_it() -> None:
        pool.pauses.release("a")
        clock.now += 0.5
        assert other.make_pass(recovered(row("7-0", 1))) == ["recover"]

    one.make_pass(first(take_it, then=RETURNED))
    assert pool.ran == []
    assert pool.in_flight.ids(KEYS) == {"7-0"}, "it is not forgotten"
    assert other.make_pass(RETURNED, delivered()) == ["hand_back", "XREADGROUP"]
    assert pool.in_flight.ids(KEYS) == set()


# --- a whole consumer -------------------------------------------------------------------------


def pauses_of(consumer: RedisStreamConsumer) -> Pauses:
    return consumer._life.pool.pauses


def test_what_runs_goes_on_and_the_rest_goes_to_another_consumer(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    gate = Gate("here")
    here = make(gate, prefetch=5, result_stream="results")
    producer.publish_many({"n": n} for n in range(5))
    here.start()
    assert gate.entered.wait(10)
    pauses_of(here).hold("test", WHY)
    eventually(lambda: owners(client) == {"consumer-1": 1, PARKED: 4})
    health = here.get_health_data()
    assert (health["live"], health["ready"], health["status"]) == (True, False, "degraded")
    assert health["reasons"] == [WHY]
    make(lambda *_: f"attempt {current_message().attempt}", result_stream="results").start()
    eventually(lambda: len(results(client)) == 4)
    gate.opened.set()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert [one["result"] for one in results(client)] == ["attempt 1"] * 4 + ["here"]


def test_heartbeats_go_on_while_nothing_is_taken_and_a_release_ends_the_wait(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    consumer = make(lambda *_: "done", threads=2, lease_seconds=1.0, result_stream="results")
    consumer.start()
    pauses_of(consumer).hold("test", WHY)
    readers = consumer.get_views()["readers"]()["readers"]
    assert [reader["state"] for reader in readers] == ["paused"] * 2
    lease = client.zscore("{jobs}:workers:presence", "consumer-1")
    assert lease is not None
    eventually(lambda: (client.zscore("{jobs}:workers:presence", "consumer-1") or 0) > lease + 1000)
    producer.publish_many({"n": n} for n in range(10))
    eventually(lambda: pending(client) == 0)
    assert results(client) == []
    assert consumer.get_health_data()["redis_connected"]
    pauses_of(consumer).release("test")
    eventually(lambda: len(results(client)) == 10, within=5)
    assert consumer.ready
    assert "status" not in consumer.get_health_data()


def test_a_drain_ends_the_wait_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses_module, "LONGEST_WAIT_SECONDS", 60.0)
    consumer = make(lambda *_: None, threads=4)
    consumer.start()
    pauses_of(consumer).hold("test", WHY, until=math.inf)
    eventually(lambda: consumer._life.pool.pauses._changed._waiters)  # type: ignore[attr-defined]
    assert consumer.stop(timeout=5), "every thread has ended"


def test_trials_run_one_message_at_a_time_and_are_charged_as_usual(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    running = threading.Semaphore(1)
    ran: list[str] = []

    def processor(_: str, job: dict[str, str]) -> str:
        assert running.acquire(blocking=False)
        threading.Event().wait(0.005)
        ran.append(job["n"])
        running.release()
        return "done"

    consumer = make(processor, threads=4, result_stream="results")
    consumer.start()
    pauses_of(consumer).hold("test", WHY, until=0.0, trials=True)
    eventually(lambda: len(pauses_of(consumer).reasons()) == 1)
    producer.publish_many({"n": n} for n in range(20))
    eventually(lambda: client.xlen(STREAM) == 0)
    assert sorted(map(int, ran)) == list(range(20))
    assert not consumer.ready


def test_whatever_holds_the_readers_and_when_each_message_has_one_result_and_no_charge(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    chance = random.Random(7)
    attempts: set[int] = set()

    def processor(*_: object) -> str:
        attempts.add(current_message().attempt)
        return "done"

    consumers = [make(processor, threads=3, result_stream="results") for _ in range(2)]
    for consumer in consumers:
        consumer.start()
    pause = threading.Event()
    for first_of_part in range(0, 400, 20):
        producer.publish_many({"n": first_of_part + n} for n in range(20))
        for consumer in consumers:
            held, until = pauses_of(consumer), time.monotonic() + 0.05 * chance.random()
            act = chance.choice(
                [
                    partial(held.hold, until=until, trials=True),
                    partial(held.hold, until=until),
                    held.hold,
                    lambda name, _, held=held: held.release(name),
                ]
            )
            act(chance.choice("ab"), WHY)
        pause.wait(0.04 * chance.random())
    for consumer in consumers:
        pauses_of(consumer).release("a")
        pauses_of(consumer).release("b")
    eventually(lambda: client.xlen(STREAM) == 0)
    assert len({one["message_id"] for one in results(client)}) == len(results(client)) == 400
    assert attempts == {1}
