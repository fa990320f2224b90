"""With isolation="process" each reader runs its attempts in a child, on which nothing depends."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import child_processors
import psutil
import pytest
import redis
from child_processes import children
from consumers import Make, dead_letters, owners, pending, results
from helpers import eventually

from shared_sync import RedisStreamConsumer, RedisStreamProducer, RetryPolicy, WorkerMetrics
from shared_sync.errors import ConfigurationError, LoadingFailed
from shared_sync.redis_consumer.running import isolation

ONCE = RetryPolicy(max_attempts=1)


class Records(logging.Handler):
    """Keeps the records that reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_a_result_comes_out_of_a_child(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    consumer = make(
        child_processors.answer,
        isolation="process",
        result_stream="results",
        carry_fields=["n"],
        binary_fields=["audio"],
    )
    consumer.start()
    sent = producer.publish({"n": "1", "audio": b"\xff\x00" * 50_000})
    (result,) = eventually_results(client, 1, decode=False)
    assert result.pop("pid") not in (str(os.getpid()), "")
    assert result == {
        "message_id": sent,
        "status": "done",
        "n": "1",
        "attempt": "1",
        "audio": (b"\xff\x00" * 50_000).decode(errors="replace"),
        "shared_sync.types": '{"bytes": ["audio"], "json": ["attempt", "pid"]}',
    }
    assert len(children()) == 1
    assert consumer.stop()
    assert children() == []


def eventually_results(
    client: redis.Redis, count: int, *, decode: bool = True
) -> list[dict[str, str]]:
    eventually(lambda: client.xlen("results") >= count)
    if decode:
        return results(client)
    return [
        {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
        for _, fields in client.xrange("results")
    ]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"do": "segfault"}, "killed by SIGSEGV"),
        ({"do": "exit", "code": 3}, "ended with exit code 3"),
        ({"do": "die", "signal": 9}, "killed by SIGKILL, perhaps by the system"),
    ],
)
def test_a_child_that_dies_costs_its_message_alone(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    message: dict[str, Any],
    reason: str,
) -> None:
    consumer = make(
        child_processors.act, isolation="process", result_stream="results", max_crashes=1
    )
    consumer.start()
    producer.publish_many([{"n": 1}, message, {"n": 2}])
    found = eventually_results(client, 3)
    assert [one["status"] for one in found] == ["done", "dead", "done"]
    (letter,) = dead_letters(client)
    assert reason in letter["dead.reason"]
    eventually(lambda: pending(client) == 0)
    assert consumer.live


def test_what_a_processor_decides_in_a_child_is_what_becomes_of_its_message(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    make(child_processors.act, isolation="process", result_stream="results", retry=ONCE).start()
    ids = producer.publish_many(
        [
            *({"do": "raise", "error": error} for error in ("value", "reject", "exit", "memory")),
            {"do": "give an object"},
            {"do": "nothing", "n": "6"},
        ]
    )
    by_id = {
        one["message_id"]: (one.get("error_type"), one.get("reason", one.get("result", "")))
        for one in eventually_results(client, 6)
    }
    found = [by_id[one] for one in ids]
    assert found[:4] == [
        ("ValueError", "failed 1 times"),
        ("Reject", "rejected: no use"),
        ("SystemExit", "failed 1 times"),
        ("MemoryError", "failed 1 times"),
    ]
    assert found[4][0] == "InvalidResult"
    assert found[4][1].startswith("bad result: field 'result' cannot be stored: result is of type")
    assert found[5] == (None, "6")
    assert "in _raise" in dead_letters(client)[0]["dead.traceback"]


@pytest.mark.parametrize("action", ["loop", "hold", "ignore the end"])
def test_a_job_past_its_deadline_is_ended_and_its_message_has_failed(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    tmp_path: Path,
    metrics: WorkerMetrics,
    action: str,
) -> None:
    consumer = make(
        child_processors.act,
        isolation="process",
        result_stream="results",
        job_deadline_seconds=0.3,
        kill_grace_seconds=0.5,
        retry=ONCE,
        metrics=metrics,
    )
    consumer.start()
    started = tmp_path / "started"
    producer.publish_many([{"do": action, "started": str(started), "seconds": "60"}, {"n": "2"}])
    dead, done = eventually_results(client, 2)
    assert dead["error_type"] == "deadline"
    assert done["result"] == "2"
    (letter,) = dead_letters(client)
    assert letter["dead.error"] == "still running after 0.3 s (job_deadline_seconds)"
    assert "child_processors.py" in letter["dead.traceback"]
    assert metrics.get_metrics_data()["children_overdue"] == 1


def test_the_end_at_a_deadline_lets_a_processor_clean_up(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, tmp_path: Path
) -> None:
    make(
        child_processors.act,
        isolation="process",
        job_deadline_seconds=0.3,
        retry=ONCE,
    ).start()
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"
    producer.publish({"do": "clean up", "started": str(started), "cleaned": str(cleaned)})
    eventually(lambda: len(dead_letters(client)) == 1)
    assert cleaned.exists()


def test_what_a_child_logs_reaches_the_loggers_of_its_parent(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    records = Records()
    logger = logging.getLogger("app.speech")
    logger.addHandler(records)
    logger.setLevel(logging.INFO)
    try:
        make(child_processors.act, isolation="process", result_stream="results").start()
        sent = producer.publish({"do": "log", "n": 7})
        eventually(lambda: len(records.records) == 2)
    finally:
        logger.removeHandler(records)
        logger.setLevel(logging.NOTSET)
    hello, failed = records.records
    assert hello.getMessage() == "hello 7"
    assert (hello.levelname, hello.name, hello.funcName) == ("INFO", "app.speech", "_log")
    assert hello.message_id == sent  # type: ignore[attr-defined]
    assert hello.language == "de"  # type: ignore[attr-defined]
    assert hello.process != os.getpid()
    assert "ValueError: invalid literal" in (failed.exc_text or "")


def test_a_child_that_has_grown_too_large_is_replaced(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, metrics: WorkerMetrics
) -> None:
    consumer = make(
        child_processors.act,
        isolation="process",
        result_stream="results",
        max_memory_mb=150,
        metrics=metrics,
    )
    consumer.start()
    (first,) = children_after_start()
    producer.publish({"do": "grow", "megabytes": 150})
    (grown,) = eventually_results(client, 1)
    assert grown["result"] == str(first.pid)
    eventually(lambda: metrics.get_metrics_data().get("children_oversized") == 1)
    eventually(lambda: [one.pid for one in children()] not in ([], [first.pid]))
    producer.publish({"do": "grow", "megabytes": 1})
    assert eventually_results(client, 2)[1]["result"] == str(children()[0].pid)
    consumer.stop()
    assert "children_crashed" not in metrics.get_metrics_data()


def children_after_start() -> list[psutil.Process]:
    eventually(children)
    return children()


def test_a_child_is_replaced_after_so_many_messages(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    make(
        child_processors.answer,
        isolation="process",
        result_stream="results",
        max_jobs_per_processor=2,
    ).start()
    producer.publish_many([{"n": number} for number in range(4)])
    pids = [one["pid"] for one in eventually_results(client, 4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_each_child_sees_the_device_of_its_reader_alone(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    make(
        None,
        processor_factory=child_processors.closing,
        isolation="process",
        result_stream="results",
        threads=2,
        devices=["cuda:0", "cuda:1"],
        prefetch=1,
    ).start()
    producer.publish_many([{"meet": str(tmp_path), "readers": 2}] * 2)
    found = {(one["reader"], one["device"], one["cuda"]) for one in eventually_results(client, 2)}
    assert found == {("1", "cuda:0", "5"), ("2", "cuda:0", "7")}


def test_a_child_that_dies_while_it_is_idle_costs_no_message_anything(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, metrics: WorkerMetrics
) -> None:
    consumer = make(
        child_processors.act, isolation="process", result_stream="results", metrics=metrics
    )
    consumer.start()
    (first,) = children_after_start()
    first.kill()
    eventually(lambda: metrics.get_metrics_data().get("children_crashed") == 1)
    producer.publish({"n": "1"})
    assert eventually_results(client, 1)[0]["result"] == "1"
    assert metrics.get_metrics_data()["jobs_failed"] == 0


def test_what_a_child_records_arrives_in_the_registry_of_its_parent(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, metrics: WorkerMetrics
) -> None:
    consumer = make(
        None,
        processor_factory=child_processors.closing,
        isolation="process",
        result_stream="results",
        metrics=metrics,
    )
    consumer.start()
    producer.publish_many([{"n": 1}, {"n": 2}])
    eventually_results(client, 2)
    data = metrics.get_metrics_data()
    assert (data["words"], data["inference_count"], data["beams"]) == (6, 2, 5)


def test_a_processor_that_cannot_be_loaded_ends_the_start_with_its_error(make: Make) -> None:
    consumer = make(
        None, processor_factory=child_processors.failing, isolation="process", threads=2
    )
    with pytest.raises(LoadingFailed, match=r"OSError: model\.bin is damaged"):
        consumer.start()
    eventually(lambda: children() == [])


def test_a_level_that_is_changed_later_is_the_child_s_too(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolation, "LEVELS_SECONDS", 0.0)
    make(child_processors.act, isolation="process", result_stream="results").start()
    logger, records = logging.getLogger("app.speech"), Records()
    logger.addHandler(records)
    try:
        producer.publish({"do": "log", "n": 1})
        eventually(lambda: pending(client) == 0 and client.xlen("jobs") == 0)
        logger.setLevel(logging.CRITICAL)
        producer.publish({"do": "log", "n": 0})
        eventually(lambda: pending(client) == 0 and client.xlen("jobs") == 0)
        logger.setLevel(logging.NOTSET)
        logging.getLogger("app").setLevel(logging.DEBUG)
        producer.publish({"do": "log", "n": 2})
        eventually(lambda: "too much" in [record.getMessage() for record in records.records])
    finally:
        logger.removeHandler(records)
        for name in ("app", "app.speech"):
            logging.getLogger(name).setLevel(logging.NOTSET)


def test_code_that_holds_the_interpreter_lock_holds_up_no_other_thread(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, tmp_path: Path
) -> None:
    """In a thread, no other thread would run for as long as each call takes: 0.9 s."""
    make(child_processors.act, isolation="process", result_stream="results").start()
    started = tmp_path / "started"
    producer.publish({"do": "hold", "started": str(started), "seconds": "1"})
    eventually(started.exists)
    turns, pause = 0, threading.Event()
    while not client.xlen("results"):
        pause.wait(0.005)
        turns += 1
    assert turns > 20


def test_a_circuit_breaker_counts_what_happens_in_all_children(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, tmp_path: Path
) -> None:
    """The parent owns it: what its copies in the children count arrives there."""
    breaker = child_processors.TRANSLATOR
    consumer = make(
        child_processors.translate,
        isolation="process",
        threads=2,
        result_stream="results",
        circuit_breakers=[breaker],
        retry=RetryPolicy(max_attempts=3, base_seconds=0.01, jitter=0),
    )
    consumer.start()
    works = tmp_path / "works"
    producer.publish_many([{"works": str(works)}] * 6)
    eventually(lambda: breaker.snapshot().openings == 1)
    works.touch()
    assert [one["result"] for one in eventually_results(client, 6)] == ["translated"] * 6
    assert breaker.state == "closed"
    assert dead_letters(client) == []


def test_a_processor_that_cannot_be_imported_is_refused(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="cannot be imported by a child process"):
        make(lambda *_: None, isolation="process")


def test_a_logger_of_another_kind_is_refused_with_what_it_may_be(make: Make) -> None:
    class Printer:
        def log(self, *_: object) -> None: ...
        def isEnabledFor(self, _: int) -> bool:  # noqa: N802 - as loggers have it
            return True

    make(child_processors.act, logger=Printer())
    with pytest.raises(ConfigurationError, match=r"logger must be a logging\.Logger, or an adap"):
        make(child_processors.act, logger=Printer(), isolation="process")


def test_a_job_that_outlasts_the_drain_is_ended_and_goes_back(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, tmp_path: Path
) -> None:
    consumer = make(child_processors.act, isolation="process")
    consumer.start()
    started = tmp_path / "started"
    producer.publish({"do": "hold", "started": str(started), "seconds": "60"})
    eventually(started.exists)
    assert consumer.stop(timeout=0.1)
    assert children() == []
    assert owners(client) == {"~parked": 1}
    assert dead_letters(client) == []


def test_stopping_ends_the_children(make: Make) -> None:
    consumer: RedisStreamConsumer = make(child_processors.act, isolation="process", threads=2)
    consumer.start()
    eventually(lambda: len(children()) == 2)
    consumer.stop()
    assert children() == []
