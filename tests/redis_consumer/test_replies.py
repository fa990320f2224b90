"""Results go to callers, and to streams that messages name."""

from __future__ import annotations

import json
from typing import Any

import child_processors
import pytest
import redis
from consumers import GROUP, STREAM, Make, dead_letters, pending, results
from helpers import Figures, eventually

from shared_sync import Message, RedisStreamConsumer, RetryPolicy
from shared_sync.protocol.job_options import OPTIONS, TYPES, JobOptions
from shared_sync.protocol.keys import Keys, StreamKeys

KEYS = Keys.of(STREAM, GROUP)
REPLIES = StreamKeys.of(STREAM).reply("ab12")
ONCE = RetryPolicy(max_attempts=1)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def waits(client: redis.Redis) -> str:
    """The stream of a caller that waits for its replies."""
    client.xgroup_create(REPLIES, "unused", mkstream=True)
    return REPLIES


def ask(client: redis.Redis, fields: dict[str, str], **options: Any) -> str:
    """Publish as a client of another language does; return the id."""
    options.setdefault("reply_to", REPLIES)
    added: bytes = client.xadd(STREAM, {**fields, OPTIONS: json.dumps(options)})
    return added.decode()


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_caller_gets_its_result_and_the_processor_does_not_see_the_options(
    make: Make, client: redis.Redis, waits: str, isolation: Any
) -> None:
    make(
        child_processors.answer, result_stream="results", carry_fields=("n",), isolation=isolation
    ).start()
    asked = ask(client, {"n": "1"}, id="scheduled-1", traceparent=TRACE)
    plain = client.xadd(STREAM, {"n": "2"}).decode()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert asked not in (reply := results(client, waits)[0]).values()
    assert reply.pop("pid")
    types = {TYPES: '{"json": ["attempt", "pid"]}'}
    facts = {"message_id": "scheduled-1", "status": "done", "n": "1", "traceparent": TRACE}
    assert reply == {**facts, "attempt": "1", **types}
    (result,) = results(client)
    assert result["message_id"] == plain


def test_every_outcome_has_a_result_for_its_caller_unless_the_caller_is_gone(
    make: Make, client: redis.Redis, waits: str
) -> None:
    figures = Figures()
    nothing = ask(client, {"do": "nothing"})
    failed = ask(client, {"do": "fail"})
    ask(client, {}, reply_to=StreamKeys.of(STREAM).reply("gone"))
    wrong = ask(client, {}, reply_to=KEYS.history)
    client.xadd(STREAM, {"n": "1", OPTIONS: "not JSON"})

    def processor(_: str, job: dict[str, str]) -> None:
        if job.get("do") == "fail":
            raise ValueError("no use")

    make(processor, metrics=figures, retry=ONCE).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    by_id = {one["message_id"]: one for one in results(client, waits)}
    assert by_id.keys() == {nothing, failed}
    assert by_id[nothing] == {"message_id": nothing, "status": "done"}
    assert (by_id[failed]["status"], by_id[failed]["error"]) == ("dead", "no use")
    reasons = sorted(letter["dead.reason"] for letter in dead_letters(client))
    assert [reason[:9] for reason in reasons] == ["bad input", "bad input", "failed 1 "]
    assert any(f"a reply to '{KEYS.history}', which is not a " in one for one in reasons)
    assert any("is no JSON object" in one for one in reasons)
    assert wrong not in by_id
    eventually(lambda: figures.counters["replies_dropped"] == 1)
    assert client.exists(StreamKeys.of(STREAM).reply("gone")) == 0
    assert pending(client) == 0


def test_results_go_to_streams_that_messages_name_and_a_message_without_the_name_is_bad_input(
    make: Make, client: redis.Redis
) -> None:
    consumer = make(lambda _, job: int(job["n"]), result_stream=f"{{{STREAM}}}:out:{{gateway}}")
    client.set(f"{{{STREAM}}}:out:text", "no stream")
    for n, gateway in enumerate(("g1", "g2", "g1", "text")):
        client.xadd(STREAM, {"n": n, "gateway": gateway})
    client.xadd(STREAM, {"n": "5"})
    consumer.start()
    eventually(lambda: client.xlen(STREAM) == 0)
    found = {name: results(client, f"{{{STREAM}}}:out:{name}") for name in ("g1", "g2")}
    assert {name: [one["result"] for one in ends] for name, ends in found.items()} == {
        "g1": ["0", "2"],
        "g2": ["1"],
    }
    reasons = sorted(letter["dead.reason"] for letter in dead_letters(client))
    assert "field 'gateway', which result_stream needs, is missing" in reasons[0]
    assert "is no stream, which never takes an entry" in reasons[1]
    reasons = consumer.get_health_data()["reasons"]
    assert any("'gateway'" in one for one in reasons)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_what_a_processor_emits_is_published_with_its_result_and_the_next_stage_answers(
    make: Make, client: redis.Redis, waits: str, isolation: Any
) -> None:
    make(child_processors.hand_on, isolation=isolation).start()
    asked = ask(client, {"n": "1"}, traceparent=TRACE)
    eventually(lambda: client.xlen(STREAM) == 0)
    (emitted,) = results(client, f"{{{STREAM}}}:next")
    options = JobOptions.parse(emitted.pop(OPTIONS))
    assert emitted == {"text": "1"}
    assert options == JobOptions(reply_to=REPLIES, id=asked, traceparent=TRACE)
    assert results(client, waits) == []


def test_each_message_of_a_batch_emits_and_has_a_result_for_its_caller(
    redis_url: str, client: redis.Redis, waits: str
) -> None:
    seen: list[dict[str, Any]] = []

    def process_batch(messages: list[Message]) -> list[object]:
        seen.extend(dict(one.fields) for one in messages)
        for one in messages:
            if one.fields["n"] != "1":
                one.emit("next", {"n": one.fields["n"]})
        return [None if one.fields["n"] == "0" else ValueError("no") for one in messages]

    ids = [ask(client, {"n": str(n)}) for n in range(3)]
    consumer = RedisStreamConsumer(
        redis_url, STREAM, GROUP, "batches", None, batch_processor=process_batch, retry=ONCE
    )
    with consumer:
        eventually(lambda: client.xlen(STREAM) == 0)
    assert sorted(one["n"] for one in seen) == ["0", "1", "2"]
    assert all(one.keys() == {"n"} for one in seen)
    by_id = {one["message_id"]: one["status"] for one in results(client, waits)}
    assert by_id == dict(zip(ids, ("done", "dead", "dead"), strict=True))
    assert results(client, "next") == [{"n": "0"}], "a failed attempt publishes nothing"
