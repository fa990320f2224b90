"""Faults of the network between a pool, a producer and Redis."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Mapping

import pytest
from faults.durations import REPLY_SECONDS
from faults.ledger import (
    KEYS,
    NUMBER,
    QUICK,
    Ledger,
    MakePool,
    answer,
    let_pass,
    mixed,
)
from faults.proxy import Proxy
from faults.table import FaultTable
from helpers import Figures, Gate, eventually

from shared_sync import DeadLetters, RedisStreamProducer, Reject, checks, current_message
from shared_sync.connection import pool as connection_pool
from shared_sync.errors import RedisUnavailable

Job = Mapping[str, str | bytes]


class Attempts:
    """Work that fails a message's first attempts, and remembers the attempts that were made."""

    def __init__(self, failing: int = 0) -> None:
        self._failing = failing
        self._lock = threading.Lock()
        self.made: dict[str, list[int]] = {}

    def __call__(self, message_id: str, job: Job) -> object:
        attempt = current_message().attempt
        with self._lock:
            self.made.setdefault(message_id, []).append(attempt)
        if attempt <= self._failing:
            raise ValueError("not yet")
        return answer(message_id, job)


# --- requests and replies that are lost ---------------------------------------------------------


@pytest.mark.parametrize("request_kind", ["read", "finish_with_results"])
def test_a_request_that_is_cut_off_on_its_way_costs_nothing(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable, request_kind: str
) -> None:
    pool = make_pool(proxy.url, ledger.processor())
    pool.start()
    fault = proxy.cut_before(request_kind, times=3)
    ledger.publish(40)
    assert fault.happened.wait(10)
    ledger.fault_is_over()
    ledger.publish(10)
    row = fault_table.add(f"cut before the {request_kind} (3 times)", ledger, pool)
    assert row.run_twice == 0


@pytest.mark.parametrize("fault_kind", ["cut before", "reply lost"])
def test_messages_that_are_done_without_a_result_end_once_whatever_happens_to_their_confirmation(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_kind: str
) -> None:
    figures = Figures()
    pool = make_pool(proxy.url, ledger.processor(lambda *_: None), metrics=figures)
    pool.start()
    act = proxy.cut_before if fault_kind == "cut before" else proxy.lose_reply
    fault = act("finish", times=3)
    ids = ledger.publish(100)
    assert fault.happened.wait(10)
    eventually(lambda: ledger.client.xlen(KEYS.stream) == 0)
    eventually(lambda: figures.counters["jobs_processed"] == 100)
    assert ledger.runs == dict.fromkeys(ids, 1)
    assert figures.counters["jobs_lost"] == 0


@pytest.mark.parametrize("prefetch", [1, 10])
def test_messages_whose_delivery_was_lost_are_found_again_and_not_charged(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable, prefetch: int
) -> None:
    attempts = Attempts()
    ledger.publish(40)
    fault = proxy.lose_reply("read", times=2, carrying=NUMBER)
    pool = make_pool(proxy.url, ledger.processor(attempts), prefetch=prefetch)
    pool.start()
    assert fault.happened.wait(10)
    ledger.fault_is_over()
    row = fault_table.add(f"reply to the read lost (twice, prefetch {prefetch})", ledger, pool)
    assert row.run_twice == 0
    assert attempts.made == {made: [1] for made in ledger.acknowledged}


@pytest.mark.parametrize("prefetch", [1, 10])
def test_a_finish_whose_reply_was_lost_stands_and_is_not_done_again(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable, prefetch: int
) -> None:
    ledger.publish(60)
    fault = proxy.lose_reply("finish_with_results", times=3)
    pool = make_pool(proxy.url, ledger.processor(), prefetch=prefetch)
    pool.start()
    assert fault.happened.wait(10)
    ledger.fault_is_over()
    ledger.publish(10)
    name = f"reply to the finish lost (3 times, prefetch {prefetch})"
    row = fault_table.add(name, ledger, pool)
    assert row.run_twice == 0


def test_a_failure_that_is_reported_twice_is_charged_once(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable
) -> None:
    """With a charge too many, the second failure of a message would be its last."""
    attempts = Attempts(failing=2)
    ledger.publish(10)
    fault = proxy.lose_reply("park", times=3)
    processor = ledger.processor(attempts)
    # At first nothing but failures, which would pause the pool.
    pool = make_pool(proxy.url, processor, retry=QUICK, max_failures_in_a_row=None)
    pool.start()
    assert fault.happened.wait(10)
    ledger.fault_is_over()
    fault_table.add("reply to the park lost (3 times)", ledger, pool)
    assert attempts.made == {made: [1, 2, 3] for made in ledger.acknowledged}
    assert ledger.client.xlen(KEYS.dead) == 0


def test_a_failure_that_arrives_late_does_not_disturb_the_next_attempt(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable
) -> None:
    """Its connection was given up, it was reported again, and the message has been taken again."""
    again = Gate()

    def work(message_id: str, job: Job) -> object:
        if current_message().attempt == 1:
            raise ValueError("the first time")
        again()
        return answer(message_id, job)

    (message_id,) = ledger.publish()
    held_up = proxy.hold_up("park")
    pool = make_pool(proxy.url, ledger.processor(work), retry=QUICK)
    pool.start()
    assert again.entered.wait(10)
    held_up.release.set()
    assert held_up.delivered.wait(10)
    ledger.client.ping()
    assert len(ledger.client.hget(KEYS.history, message_id).splitlines()) == 1
    (entry,) = ledger.client.xpending_range(KEYS.stream, KEYS.group, "-", "+", 1)
    assert entry["consumer"].decode() == pool.consumer_id
    ledger.fault_is_over()
    again.opened.set()
    row = fault_table.add("a failure arrives late", ledger, pool)
    assert row.run_twice == 0


@pytest.mark.parametrize(
    "request_kind", ["read", "finish_with_results", "bury", "recover", "heartbeat"]
)
def test_a_request_that_arrives_when_it_was_given_up_on_costs_nothing(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable, request_kind: str
) -> None:
    pool = make_pool(proxy.url, ledger.processor(mixed), prefetch=3, retry=QUICK)
    pool.start()
    held_up = proxy.hold_up(request_kind)
    with ledger.load():
        assert held_up.happened.wait(10)
        eventually(lambda: not pool.redis_connected)
        eventually(lambda: pool.redis_connected)
        held_up.release.set()
        ledger.fault_is_over()
        ledger.progress()
    row = fault_table.add(f"a {request_kind} arrives late", ledger, pool)
    assert row.run_twice == 0


def test_a_dead_letter_whose_reply_was_lost_is_written_once(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable
) -> None:
    def reject(*_: object) -> None:
        raise Reject("no")

    ledger.publish(10)
    fault = proxy.lose_reply("bury", times=3)
    pool = make_pool(proxy.url, ledger.processor(reject))
    pool.start()
    assert fault.happened.wait(10)
    ledger.fault_is_over()
    fault_table.add("reply to the bury lost (3 times)", ledger, pool)
    assert ledger.client.xlen(KEYS.dead) == 10


def test_a_message_whose_recovery_was_lost_is_found_again_and_not_charged(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable
) -> None:
    attempts = Attempts(failing=1)
    ledger.publish(3)
    fault = proxy.lose_reply("recover", times=2, carrying=NUMBER)
    pool = make_pool(proxy.url, ledger.processor(attempts), retry=QUICK)
    pool.start()
    assert fault.happened.wait(10)
    ledger.fault_is_over()
    fault_table.add("reply to the recovery lost (twice)", ledger, pool)
    assert attempts.made == {made: [1, 2] for made in ledger.acknowledged}


@pytest.mark.parametrize(("limit", "request_kind"), [(None, "add"), (1000, "publish")])
def test_a_producer_says_that_it_does_not_know_when_the_reply_was_lost(
    ledger: Ledger,
    proxy: Proxy,
    make_pool: MakePool,
    fault_table: FaultTable,
    limit: int | None,
    request_kind: str,
) -> None:
    """The message is there once. Who publishes it again has it twice, and is told so."""
    with RedisStreamProducer(proxy.url, KEYS.stream, max_queue_depth=limit) as producer:
        proxy.lose_reply(request_kind)
        with pytest.raises(RedisUnavailable):
            ledger.publish(producer=producer, job="reply lost")
        assert ledger.client.xlen(KEYS.stream) == 1
        proxy.cut_before(request_kind)
        with pytest.raises(RedisUnavailable):
            ledger.publish(producer=producer, job="request lost")
        assert ledger.client.xlen(KEYS.stream) == 1
        ledger.publish(producer=producer, job="reply lost")
    jobs: Counter[str] = Counter()

    def work(message_id: str, job: Job) -> object:
        jobs[str(job["job"])] += 1
        return answer(message_id, job)

    ledger.fault_is_over()
    pool = make_pool(proxy.url, ledger.processor(work))
    pool.start()
    fault_table.add("reply to the publishing lost", ledger, pool)
    eventually(lambda: ledger.client.xlen(KEYS.stream) == 0)
    assert jobs == {"reply lost": 2}


def test_a_producer_of_many_tells_which_were_accepted_when_the_reply_was_lost(
    ledger: Ledger, proxy: Proxy
) -> None:
    with RedisStreamProducer(proxy.url, KEYS.stream) as producer:

        def messages() -> object:
            for number in range(250):
                if number == 150:
                    proxy.lose_reply("publish")
                yield {"number": number}

        with pytest.raises(RedisUnavailable) as caught:
            producer.publish_many(messages())
    there = [entry_id.decode() for entry_id, _ in ledger.client.xrange(KEYS.stream)]
    assert list(caught.value.published) == there[:100]
    assert len(there) == 200, "the batch that was on its way has been published too"


# --- a network that is slow, silent or not there ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("shorter", REPLY_SECONDS / 3), ("longer", REPLY_SECONDS * 2)],
    ids=["shorter", "longer"],
)
def test_a_network_that_delivers_nothing_for_a_while_costs_nothing(
    ledger: Ledger,
    proxy: Proxy,
    make_pool: MakePool,
    fault_table: FaultTable,
    name: str,
    seconds: float,
) -> None:
    pool = make_pool(proxy.url, ledger.processor(), prefetch=5)
    pool.start()
    with ledger.load():
        with proxy.black_hole():
            let_pass(seconds)
            assert pool.redis_connected == (name == "shorter")
        ledger.fault_is_over()
        ledger.progress()
    fault_table.add(f"black hole, {name} than the wait for a reply", ledger, pool)


def test_work_that_is_done_in_a_black_hole_is_kept_and_not_done_again(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable
) -> None:
    gate = Gate()

    def work(message_id: str, job: Job) -> object:
        gate()
        return answer(message_id, job)

    pool = make_pool(proxy.url, ledger.processor(work))
    pool.start()
    ledger.publish(3)
    eventually(lambda: gate.calls == 3)
    with proxy.black_hole():
        gate.opened.set()
        eventually(lambda: pool.get_health_data()["jobs_in_flight"] == 0)
        eventually(lambda: not pool.redis_connected)
        let_pass(REPLY_SECONDS)
        assert ledger.look()
        assert len(ledger.unfinished()) == 3
    ledger.fault_is_over()
    row = fault_table.add("black hole while results wait to be sent", ledger, pool)
    assert row.run_twice == 0


def test_one_byte_at_a_time_is_enough(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable
) -> None:
    proxy.drips = True
    ledger.fault_is_over()
    attempts = Attempts(failing=1)
    with RedisStreamProducer(proxy.url, KEYS.stream) as producer:
        ledger.publish(10, producer=producer)
    pool = make_pool(proxy.url, ledger.processor(attempts), threads=2, prefetch=3, retry=QUICK)
    pool.start()
    row = fault_table.add("one byte at a time", ledger, pool)
    assert row.run_twice == 0


def test_a_pool_whose_connections_are_refused_for_a_while_goes_on(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable
) -> None:
    pool = make_pool(proxy.url, ledger.processor())
    pool.start()
    with ledger.load():
        with proxy.refusal():
            eventually(lambda: not pool.redis_connected)
            let_pass(0.5)
        ledger.fault_is_over()
        ledger.progress()
    fault_table.add("connections refused for 0.5 s", ledger, pool)


def test_cuts_at_any_moment_lose_nothing_and_answer_nothing_twice(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable
) -> None:
    """Two pools whose messages succeed, fail and are rejected, while all their exchanges break."""
    seed = 7
    chance = random.Random(seed)
    pools = [make_pool(proxy.url, ledger.processor(mixed), prefetch=5, retry=QUICK) for _ in "ab"]
    for pool in pools:
        pool.start()
    with ledger.load():
        faults = [
            arm("", times=40, chance=lambda: chance.random() < 0.07)
            for arm in (proxy.cut_before, proxy.lose_reply)
        ]
        for fault in faults:
            assert fault.happened.wait(30)
    ledger.fault_is_over()
    ledger.publish(10)
    fault_table.add(f"80 cuts at random (seed {seed})", ledger, *pools)
    for _, letter in ledger.client.xrange(KEYS.dead):
        assert letter[b"dead.reason"] == b"rejected: every tenth"
        (failure,) = letter[b"dead.history"].splitlines()
        assert json.loads(failure)["error_type"] == "Reject"


# --- links that are dropped and nobody is told --------------------------------------------------


@pytest.mark.parametrize("constant", ["KEEP_SECONDS", "TRUST_SECONDS"])
def test_links_that_a_firewall_dropped_while_they_were_idle_cost_no_message_and_no_alarm(
    ledger: Ledger, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    """Whether they are opened anew, or the server is asked over them first."""
    monkeypatch.setattr(connection_pool, "ANSWER_SECONDS", 0.1)
    check = checks.redis(proxy.url)
    with (
        RedisStreamProducer(proxy.url, KEYS.stream) as producer,
        DeadLetters(proxy.url, KEYS.stream, KEYS.group) as letters,
    ):
        producer.publish({"n": 1})
        assert len(letters) == 0
        assert "status" not in check()
        proxy.drop_links()
        monkeypatch.setattr(connection_pool, constant, 0.0)  # as if they had been idle for long
        producer.publish({"n": 2})
        producer.publish_many([{"n": 3}])
        assert len(letters) == 0
        assert "status" not in check()
    assert ledger.client.xlen(KEYS.stream) == 3
