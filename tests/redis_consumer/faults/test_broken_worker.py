"""A broken worker ends, and charges nothing; a message that breaks all workers is charged."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import redis
from consumers import GROUP, STREAM, Make, dead_letters, owners, pending, results
from helpers import Figures, eventually

from shared_sync import (
    Batching,
    Message,
    RedisStreamConsumer,
    RedisStreamProducer,
    Reject,
    WorkerBroken,
)
from shared_sync.errors import ConsumerBroken, LoadingFailed
from shared_sync.protocol.messages import Entry, Fault, HandBack
from shared_sync.redis_consumer.faults import broken_worker
from shared_sync.redis_consumer.faults.broken_worker import BrokenWorker, Decision, Faults
from shared_sync.redis_consumer.faults.fatal_errors import FatalErrors
from shared_sync.redis_consumer.slot import Attempt

FAULT = RuntimeError("CUDA error: an illegal memory access was encountered")


# --- one reader ---------------------------------------------------------------------------------


class Scene:
    """A reader, and what became of its worker."""

    def __init__(self, *, has_child: bool = False) -> None:
        self.successes = 0
        self.replaced = 0
        self.ended: list[ConsumerBroken] = []
        self.worker = BrokenWorker(FatalErrors(), on_broken=self.ended.append)
        self.faults = Faults(
            self.worker,
            successes=lambda: self.successes,
            replace=self.replace if has_child else None,
        )
        self._attempts = 0

    def replace(self) -> None:
        self.replaced += 1

    def fail(self, entry: Entry, error: BaseException = FAULT) -> Decision | None:
        self._attempts += 1
        return self.faults.decide(entry, error, Attempt((entry,), self._attempts, 0.0))


def message(number: int = 1, *, faults: int = 0, crashes: int = 0) -> Entry:
    return Entry(f"{number}-0", [b"n", b"1"], deliveries=1 + crashes, history=b"\t" * faults)


CHARGED = Decision(None)


def noted(number: int = 1, delay_ms: int = 0) -> Decision:
    return Decision(Fault(f"{number}-0", delay_ms))


def test_a_failure_of_a_message_is_none_of_the_worker() -> None:
    scene = Scene()
    assert scene.fail(message(), ValueError("bad")) is None
    assert scene.ended == []


def test_the_first_fault_charges_nothing_and_ends_the_consumer_once() -> None:
    scene = Scene()
    assert scene.fail(message(1)) == noted(1)
    assert scene.fail(message(2)) == noted(2)
    (broken,) = scene.ended
    assert str(broken) == f"the worker is broken: RuntimeError: {FAULT}"
    assert broken.reason == "the worker is broken: RuntimeError"
    assert broken.exit_code == 70
    assert broken.__cause__ is FAULT


def test_what_else_fails_while_a_broken_worker_ends_goes_back_and_decisions_stay() -> None:
    scene = Scene()
    scene.fail(message(1))
    assert scene.fail(message(2), ValueError("the model is gone")) == Decision(HandBack("2-0"))
    assert scene.fail(message(3), Reject("bad input")) is None


@pytest.mark.parametrize("before", [message(faults=1), message(crashes=1)])
def test_a_message_that_broke_workers_before_is_charged_if_this_one_had_worked(
    before: Entry,
) -> None:
    scene = Scene()
    scene.successes = 1
    assert scene.fail(before) == CHARGED


def test_a_message_that_was_charged_with_a_fault_is_charged_with_each_further_one() -> None:
    assert Scene().fail(message(faults=1, crashes=1)) == CHARGED
    assert Scene().fail(message(crashes=1)) == noted(), "its process may have died of anything"


def test_a_worker_that_never_worked_charges_nothing_and_the_message_waits_longer_each_time() -> (
    None
):
    waits = []
    for faults in (0, 1, 2, 5, 20):
        decision = Scene().fail(message(faults=faults))
        assert decision is not None
        assert isinstance(decision.outcome, Fault)
        waits.append(decision.outcome.delay_ms / 1000)
    assert waits[0] == 0
    for wait, longest in zip(waits[1:], (10, 20, 160, 600), strict=True):
        assert 0.75 * longest <= wait <= longest


def test_each_message_of_a_batch_is_judged_by_one_fault_of_the_worker() -> None:
    scene = Scene(has_child=True)
    scene.successes = 1
    batch = [message(1), message(2, faults=1), message(3)]
    attempt = Attempt(batch, 1, 0.0)
    decisions = [scene.faults.decide(entry, FAULT, attempt) for entry in batch]
    assert decisions == [noted(1), CHARGED, noted(3)]
    assert (scene.replaced, scene.ended) == (1, [])


# --- with a child process -----------------------------------------------------------------------


def test_a_child_is_replaced_and_the_consumer_ends_if_the_next_one_breaks_at_once() -> None:
    scene = Scene(has_child=True)
    scene.fail(message(1))
    assert (scene.replaced, scene.ended) == (1, [])
    scene.fail(message(2))
    assert scene.replaced == 1
    assert len(scene.ended) == 1


def test_a_child_that_has_worked_is_replaced_each_time() -> None:
    scene = Scene(has_child=True)
    for number in range(5):
        scene.successes += 1
        scene.fail(message(number))
    assert (scene.replaced, scene.ended) == (5, [])


def test_a_message_that_breaks_the_next_child_as_well_is_suspected_first() -> None:
    scene = Scene(has_child=True)
    scene.successes = 1
    assert scene.fail(message(1)) == noted(1)
    decision = scene.fail(message(1, faults=1))
    assert decision is not None
    assert isinstance(decision.outcome, Fault), "this child had not worked"
    assert (scene.replaced, scene.ended) == (2, [])
    scene.successes += 1
    assert scene.fail(message(1, faults=2)) == CHARGED
    assert (scene.replaced, scene.ended) == (3, [])


def test_three_children_that_break_before_they_have_worked_end_the_consumer_in_any_case() -> None:
    scene = Scene(has_child=True)
    scene.successes = 1
    for faults in range(3):
        scene.fail(message(1, faults=faults))
    assert scene.replaced == 2
    assert len(scene.ended) == 1


def test_a_processor_that_cannot_be_loaded_again_because_of_a_fault_ends_the_consumer() -> None:
    scene = Scene()
    failure = LoadingFailed(1, "cuda:0", "no model")
    scene.worker.end_if_fatal(failure)
    assert scene.ended == []
    failure.__cause__ = FAULT
    scene.worker.end_if_fatal(failure)
    assert len(scene.ended) == 1


# --- a consumer ---------------------------------------------------------------------------------


def test_a_broken_worker_hands_everything_back_uncharged_and_says_why(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    figures = Figures()
    runs: list[str] = []

    def processor(message_id: str, _: object) -> None:
        runs.append(message_id)
        raise FAULT

    ids = producer.publish_many([{"n": number} for number in range(20)])
    consumer = make(processor, prefetch=10, metrics=figures)
    with pytest.raises(ConsumerBroken, match="illegal memory access") as raised:
        consumer.start_consuming()
    assert raised.value.exit_code == 70
    assert consumer.broken is raised.value
    assert runs == ids[:1], "nothing starts after the fault"
    assert owners(client) == {"~parked": 10}
    assert client.hgetall("{jobs}:workers:history") == {ids[0].encode(): b"\t"}
    rows = client.xpending_range(STREAM, GROUP, "-", "+", 100)
    assert {row["times_delivered"] for row in rows} == {0}
    assert figures.counters["worker_faults"] == 1
    assert figures.counters["jobs_handed_back"] == 10
    assert figures.counters["jobs_failed"] == figures.counters["jobs_retried"] == 0


def test_health_says_that_it_is_broken_with_the_text_in_the_details_only(
    make: Make, producer: RedisStreamProducer
) -> None:
    def processor(*_: object) -> None:
        raise WorkerBroken("the model in /secret/place is gone")

    producer.publish({"n": 1})
    consumer = make(processor)
    consumer.start()
    assert consumer.join(15)
    data = consumer.get_health_data()
    assert (data["status"], data["live"], data["ready"]) == ("unhealthy", False, False)
    assert data["reasons"] == ["the worker is broken: WorkerBroken", "stopped"]
    assert "/secret/place" in data["details"]["error"]
    assert isinstance(consumer.broken, ConsumerBroken)
    with pytest.raises(ConsumerBroken, match="/secret/place"):
        consumer.start_consuming()
    (left, *_) = consumer.get_group_view()["report"]["events"]
    assert left["text"] == "worker consumer-1 left: the worker is broken: WorkerBroken"


def test_others_that_run_may_finish_and_what_fails_like_it_goes_back_too(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    all_run = threading.Barrier(3)
    is_ending = threading.Event()

    def processor(_: str, job: dict[str, str]) -> str:
        all_run.wait(15)
        if job["n"] == "0":
            raise FAULT
        assert is_ending.wait(15)
        if job["n"] == "1":
            raise RuntimeError("CUDA error: device-side assert triggered")
        return "done"

    ids = producer.publish_many([{"n": number} for number in range(3)])
    consumer = make(processor, threads=3, prefetch=1, result_stream="results")
    consumer.start()
    eventually(lambda: consumer.broken is not None)
    is_ending.set()
    assert consumer.join(15)
    assert [one["message_id"] for one in results(client)] == [ids[2]]
    assert client.hgetall("{jobs}:workers:history") == {one.encode(): b"\t" for one in ids[:2]}
    assert owners(client) == {"~parked": 2}


def test_a_batch_that_meets_a_fault_goes_back_as_a_whole_and_is_not_run_by_halves(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    sizes: list[int] = []

    def processor(messages: Sequence[Message]) -> Sequence[object]:
        sizes.append(len(messages))
        raise FAULT

    ids = producer.publish_many([{"n": number} for number in range(8)])
    consumer = make(None, batch_processor=processor, batch=Batching(max_size=8))
    with pytest.raises(ConsumerBroken):
        consumer.start_consuming()
    assert len(sizes) == 1
    assert owners(client)["~parked"] >= sizes[0]
    history = client.hgetall("{jobs}:workers:history")
    assert history == {one.encode(): b"\t" for one in ids[: sizes[0]]}


def test_one_message_of_a_batch_may_say_that_the_worker_is_broken(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def processor(messages: Sequence[Message]) -> Sequence[object]:
        return [WorkerBroken("no device"), *("done" for _ in messages[1:])]

    producer.publish_many([{"n": number} for number in range(8)])
    consumer = make(None, batch_processor=processor, result_stream="results")
    with pytest.raises(ConsumerBroken, match="no device"):
        consumer.start_consuming()
    assert results(client) == [], "a result of a broken device is worth nothing"
    assert pending(client) == sum(owners(client).values())


def test_types_that_the_program_names_end_the_consumer(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    class DeviceLost(Exception):
        pass

    def processor(*_: object) -> None:
        raise ValueError("cannot transcribe") from DeviceLost("gone")

    producer.publish({"n": 1})
    consumer = make(processor, fatal_errors=["DeviceLost"])
    with pytest.raises(ConsumerBroken, match="DeviceLost: gone"):
        consumer.start_consuming()
    assert pending(client) == 1


def test_the_next_worker_takes_what_was_handed_back_at_once(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def broken(*_: object) -> None:
        raise FAULT

    producer.publish_many([{"n": number} for number in range(5)])
    consumer = make(broken)
    consumer.start()
    assert consumer.join(15)
    make(lambda *_: "done", result_stream="results").start()
    eventually(lambda: client.xlen("results") == 5)
    eventually(lambda: client.hlen("{jobs}:workers:history") == 0)


# --- a message that breaks every worker ---------------------------------------------------------


def test_a_message_that_breaks_every_worker_becomes_a_dead_letter_and_the_others_results(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broken_worker, "FIRST_DELAY_SECONDS", 0.05)
    lock, faults = threading.Lock(), 0

    class Device:
        """Once it has met the poison, everything fails on it."""

        def __init__(self) -> None:
            self.is_broken = False

        def __call__(self, _: str, job: dict[str, str]) -> str:
            nonlocal faults
            if job["n"] == "3":
                self.is_broken = True
            if self.is_broken:
                with lock:
                    faults += 1
                raise RuntimeError("CUDA error: device-side assert triggered")
            threading.Event().wait(0.02)
            return "done"

    def start() -> RedisStreamConsumer:
        consumer = make(Device(), result_stream="results", consumer_id=None)
        consumer.start()
        return consumer

    ids = producer.publish_many([{"n": number} for number in range(20)])
    crew = [start() for _ in range(3)]

    def supervise() -> bool:
        for place, consumer in enumerate(crew):
            if consumer.join(0):
                crew[place] = start()
        return pending(client) == 0 and client.xlen("results") == 20

    eventually(supervise, within=60)
    (letter,) = dead_letters(client)
    assert letter["dead.id"] == ids[3]
    assert letter["dead.reason"].startswith("crashed: its process died 3 times")
    assert letter["dead.crashes"] == "3"
    assert letter["dead.error_type"] == "RuntimeError"
    assert "device-side assert" in letter["dead.traceback"]
    done = {one["message_id"] for one in results(client) if one["status"] == "done"}
    assert done == {*ids} - {ids[3]}
    assert faults < 10
