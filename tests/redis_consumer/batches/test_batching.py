"""Batches with a real server: how they are collected, and what becomes of their messages."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from consumers import DEAD, GROUP, LOGGER, STREAM, Make, dead_letters, owners, pending, results
from helpers import ENVIRONMENT, Figures, eventually

from shared_sync import (
    Batching,
    Message,
    RedisStreamConsumer,
    RedisStreamProducer,
    Reject,
    Retry,
    RetryPolicy,
    WorkerMetrics,
    current_message,
)
from shared_sync.errors import ConfigurationError, ConsumerStateError
from shared_sync.redis_consumer import timeouts

MakeBatches = Callable[..., RedisStreamConsumer]
NO_RETRY = RetryPolicy(max_attempts=1)
AT_ONCE = RetryPolicy(max_attempts=3, base_seconds=0.01, jitter=0.0)


@pytest.fixture
def make_batches(redis_url: str) -> Iterator[MakeBatches]:
    """Makes consumers that run batches, and are stopped at the end of the test."""
    made: list[RedisStreamConsumer] = []

    def make_one(
        batch_processor: Callable[[Sequence[Message]], Sequence[object]], **options: Any
    ) -> RedisStreamConsumer:
        consumer = RedisStreamConsumer(
            redis_url,
            STREAM,
            GROUP,
            f"consumer-{len(made) + 1}",
            LOGGER,
            batch_processor=batch_processor,
            result_stream="results",
            **options,
        )
        made.append(consumer)
        return consumer

    yield make_one
    for consumer in made:
        consumer.stop(timeout=0)


def numbers(messages: Sequence[Message]) -> list[int]:
    return [int(message.fields["n"]) for message in messages]


def publish(producer: RedisStreamProducer, count: int) -> list[str]:
    return producer.publish_many({"n": n} for n in range(count))


def is_empty(client: redis.Redis) -> bool:
    return not client.xlen(STREAM)


# --- collecting -------------------------------------------------------------------------------


def test_messages_that_are_there_run_in_full_batches_without_a_wait(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 48)
    runs: list[list[int]] = []

    def processor(messages: Sequence[Message]) -> list[int]:
        runs.append(numbers(messages))
        return numbers(messages)

    make_batches(processor, batch=Batching(max_size=16, max_wait_seconds=30.0)).start()
    eventually(lambda: is_empty(client))
    assert runs == [list(range(start, start + 16)) for start in (0, 16, 32)]
    assert sorted(int(one["result"]) for one in results(client)) == list(range(48))


def test_a_batch_that_stays_small_runs_after_its_wait(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 3)
    runs: list[int] = []
    make_batches(
        lambda messages: (runs.append(len(messages)), [None] * len(messages))[1],
        batch=Batching(max_wait_seconds=0.02),
    ).start()
    eventually(lambda: is_empty(client))
    assert runs == [3]


def test_messages_that_come_within_the_wait_join_the_batch_and_fill_it(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    runs: list[int] = []
    make_batches(
        lambda messages: (runs.append(len(messages)), [None] * len(messages))[1],
        batch=Batching(max_size=4, max_wait_seconds=60.0),
    ).start()
    producer.publish({"n": 0})
    eventually(lambda: pending(client) == 1)
    for n in range(1, 4):
        producer.publish({"n": n})
    eventually(lambda: is_empty(client))
    assert runs == [4]


def test_a_drain_ends_the_wait_and_hands_the_messages_back(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    metrics = WorkerMetrics("w")
    consumer = make_batches(
        lambda messages: [None] * len(messages),
        batch=Batching(max_wait_seconds=60.0),
        metrics=metrics,
    )
    consumer.start()
    publish(producer, 3)
    eventually(lambda: pending(client) == 3)
    assert consumer.stop(timeout=5.0)
    assert owners(client) == {"~parked": 3}
    assert metrics.get_metrics_data()["jobs_handed_back"] == 3
    again: list[int] = []
    make_batches(
        lambda messages: (again.extend(m.attempt for m in messages), [None] * len(messages))[1]
    ).start()
    eventually(lambda: is_empty(client))
    assert again == [1, 1, 1]


def test_two_readers_both_work_while_messages_trickle_in(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    by_thread: Counter[int] = Counter()

    def processor(messages: Sequence[Message]) -> list[None]:
        by_thread[threading.get_ident()] += len(messages)
        return [None] * len(messages)

    make_batches(processor, threads=2, batch=Batching(max_wait_seconds=0.03)).start()

    def both_have_worked() -> bool:
        producer.publish({"n": 0})
        return len(by_thread) == 2

    eventually(both_have_worked)
    eventually(lambda: is_empty(client))


def test_a_batch_costs_no_more_than_its_total_and_a_larger_message_runs_alone(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    costs = [4, 4, 4, 25, 1, 1, 1, 1, 9, 10]
    producer.publish_many({"n": cost} for cost in costs)
    runs: list[list[int]] = []
    make_batches(
        lambda messages: (runs.append(numbers(messages)), [None] * len(messages))[1],
        batch=Batching(
            max_wait_seconds=0.02, size=lambda message: float(message.fields["n"]), max_total=10.0
        ),
    ).start()
    eventually(lambda: is_empty(client))
    assert [n for run in runs for n in run] == costs
    assert [25] in runs
    assert all(sum(run) <= 10 for run in runs if run != [25])
    assert len(runs) < len(costs)


def test_a_message_whose_size_fails_has_failed_and_the_others_go_on(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 8)

    def size(message: Message) -> float:
        if message.fields["n"] == "3":
            raise ValueError("no audio")
        return -1.0 if message.fields["n"] == "5" else 1.0

    make_batches(
        numbers,
        batch=Batching(max_wait_seconds=0.0, size=size, max_total=100.0),
        retry=NO_RETRY,
    ).start()
    eventually(lambda: client.xlen("results") == 8)
    letters = {letter["n"]: letter for letter in dead_letters(client)}
    assert letters["3"]["dead.error"] == "no audio"
    assert (
        "what size of Batching returns must be a number of at least 0" in letters["5"]["dead.error"]
    )
    assert len(letters) == 2


# --- fates ------------------------------------------------------------------------------------


def test_each_message_of_a_batch_has_its_own_fate(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 6)
    attempts: dict[int, list[int]] = {n: [] for n in range(6)}

    def processor(messages: Sequence[Message]) -> list[object]:
        fates: list[object] = []
        for message in messages:
            n = int(message.fields["n"])
            attempts[n].append(message.attempt)
            is_first = message.attempt == 1
            fates.append(
                {
                    0: {"text": "zero"},
                    1: None,
                    2: Retry(0.01) if is_first else "later",
                    3: Reject("no use"),
                    4: ValueError("bad") if is_first else "better",
                    5: iter([]),
                }[n]
            )
        return fates

    make_batches(processor, batch=Batching(max_wait_seconds=0.02), retry=AT_ONCE).start()
    eventually(lambda: is_empty(client))
    done = [one for one in results(client) if one["status"] == "done"]
    assert sorted(one.get("text") or one["result"] for one in done) == ["better", "later", "zero"]
    reasons = {letter["n"]: letter["dead.reason"] for letter in dead_letters(client)}
    assert reasons["3"] == "rejected: no use"
    assert reasons["5"].startswith("bad result")
    assert {n: len(list(runs)) for n, runs in attempts.items()} == {
        0: 1,
        1: 1,
        2: 2,
        3: 1,
        4: 2,
        5: 1,
    }


def test_failures_beside_a_success_in_their_batch_are_no_streak_of_this_worker(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis, caplog: Any
) -> None:
    publish(producer, 32)
    make_batches(
        lambda messages: [None if n % 16 == 0 else ValueError("bad") for n in numbers(messages)],
        batch=Batching(max_size=16),
        retry=NO_RETRY,
        max_failures_in_a_row=2,
    ).start()
    eventually(lambda: is_empty(client))
    assert client.xlen(DEAD) == 30
    assert "no messages are taken" not in caplog.text


def test_of_32_messages_with_a_bad_one_31_have_results_and_1_is_charged(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 32)
    metrics = WorkerMetrics("w")
    runs: list[list[int]] = []

    def processor(messages: Sequence[Message]) -> list[int]:
        runs.append(numbers(messages))
        if 13 in runs[-1]:
            raise ValueError("bad")
        return runs[-1]

    consumer = make_batches(processor, batch=Batching(max_size=32), retry=NO_RETRY, metrics=metrics)
    consumer.start()
    eventually(lambda: is_empty(client))
    assert sorted(int(one["result"]) for one in results(client) if one["status"] == "done") == [
        n for n in range(32) if n != 13
    ]
    (letter,) = dead_letters(client)
    assert (letter["n"], letter["dead.attempts"], letter["dead.error"]) == ("13", "1", "bad")
    assert len(runs) == 11
    assert [13] in runs
    eventually(lambda: metrics.get_metrics_data()["jobs_processed"] == 31)
    assert metrics.get_metrics_data()["jobs_failed"] == 1
    assert metrics.get_metrics_data()["batch_extra_runs"] == 10
    (row,) = consumer.get_views()["readers"]()["batches"]
    assert (row["runs"], row["extra_runs"], row["ceiling"]) == (11, 10, 32)


def test_results_of_a_good_half_are_there_before_the_other_half_has_run(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 4)
    seen_when_3_ran_alone: list[int] = []

    def processor(messages: Sequence[Message]) -> list[int]:
        if numbers(messages) == [3]:
            seen_when_3_ran_alone.append(client.xlen("results"))
        if 3 in numbers(messages):
            raise ValueError("bad")
        return numbers(messages)

    make_batches(processor, batch=Batching(max_size=4), retry=NO_RETRY).start()
    eventually(lambda: is_empty(client))
    assert seen_when_3_ran_alone == [3]


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda messages: [None] * (len(messages) + 1), "returned 2 results for 1 message"),
        (lambda messages: (None for _ in messages), "an object of type generator for 1 message"),
        (lambda messages: {m.id: 1 for m in messages}, "an object of type dict for 1 message"),
        (lambda _messages: "x", "an object of type str for 1 message"),
        (lambda _messages: None, "an object of type NoneType for 1 message"),
    ],
)
def test_anything_but_one_result_for_each_message_is_a_failure_that_says_so(
    make_batches: MakeBatches,
    producer: RedisStreamProducer,
    client: redis.Redis,
    returned: Callable[[Sequence[Message]], Any],
    text: str,
) -> None:
    publish(producer, 3)
    make_batches(returned, batch=Batching(max_size=3), retry=NO_RETRY).start()
    eventually(lambda: is_empty(client))
    assert [text in letter["dead.error"] for letter in dead_letters(client)] == [True] * 3
    assert client.xlen(DEAD) == 3


def test_out_of_memory_above_8_settles_at_8_and_nothing_is_lost(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 200)

    class OutOfMemoryError(RuntimeError):
        """As torch has it."""

    runs: list[int] = []
    metrics = WorkerMetrics("w")

    def processor(messages: Sequence[Message]) -> list[int]:
        runs.append(len(messages))
        if len(messages) > 8:
            raise OutOfMemoryError("CUDA out of memory")
        return numbers(messages)

    make_batches(processor, batch=Batching(max_size=32), retry=NO_RETRY, metrics=metrics).start()
    eventually(lambda: is_empty(client))
    assert sorted(int(one["result"]) for one in results(client)) == list(range(200))
    assert client.xlen(DEAD) == 0
    assert [run for run in runs if run > 8] == [32, 16, 16]
    assert Counter(runs)[8] == 25
    eventually(lambda: metrics.get_metrics_data()["jobs_processed"] == 200)
    assert metrics.get_metrics_data()["batch_ceiling"] == 8
    assert metrics.get_metrics_data()["jobs_failed"] == 0


def test_what_a_processor_does_to_its_fields_does_not_change_what_is_carried(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 2)

    def processor(messages: Sequence[Message]) -> list[str]:
        for message in messages:
            message.fields.clear()
        return ["done"] * len(messages)

    make_batches(processor, batch=Batching(max_size=2), carry_fields=("n",)).start()
    eventually(lambda: is_empty(client))
    assert sorted(one["n"] for one in results(client)) == ["0", "1"]


def test_the_parts_of_a_batch_are_not_handed_back_because_one_of_them_takes_long(
    make_batches: MakeBatches,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timeouts, "LONGEST_WAIT_SECONDS", 0.0)
    publish(producer, 4)
    metrics = WorkerMetrics("w")
    checked = threading.Event()

    def processor(messages: Sequence[Message]) -> list[int]:
        if len(messages) == 4:
            raise ValueError("bad")
        checked.wait(0.5)  # meanwhile the heartbeat thread looks for what waits behind a long job
        return numbers(messages)

    make_batches(
        processor, batch=Batching(max_size=4), metrics=metrics, job_deadline_seconds=0.7
    ).start()
    eventually(lambda: is_empty(client))
    assert metrics.get_metrics_data().get("jobs_handed_back", 0) == 0


def test_there_is_no_current_message_in_a_batch(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 1)
    errors: list[str] = []

    def processor(messages: Sequence[Message]) -> list[None]:
        try:
            current_message()
        except ConsumerStateError as error:
            errors.append(str(error))
        return [None] * len(messages)

    make_batches(processor, batch=Batching(max_wait_seconds=0.0)).start()
    eventually(lambda: is_empty(client))
    assert "use those that it was called with" in errors[0]


# --- drain, deadline, crash -------------------------------------------------------------------


def test_a_drain_in_the_middle_of_halves_hands_back_what_has_not_run_uncharged(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 8)
    inside, goes_on = threading.Event(), threading.Event()

    def processor(messages: Sequence[Message]) -> list[int]:
        if len(messages) == 4:
            inside.set()
            assert goes_on.wait(10)
        if 7 in numbers(messages):
            raise ValueError("bad")
        return numbers(messages)

    consumer = make_batches(processor, batch=Batching(max_size=8), retry=NO_RETRY)
    consumer.start()
    assert inside.wait(10)
    stopping = threading.Thread(target=consumer.stop)
    stopping.start()
    eventually(lambda: owners(client) == {"consumer-1": 4, "~parked": 4})
    goes_on.set()
    stopping.join(10)
    assert sorted(int(one["result"]) for one in results(client)) == [0, 1, 2, 3]
    assert client.xlen(DEAD) == 0
    attempts: list[int] = []
    make_batches(
        lambda messages: (attempts.extend(m.attempt for m in messages), numbers(messages))[1]
    ).start()
    eventually(lambda: is_empty(client))
    assert attempts == [1, 1, 1, 1]


def test_a_batch_past_its_deadline_is_charged_once_each_and_then_each_runs_alone(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis, caplog: Any
) -> None:
    publish(producer, 3)
    leave = threading.Event()
    runs: list[list[tuple[int, int]]] = []

    def processor(messages: Sequence[Message]) -> list[int]:
        runs.append([(int(m.fields["n"]), m.attempt) for m in messages])
        if len(messages) > 1:
            leave.wait(10)
        return numbers(messages)

    options: dict[str, Any] = {
        "batch": Batching(max_size=3),
        "retry": AT_ONCE,
        "job_deadline_seconds": 0.2,
    }
    make_batches(processor, **options).start()
    eventually(lambda: runs)
    make_batches(processor, **options).start()  # a worker takes none that it gave up itself
    try:
        eventually(lambda: is_empty(client))
    finally:
        leave.set()
    assert sorted(runs[1:]) == [[(0, 2)], [(1, 2)], [(2, 2)]]
    assert client.xlen(DEAD) == 0
    assert caplog.text.count("still running after 0.2 s in a batch of 3") >= 3


KILLED = """
import os, signal, sys
from shared_sync import Batching, RedisStreamConsumer

def processor(messages):
    assert len(messages) == 6
    os.kill(os.getpid(), signal.SIGKILL)

url, stream, group = sys.argv[1:]
RedisStreamConsumer(
    url, stream, group, "killed", None, batch_processor=processor,
    batch=Batching(max_size=6), lease_seconds=1.0,
).start_consuming()
"""


def test_after_the_death_of_a_process_each_message_of_its_batch_runs_alone(
    redis_url: str, make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    publish(producer, 6)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, redis_url, STREAM, GROUP],
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == -signal.SIGKILL
    runs: list[list[tuple[int, int]]] = []

    def processor(messages: Sequence[Message]) -> list[int]:
        runs.append([(int(m.fields["n"]), m.attempt) for m in messages])
        return numbers(messages)

    make_batches(processor, batch=Batching(max_size=6), lease_seconds=1.0).start()
    eventually(lambda: is_empty(client))
    assert sorted(runs) == [[(n, 2)] for n in range(6)]
    assert sorted(int(one["result"]) for one in results(client)) == list(range(6))


class Model:
    """What a factory returns: it has a method for batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.is_closed = False

    def process_batch(self, messages: Sequence[Message]) -> list[int]:
        self.sizes.append(len(messages))
        return numbers(messages)

    def close(self) -> None:
        self.is_closed = True


def test_a_factory_may_return_what_takes_batches_and_every_reader_has_its_own(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    models: list[Model] = []

    def factory(_context: object) -> Model:
        models.append(Model())
        return models[-1]

    publish(producer, 64)
    consumer = make(None, processor_factory=factory, threads=2, result_stream="results")
    with consumer:
        eventually(lambda: is_empty(client))
    assert sorted(int(one["result"]) for one in results(client)) == list(range(64))
    assert [model.is_closed for model in models] == [True, True]
    assert max(size for model in models for size in model.sizes) == 16


def test_a_batch_that_a_factory_does_not_take_is_named_in_the_log(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, caplog: Any
) -> None:
    publish(producer, 1)
    make(None, processor_factory=lambda _: lambda *_: None, batch=Batching()).start()
    eventually(lambda: is_empty(client))
    assert "runs one message at a time, although batch was given" in caplog.text


# --- configuration ----------------------------------------------------------------------------


def test_a_batch_needs_a_processor_that_takes_several_messages() -> None:
    with pytest.raises(ConfigurationError, match="batch needs a batch_processor"):
        RedisStreamConsumer(
            "redis://localhost", STREAM, GROUP, "c", None, lambda *_: None, batch=Batching()
        )


def test_a_message_without_result_in_a_batch_needs_no_metrics_of_ours(
    make_batches: MakeBatches, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    figures = Figures()
    publish(producer, 3)
    make_batches(
        lambda messages: [None] * len(messages), metrics=figures, batch=Batching(max_size=3)
    ).start()
    eventually(lambda: is_empty(client))
    eventually(lambda: figures.counters.get("jobs_processed") == 3)
    assert "batch_size" not in figures.durations
