"""What processors emit and what callers wait for, while the network breaks.

All that a finished message publishes is written once, and nothing of an attempt that failed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import redis
from faults.ledger import KEYS, QUICK, RESULTS, Ledger, MakePool, answer, let_pass
from faults.proxy import Proxy
from faults.table import FaultTable
from helpers import eventually

from shared_sync import Message, Reject, current_message
from shared_sync.protocol.job_options import OPTIONS
from shared_sync.protocol.keys import StreamKeys

NEXT, OTHER = "next", "other"
REPLIES = StreamKeys.of(KEYS.stream).reply("ab12")
ASKED = 100


def emit_for(message: Message) -> object:
    """Emit, and then succeed, fail at first, or be in vain."""
    let_pass(0.003)
    for stream in (NEXT, OTHER, NEXT):
        message.emit(stream, {"of": message.id, "attempt": message.attempt})
    number = int(message.fields["number"])
    if number % 10 == 0:
        raise Reject("every tenth")
    if number % 3 == 0 and message.attempt == 1:
        raise ValueError("every third, at first")
    return answer(message.id, message.fields)


def emitting(message_id: str, _: Mapping[str, str | bytes]) -> object:
    message = current_message()
    assert message.id == message_id
    return emit_for(message)


def ask(client: redis.Redis, count: int) -> list[str]:
    """Publish messages of a caller that waits; return their ids."""
    client.xgroup_create(REPLIES, "unused", mkstream=True)
    options = json.dumps({"reply_to": REPLIES})
    ids = [client.xadd(KEYS.stream, {"number": n, OPTIONS: options}) for n in range(count)]
    return [one.decode() for one in ids]


def entries_of(client: redis.Redis, stream: str, field: bytes) -> Counter[str]:
    """How many entries there are of each message."""
    return Counter(fields[field].decode() for _, fields in client.xrange(stream))


def assert_written_once(client: redis.Redis, asked: list[str]) -> None:
    done = entries_of(client, RESULTS, b"message_id")
    replies = client.xrange(REPLIES)
    dead = {fields[b"dead.id"].decode() for _, fields in client.xrange(KEYS.dead)}
    answered = {fields[b"message_id"].decode(): fields[b"status"] for _, fields in replies}
    assert len(replies) == len(answered)
    assert answered == {one: b"dead" if one in dead else b"done" for one in asked}
    finished = {*done, *answered} - dead
    assert entries_of(client, NEXT, b"of") == dict.fromkeys(finished, 2)
    assert entries_of(client, OTHER, b"of") == dict.fromkeys(finished, 1)
    attempts = {(one[b"of"], one[b"attempt"]) for _, one in client.xrange(NEXT)}
    assert len(attempts) == len(finished), "both of one attempt"


@pytest.mark.parametrize("runs", ["alone", "in batches"])
def test_cuts_at_any_moment_neither_lose_nor_double_what_a_finished_message_emits(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_table: FaultTable, runs: str
) -> None:
    seed = 11
    chance = random.Random(seed)
    asked = ask(ledger.client, ASKED)
    options: dict[str, Any] = {"prefetch": 5, "retry": QUICK}
    processor = ledger.processor(emitting)
    if runs == "in batches":

        def process_batch(messages: list[Message]) -> list[object]:
            return [_caught(ledger, one) for one in messages]

        options = {"batch_processor": process_batch, "retry": QUICK}
        processor = None
    pools = [make_pool(proxy.url, processor, **options) for _ in "ab"]
    for pool in pools:
        pool.start()
    with ledger.load():
        faults = [
            arm("", times=30, chance=lambda: chance.random() < 0.07)
            for arm in (proxy.cut_before, proxy.lose_reply)
        ]
        for fault in faults:
            assert fault.happened.wait(30)
    ledger.fault_is_over()
    ledger.publish(10)
    fault_table.add(f"60 cuts at random with outputs, {runs} (seed {seed})", ledger, *pools)
    eventually(lambda: ledger.client.xlen(KEYS.stream) == 0)
    assert_written_once(ledger.client, asked)


def _caught(ledger: Ledger, message: Message) -> object:
    """The result of a message of a batch, or its error; its run is counted."""

    def run(*_: object) -> object:
        return emit_for(message)

    try:
        return ledger.processor(run)(message.id, message.fields)
    except (ValueError, Reject) as error:
        return error


@pytest.mark.parametrize("fault_kind", ["cut before", "reply lost", "held up"])
def test_outputs_of_a_finish_that_is_repeated_or_late_are_written_once(
    ledger: Ledger, proxy: Proxy, make_pool: MakePool, fault_kind: str
) -> None:
    asked = ask(ledger.client, 40)
    pool = make_pool(proxy.url, ledger.processor(emitting), retry=QUICK)
    if fault_kind == "held up":
        fault = proxy.hold_up("finish_with_outputs")
    else:
        arm = proxy.cut_before if fault_kind == "cut before" else proxy.lose_reply
        fault = arm("finish_with_outputs", times=3)
    pool.start()
    assert fault.happened.wait(10)
    if fault_kind == "held up":
        eventually(lambda: not pool.redis_connected)
        eventually(lambda: ledger.client.xlen(KEYS.stream) == 0)
        fault.release.set()
        assert fault.delivered.wait(10)
        ledger.client.ping()
    eventually(lambda: ledger.client.xlen(KEYS.stream) == 0)
    assert_written_once(ledger.client, asked)
