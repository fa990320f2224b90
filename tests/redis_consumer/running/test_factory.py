"""A model per reader: loaded before anything is read, in its reader's thread, and closed there."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from consumers import STREAM, Make, dead_letters, owners, results
from helpers import BlockedHandler, Figures, Gate, ask, eventually, in_a_fork, start_program
from runners import raising

from shared_sync import HealthServer, ProcessorContext, RedisStreamConsumer, RedisStreamProducer
from shared_sync.errors import ConsumerIdInUse, ConsumerStateError, LoadingFailed
from shared_sync.redis_consumer import error_handling

HOLDERS = "{jobs}:workers:holders"
PRESENCE = "{jobs}:workers:presence"


Process = Callable[["Model", dict[str, str]], object]


class Model:
    """The processor of one reader; it writes down where it is used."""

    def __init__(self, factory: Factory, context: ProcessorContext) -> None:
        self.context = context
        self.number = len(factory.models) + 1
        self.made_in = self.closed_in = threading.get_ident()
        self.ran_in: set[int] = set()
        self.ran: list[str] = []
        self.closed = threading.Event()
        self._process = factory.process

    def process(self, message_id: str, message_data: dict[str, str]) -> object:
        self.ran_in.add(threading.get_ident())
        self.ran.append(message_id)
        return self._process(self, message_data)

    def close(self) -> None:
        self.closed_in = threading.get_ident()
        self.closed.set()


class Factory:
    """Makes models, and keeps them. What a reader's loading does is the test's to say."""

    def __init__(self, process: Process = lambda *_: "ok") -> None:
        self.process = process
        self.models: list[Model] = []
        self.on_load: dict[int, Callable[[], object]] = {}

    def __call__(self, context: ProcessorContext) -> Model:
        self.on_load.get(context.reader, lambda: None)()
        model = Model(self, context)
        self.models.append(model)
        return model

    def of(self, reader: int) -> list[Model]:
        return [model for model in self.models if model.context.reader == reader]


def states(consumer: RedisStreamConsumer) -> list[str]:
    """What each reader does, as a page shows it."""
    return sorted(row["state"] for row in consumer.get_views()["readers"]()["readers"])


def in_background(act: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Do something in a thread; what it returned or raised is in the list when it has ended."""
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(act())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ended


# --- loading ----------------------------------------------------------------------------------


def test_each_reader_has_a_processor_of_its_own_on_its_device_and_in_its_thread(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    both_run = threading.Barrier(4)

    def process(model: Model, _: object) -> str:
        both_run.wait(20)
        return str(model.context.device)

    factory, figures = Factory(process), Figures()
    consumer = make(
        None,
        processor_factory=factory,
        threads=4,
        devices=["cuda:0", "cuda:1", "cpu"],
        metrics=figures,
        result_stream="results",
        prefetch=1,
    )
    consumer.start()
    producer.publish_many({"n": n} for n in range(4))
    eventually(lambda: len(results(client)) == 4)
    assert sorted(one["result"] for one in results(client)) == ["cpu", "cuda:0", "cuda:0", "cuda:1"]
    contexts = [model.context for model in factory.models]
    assert [(one.reader, one.device) for one in contexts] == [
        (1, "cuda:0"),
        (2, "cuda:1"),
        (3, "cpu"),
        (4, "cuda:0"),
    ]
    contexts[0].metrics.increment_counter("loaded")
    assert figures.counters["loaded"] == 1
    assert figures.durations["processor_load"] == 4
    assert consumer.stop() is True
    for model in factory.models:
        assert model.closed.is_set()
        assert {model.made_in} == model.ran_in == {model.closed_in}
    assert len({model.made_in for model in factory.models}) == 4


def test_a_processor_may_record_whatever_it_likes_although_the_consumer_has_no_metrics(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def process(model: Model, _: object) -> str:
        metrics: Any = model.context.metrics
        metrics.increment_counter("words", 2, labels={"language": "de"})
        with metrics.timer("inference"):
            metrics.record_size("beams", 4)
        metrics.adjust_gauge("sessions", 1)
        metrics.record_error(ValueError("bad"))
        return "recorded"

    producer.publish({"n": 1})
    with make(None, processor_factory=Factory(process), result_stream="results"):
        eventually(lambda: [one["result"] for one in results(client)] == ["recorded"])


def test_a_start_returns_when_all_are_loaded_and_nothing_is_read_before(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    factory, gate = Factory(), Gate()
    factory.on_load[2] = gate
    consumer = make(None, processor_factory=factory, threads=2, consumer_id="w", lease_seconds=1)
    producer.publish({"n": 1})
    with HealthServer("stt-1", 0, None, consumer.get_health_data, host="127.0.0.1") as server:
        starting, ended = in_background(consumer.start)
        assert gate.entered.wait(10)
        assert client.hexists(HOLDERS, "w")
        lease_end = client.zscore(PRESENCE, "w")
        eventually(lambda: client.zscore(PRESENCE, "w") > lease_end + 1000)  # a lease further
        health = consumer.get_health_data()
        assert (health["live"], health["ready"], health["started"]) == (True, False, False)
        assert (health["status"], consumer.state) == ("degraded", "starting")
        (reason,) = health["reasons"]
        assert reason.startswith("starting: loading processors: 1 of 2 loaded, ")
        eventually(lambda: states(consumer) == ["loading", "loading"])
        assert ask(f"{server.url}/health/startup")[0] == 503
        assert ask(f"{server.url}/health/live")[0] == 200
        assert "1 of 2 loaded" in str(ask(f"{server.url}/health")[1]["reasons"])
        status, answer = ask(f"{server.url}/health/startup")  # from what /health has fetched
        assert (status, "1 of 2 loaded" in str(answer["reasons"])) == (503, True)
        assert client.xinfo_groups(STREAM)[0]["last-delivered-id"] == b"0-0"
        assert owners(client) == {}
        assert starting.is_alive()
        gate.opened.set()
        starting.join(10)
        assert ended == [None]
        assert consumer.state == "running"
        eventually(lambda: consumer.ready)
        assert consumer.get_health_data()["started"] is True
        eventually(lambda: ask(f"{server.url}/health/startup")[0] == 200)
        eventually(lambda: client.xlen(STREAM) == 0)


def test_nothing_is_loaded_while_redis_is_away_and_no_probe_restarts_the_worker_for_that(
    make: Make,
) -> None:
    factory = Factory()
    consumer = make(None, processor_factory=factory, url="redis://127.0.0.1:1")
    starting, ended = in_background(consumer.start_consuming)
    eventually(lambda: "starting: waiting for Redis" in consumer.get_health_data()["reasons"])
    health = consumer.get_health_data()
    assert (health["live"], health["ready"], health["started"]) == (True, False, True)
    assert factory.models == []
    assert consumer.stop() is True
    starting.join(10)
    assert ended == [True]


def test_a_handler_that_blocks_holds_up_no_start(make: Make) -> None:
    logger, handler = logging.Logger("blocked"), BlockedHandler()
    logger.addHandler(handler)
    consumer = make(None, processor_factory=Factory(), logger=logger)
    starting, ended = in_background(consumer.start)
    starting.join(20)
    assert ended == [None]
    assert handler.entered.is_set()
    assert consumer.stop() is True
    handler.opened.set()


def test_a_factory_may_stop_its_consumer(make: Make, client: redis.Redis) -> None:
    factory = Factory()
    consumer = make(None, processor_factory=factory, threads=2)
    factory.on_load[1] = consumer.stop
    consumer.start()
    eventually(lambda: consumer.state == "stopped")
    eventually(lambda: all(model.closed.is_set() for model in factory.models))
    assert [model.context.reader for model in factory.models] == [1]
    assert not client.exists(HOLDERS)


def test_an_import_path_is_loaded_at_the_start_and_a_wrong_one_ends_it(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "stt_models.py").write_text(
        "def run(message_id, message_data):\n    return 'run'\n\n"
        "def make(context):\n    return lambda *_: f'made for {context.reader}'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for processor, factory in ((None, "stt_models:make"), ("stt_models:run", None)):
        with make(processor, processor_factory=factory, result_stream="results"):
            producer.publish({"n": 1})
            eventually(lambda: client.xlen(STREAM) == 0)
    assert [one["result"] for one in results(client)] == ["made for 1", "run"]
    with pytest.raises(LoadingFailed, match="'stt_model:run': there is no module 'stt_model'"):
        make("stt_model:run").start()


def test_a_consumer_made_before_a_fork_loads_its_processors_in_the_process_that_starts_it(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    factory = Factory()
    consumer = make(None, processor_factory=factory, threads=2, consumer_id=None)
    producer.publish({"n": 1})

    def work() -> list[object]:
        consumer.start()
        eventually(lambda: any(model.ran for model in factory.models))
        return [consumer.stop(), *(model.closed.is_set() for model in factory.models)]

    assert in_a_fork(work) == [True, True, True]
    assert factory.models == []
    assert client.xlen(STREAM) == 0


# --- loading that fails -----------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), SystemExit(3)])
def test_a_factory_that_fails_ends_the_start_and_closes_what_was_loaded(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, error: BaseException
) -> None:
    factory = Factory()
    factory.on_load[2] = raising(error)
    consumer = make(
        None, processor_factory=factory, threads=3, devices=["cuda:0", "cuda:1"], consumer_id="w"
    )
    producer.publish({"n": 1})
    with pytest.raises(LoadingFailed) as raised:
        consumer.start()
    assert raised.value.__cause__ is error
    assert (raised.value.reader, raised.value.device) == (2, "cuda:1")
    what_failed = "the processor of reader 2 (cuda:1) could not be loaded"
    assert str(raised.value) == f"{what_failed}: {type(error).__name__}: {error}"
    (first,) = factory.models
    assert first.closed.is_set()
    assert first.closed_in == first.made_in
    assert consumer.state == "stopped"
    health = consumer.get_health_data()
    assert (health["live"], health["started"]) == (False, False)
    assert what_failed in health["reasons"]
    assert health["details"]["error"] == str(raised.value)
    assert not client.exists(HOLDERS)
    assert owners(client) == {}
    with pytest.raises(LoadingFailed):
        consumer.start()
    with make(lambda *_: None, consumer_id="w"):
        eventually(lambda: client.xlen(STREAM) == 0)


def test_a_name_that_is_lost_while_it_loads_is_the_error_of_the_start(
    make: Make, client: redis.Redis
) -> None:
    factory, gate = Factory(), Gate()
    factory.on_load[1] = gate
    consumer = make(None, processor_factory=factory, lease_seconds=1)
    starting, ended = in_background(consumer.start)
    assert gate.entered.wait(10)
    client.hset(HOLDERS, "consumer-1", "another process")
    starting.join(10)
    (error,) = ended
    assert isinstance(error, ConsumerIdInUse)
    gate.opened.set()


def test_start_consuming_raises_it_too_and_needs_no_signal(make: Make) -> None:
    factory = Factory()
    factory.on_load[1] = raising(OSError("no such file: model.bin"))
    with pytest.raises(LoadingFailed, match=r"OSError: no such file: model\.bin"):
        make(None, processor_factory=factory).start_consuming()


def test_what_a_factory_returns_is_checked_where_it_is_loaded(make: Make) -> None:
    async def process(_: str, __: object) -> None: ...

    consumer = make(None, processor_factory=lambda _: process)
    with pytest.raises(LoadingFailed, match="what processor_factory returned must be a plain func"):
        consumer.start()


# --- stopping while it loads ------------------------------------------------------------------


def test_a_stop_does_not_wait_for_what_loads_which_is_closed_when_it_is_there(
    make: Make, client: redis.Redis
) -> None:
    factory, gate = Factory(), Gate()
    factory.on_load[2] = gate
    consumer = make(None, processor_factory=factory, threads=3)
    starting, ended = in_background(consumer.start)
    assert gate.entered.wait(10)
    assert consumer.stop() is False
    starting.join(10)
    assert ended == [None]
    (first,) = factory.models
    assert first.closed.is_set()
    assert first.closed_in == first.made_in
    assert consumer.state == "stopped"
    assert not client.exists(HOLDERS)
    gate.opened.set()
    eventually(lambda: len(factory.models) == 2 and factory.models[1].closed.is_set())
    assert factory.models[1].closed_in == factory.models[1].made_in
    with pytest.raises(ConsumerStateError):
        consumer.start()


LOADING = """
    import ctypes, os, sys
    from shared_sync import RedisStreamConsumer

    class Model:
        def process(self, message_id, job): ...

        def close(self):
            os.write(1, b"closed\\n")

    def make(context):
        if context.reader == 1:
            return Model()
        print("loads", flush=True)
        ctypes.CDLL(None).sleep(600)

    consumer = RedisStreamConsumer(
        sys.argv[1], "jobs", "workers", "w", None, processor_factory=make, threads=2
    )
    try:
        print(getattr(consumer, sys.argv[2])(), consumer.state, flush=True)
    except KeyboardInterrupt:
        os.write(1, b"interrupted\\n")
"""


@pytest.mark.parametrize(
    ("call", "number", "printed"),
    [
        ("start_consuming", signal.SIGTERM, "False stopped"),
        ("start_consuming", signal.SIGINT, "False stopped"),
        ("start", signal.SIGINT, "interrupted"),
    ],
)
def test_a_signal_ends_the_program_at_once_although_a_reader_is_stuck_in_a_library(
    redis_url: str, client: redis.Redis, call: str, number: signal.Signals, printed: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(LOADING), redis_url, call]
    with start_program(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "loads\n"
        sent_at = time.monotonic()
        worker.send_signal(number)
        output, errors = worker.communicate(timeout=15)
        assert time.monotonic() - sent_at < 10, "it waits for neither 600 s nor drain_seconds"
    assert sorted(output.splitlines()) == sorted(["closed", printed]), errors
    assert worker.returncode == 0, errors
    assert not client.exists(HOLDERS)


@pytest.fixture
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between two attempts to load a processor anew."""
    monkeypatch.setattr(error_handling, "FIRST_LOADING_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(error_handling, "LONGEST_LOADING_PAUSE_SECONDS", 0.2)


# --- replacing --------------------------------------------------------------------------------


def test_a_processor_is_replaced_after_so_many_messages_and_none_is_lost(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    factory, figures = Factory(), Figures()
    ids = producer.publish_many({"n": n} for n in range(10))
    consumer = make(
        None,
        processor_factory=factory,
        max_jobs_per_processor=3,
        metrics=figures,
        prefetch=100,
        result_stream="results",
    )
    consumer.start()
    eventually(lambda: len(results(client)) == 10)
    assert consumer.stop() is True
    assert [len(model.ran) for model in factory.models] == [3, 3, 3, 1]
    assert [one for model in factory.models for one in model.ran] == ids
    for model in factory.models:
        assert model.closed.is_set()
        assert {model.made_in} == model.ran_in == {model.closed_in}
    assert figures.counters["processors_replaced"] == 3
    assert figures.counters["jobs_processed"] == 10
    assert figures.durations["processor_load"] == 4


def test_while_one_is_replaced_the_others_go_on_and_what_waited_for_it_is_theirs(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    factory, gate = Factory(), Gate()
    consumer = make(
        None, processor_factory=factory, max_jobs_per_processor=2, threads=2, prefetch=10
    )
    consumer.start()
    factory.on_load = {1: gate, 2: gate}  # whoever comes first
    producer.publish_many({"n": n} for n in range(30))
    assert gate.entered.wait(10)
    eventually(lambda: client.xlen(STREAM) == 0)
    assert gate.calls == 1
    eventually(lambda: states(consumer) == ["loading", "waiting"])
    assert consumer.ready
    factory.on_load = {}
    gate.opened.set()
    assert sum(len(model.ran) for model in factory.models) == 30


def test_a_reader_that_gets_no_new_one_reads_nothing_and_says_so_until_it_has_it(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    quick_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    factory = Factory()
    consumer = make(None, processor_factory=factory, max_jobs_per_processor=1, prefetch=10)
    consumer.start()
    failing = threading.Event()
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        failing.set()
        raise RuntimeError("no device")

    factory.on_load[1] = fail
    producer.publish_many({"n": n} for n in range(3))
    assert failing.wait(10)
    eventually(lambda: len(tries) >= 3)
    assert owners(client) == {}
    assert client.xlen(STREAM) == 2
    health = consumer.get_health_data()
    assert (health["live"], health["ready"], health["status"]) == (True, False, "degraded")
    assert any("consumer-1-reader-1 has no processor: loading" in one for one in health["reasons"])
    assert "no device" not in str(health["reasons"])
    assert "no reader is free: nothing is consumed" in health["reasons"]
    with make(lambda *_: None):  # another worker
        eventually(lambda: client.xlen(STREAM) == 0)
    factory.on_load = {}
    eventually(lambda: consumer.ready)
    producer.publish({"n": 4})
    eventually(lambda: client.xlen(STREAM) == 0)
    assert dead_letters(client) == []
    assert "consumer-1-reader-1 has a processor again" in caplog.text
    assert consumer.stop() is True


def test_while_one_gets_no_new_one_the_others_keep_theirs_and_go_on(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, quick_pauses: None
) -> None:
    factory, fail = Factory(), raising(OSError("gone"))
    consumer = make(None, processor_factory=factory, max_jobs_per_processor=1, threads=2)
    consumer.start()
    factory.on_load = {1: fail, 2: fail}
    producer.publish_many({"n": n} for n in range(20))
    eventually(lambda: "has no processor" in str(consumer.get_health_data().get("reasons")))
    eventually(lambda: client.xlen(STREAM) == 0)
    assert sum(len(model.ran) for model in factory.models) == 20
    assert sorted(model.closed.is_set() for model in factory.models) == [False, True]
    health = consumer.get_health_data()
    assert (health["ready"], health["status"]) == (True, "degraded")
    (reason,) = health["reasons"]
    assert "has no processor: loading a new one has failed" in reason
    assert consumer.stop() is True
    assert all(model.closed.is_set() for model in factory.models)


def test_a_drain_ends_while_a_reader_pauses_or_loads_anew(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    for on_load, clean in ((raising(OSError("gone")), True), (Gate(), False)):
        factory = Factory()
        consumer = make(None, processor_factory=factory, max_jobs_per_processor=1)
        consumer.start()
        factory.on_load[1] = on_load
        producer.publish({"n": 1})
        eventually(lambda one=factory.models[0]: one.closed.is_set())
        eventually(lambda: client.xlen(STREAM) == 0)
        if isinstance(on_load, Gate):
            assert on_load.entered.wait(10)
        else:
            eventually(lambda one=consumer: "has no processor" in str(one.get_health_data()))
        assert consumer.stop() is clean
        if isinstance(on_load, Gate):
            on_load.opened.set()
            eventually(lambda made=factory.models: len(made) == 2 and made[1].closed.is_set())
