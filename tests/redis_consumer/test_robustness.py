"""No error of whatever kind, from wherever, ends a reader silently or costs a message."""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from collections import Counter
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import redis
from consumers import STREAM, Make, results
from helpers import eventually

from shared_sync import RedisStreamProducer, RetryPolicy, WorkerMetrics
from shared_sync.connection import connection as redis_connection
from shared_sync.errors import ConsumerBroken
from shared_sync.redis_consumer import lifecycle, recovery


class OwnKind(BaseException):
    """Of no kind that anybody would expect."""


KINDS = (ValueError, SystemExit, KeyboardInterrupt, MemoryError, RecursionError, OwnKind)


class RaisingFigures:
    """Metrics that raise whatever is recorded."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def increment_counter(self, name: str, value: float = 1) -> None:
        raise self.kind

    def record_duration(self, name: str, seconds: float) -> None:
        raise self.kind

    def set_gauge(self, name: str, value: float) -> None:
        raise self.kind


class Unencodable:
    """A result that raises when it is written."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def keys(self) -> object:
        raise self.kind

    def __getitem__(self, name: str) -> object:
        raise self.kind


class RaisingHandler(logging.Handler):
    """A log that raises whatever is written."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__()
        self.kind = kind

    def emit(self, record: logging.LogRecord) -> None:
        raise self.kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("where", ["processor", "result", "metrics", "logger"])
def test_whatever_raises_wherever_the_pool_keeps_all_its_readers_and_works(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    where: str,
    kind: type[BaseException],
) -> None:
    def processor(_: str, job: dict[str, str]) -> object:
        if job["n"] == "bad" and where == "processor":
            raise kind
        if job["n"] == "bad" and where == "result":
            return MappingProxyType(Unencodable(kind))
        if job["n"] == "bad":
            raise ValueError("so that there is something to log")
        return "done"

    logger = logging.getLogger(f"raising.{kind.__name__}")
    logger.propagate = False
    handler = RaisingHandler(kind)
    if where == "logger":
        logger.addHandler(handler)
    producer.publish_many({"n": "bad" if n % 3 == 0 else "good"} for n in range(9))
    try:
        consumer = make(
            processor,
            logger=logger,
            metrics=RaisingFigures(kind) if where == "metrics" else None,
            threads=2,
            prefetch=3,
            retry=RetryPolicy(max_attempts=2, base_seconds=0.01),
            result_stream="results",
        )
        consumer.start()
        eventually(lambda: client.xlen(STREAM) == 0)
        statuses = Counter(answer["status"] for answer in results(client))
        assert statuses == {"done": 6, "dead": 3}
        assert consumer.live
        assert consumer.get_health_data()["readers_alive"] == 2
        assert consumer.stop() is True
    finally:
        logger.removeHandler(handler)


def test_a_message_whose_attempt_came_to_no_outcome_is_run_again(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when there is no memory left to say what it came to; nor for anything else just then."""
    monkeypatch.setattr(redis_connection, "REPLY_MARGIN_SECONDS", 0.2)
    monkeypatch.setattr(recovery, "INTERVAL_SECONDS", 0.2)
    runs: list[str] = []
    consumer = make(lambda message_id, _: runs.append(message_id), block_seconds=0.05)
    pool = consumer._life.pool
    (reader,) = pool.readers
    delivery, end_attempt = reader._delivery, reader.slot.end_attempt
    run = delivery.run

    def fails_once(*arguments: Any) -> Any:
        outcome = run(*arguments)
        if len(runs) == 1:
            raise MemoryError
        return outcome

    ends: list[None] = []

    def fails_at_first() -> None:
        ends.append(None)
        if len(ends) == 1:
            raise MemoryError
        end_attempt()

    monkeypatch.setattr(delivery, "run", fails_once)
    monkeypatch.setattr(reader.slot, "end_attempt", fails_at_first)
    message_id = producer.publish({"n": 1})
    consumer.start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert runs == [message_id] * 2
    eventually(lambda: not pool._in_flight.ids(pool.subscriptions[0].commands.keys))


# An error that strikes while a connection is made leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_error_thrown_into_a_reader_does_not_end_it(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it strikes: such is KeyboardInterrupt, or a debugger's way to stop a thread."""
    monkeypatch.setattr(redis_connection, "REPLY_MARGIN_SECONDS", 0.5)
    # Thrown in at the wrong moment it would leave a log handler's lock taken for ever.
    silent = logging.Logger("silent")
    silent.disabled = True
    options = {"threads": 2, "block_seconds": 0.05, "lease_seconds": 2, "logger": silent}
    consumer = make(lambda *_: None, **options)
    consumer.start()
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    readers = [thread for thread in threading.enumerate() if "-reader-" in thread.name]
    for number in range(60):
        producer.publish({"n": number})
        throw(ctypes.c_ulong(readers[number % 2].ident or 0), ctypes.py_object(OwnKind))
    eventually(lambda: client.xlen(STREAM) == 0, within=30)
    assert consumer.live
    assert all(reader.is_alive() for reader in readers)
    gc.collect()


def test_a_pool_that_lost_a_thread_says_so_and_start_consuming_raises(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "CHECK_SECONDS", 0.05)
    consumer = make(lambda *_: None, threads=2, block_seconds=0.1)
    raised: list[ConsumerBroken] = []

    def consume() -> None:
        try:
            consumer.start_consuming()
        except ConsumerBroken as error:
            raised.append(error)

    runner = threading.Thread(target=consume, daemon=True)
    runner.start()
    eventually(lambda: consumer.state == "running")
    # No error ends a loop, so it is ended by hand, as a defect in the interpreter might.
    consumer._life.pool.reader_loops[0]._stop = SimpleNamespace(is_set=lambda: True)
    eventually(lambda: not consumer.live)
    assert "reader-1" in consumer.get_health_data()["reasons"][0]
    runner.join(20)
    assert "reader-1" in str(raised[0])
    assert consumer.state == "stopped"


def test_a_wrong_metric_costs_no_message(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    metrics = WorkerMetrics("stt-1")

    def processor(_: str, fields: dict[str, Any]) -> dict[str, str]:
        metrics.set_gauge("wer", float("nan"))
        metrics.record_duration("decoding", -0.2)
        metrics.increment_counter("words", -1)
        metrics.increment_counter("answers", labels={"code": None, "language": 3})  # type: ignore[dict-item]
        metrics.increment_counter("answers", labels={"tongue": "en"})
        with metrics.timer("model inference"):
            return {"text": fields["text"]}

    producer.publish_many([{"text": str(number)} for number in range(20)])
    with make(processor, metrics=metrics, result_stream="results"):
        eventually(lambda: client.xlen(STREAM) == 0)
        eventually(lambda: metrics.get_metrics_data().get("jobs_processed") == 20)
    data = metrics.get_metrics_data()
    assert sorted(int(row["text"]) for row in results(client)) == list(range(20))
    assert (data["metrics_rejected"], data["total_errors"]) == (100, 0)
    assert data["answers{code=unknown,language=3}"] == 20
