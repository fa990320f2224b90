"""What the Python blocks of the documentation need around them: names, workers, checks afterwards.

A context belongs to the blocks below one heading of a page. It yields the names that the blocks
use, and gets their names back in the same dict. Blocks without a context run as they stand.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis
from helpers import eventually

from shared_sync import (
    ConsumerBroken,
    HealthServer,
    RedisStreamConsumer,
    RedisStreamProducer,
    RetryPolicy,
    WorkerBroken,
    WorkerMetrics,
    current_message,
)

Names = dict[str, Any]
Context = Callable[["Examples"], Iterator[Names]]
LOGGER = logging.getLogger("documented")
STREAM, GROUP = "audio:jobs", "stt-workers"
AUDIO = b"RIFF: some speech"
CONTEXTS: dict[tuple[str, str], Context] = {}


class Examples:
    """A Redis for the blocks, with workers that end with the test."""

    def __init__(self, url: str, client: redis.Redis, stack: ExitStack) -> None:
        self.url = url
        self.client = client
        self._stack = stack
        self.made: list[RedisStreamConsumer] = []
        """The consumers that the blocks have made."""

    def publish(self, *messages: dict[str, object], stream: str = STREAM) -> None:
        self.jobs(stream).publish_many(messages)

    def jobs(self, stream: str = STREAM) -> RedisStreamProducer:
        return self._stack.enter_context(RedisStreamProducer(self.url, stream))

    def consumer(
        self, processor: Callable[..., object], stream: str = STREAM, **options: Any
    ) -> RedisStreamConsumer:
        options = {"binary_fields": ("audio",), **options}
        return RedisStreamConsumer(self.url, stream, GROUP, None, LOGGER, processor, **options)

    def worker(
        self, processor: Callable[..., object], stream: str = STREAM, **options: Any
    ) -> None:
        """Run a worker until the test ends."""
        self._stack.enter_context(self.consumer(processor, stream, **options))

    def run(self, consumer: RedisStreamConsumer) -> None:
        """Start, process what waits, and stop: what `start_consuming()` does here."""
        consumer.start()
        try:
            eventually(lambda: consumer.broken or not consumer.live or self._is_empty(consumer))
        finally:
            consumer.stop()
        if consumer.broken:
            raise consumer.broken

    def _is_empty(self, consumer: RedisStreamConsumer) -> bool:
        return self.client.xlen(consumer.stream_name) == 0

    def constructor(self, *last: Callable[..., object]) -> Callable[..., RedisStreamConsumer]:
        """Return RedisStreamConsumer for blocks that leave out arguments: `(..., threads=2)`."""

        def construct(*given: Any, **options: Any) -> RedisStreamConsumer:
            positional = [argument for argument in given if argument is not ...]
            return RedisStreamConsumer(
                self.url, STREAM, GROUP, None, LOGGER, *(positional or last), **options
            )

        return construct


def context(page: str, heading: str) -> Callable[[Context], Context]:
    def register(function: Context) -> Context:
        CONTEXTS[page, heading] = function
        return function

    return register


def context_of(page: str, heading: str) -> Context:
    return CONTEXTS.get((page, heading), nothing)


def nothing(examples: Examples) -> Iterator[Names]:
    yield {}


def answer(message_id: str, job: dict[str, Any]) -> dict[str, object]:
    return {"text": f"{len(job['audio'])} bytes of speech"}


# --- configuration.md -------------------------------------------------------------------------


@context("docs/configuration.md", "Batches")
def batches(examples: Examples) -> Iterator[Names]:
    heard: list[bytes] = []

    def transcribe(audio: list[bytes]) -> list[str]:
        heard.extend(audio)
        return ["hello"] * len(audio)

    examples.publish({"audio": AUDIO}, {"audio": AUDIO})
    yield {"model": types.SimpleNamespace(transcribe=transcribe)}
    (consumer,) = examples.made
    examples.run(consumer)
    assert heard == [AUDIO, AUDIO]


@context("docs/configuration.md", "A model per reader")
def a_model_per_reader(examples: Examples) -> Iterator[Names]:
    loaded = []

    def load_model(name: str, device: str) -> types.SimpleNamespace:
        loaded.append(device)
        return types.SimpleNamespace(transcribe=len, unload=lambda: loaded.remove(device))

    examples.publish({"audio": AUDIO})
    names: Names = {"load_model": load_model}
    yield names
    assert loaded == []
    assert examples.client.xlen(STREAM) == 0


@context("docs/configuration.md", "When a worker is broken")
def a_broken_worker(examples: Examples) -> Iterator[Names]:
    def process(message_id: str, job: Names) -> None:
        raise WorkerBroken("the GPU is gone")

    examples.publish({"audio": AUDIO})
    names = {"ConsumerBroken": ConsumerBroken, "logger": LOGGER, "sys": sys}
    with pytest.raises(SystemExit) as ended:
        yield names | {"consumer": examples.consumer(process)}
    assert ended.value.code == 70


@context("docs/configuration.md", "Starting")
def starting(examples: Examples) -> Iterator[Names]:
    yield {
        "HealthServer": HealthServer,
        "logger": LOGGER,
        "metrics": WorkerMetrics("stt-1"),
        "consumer": examples.consumer(answer),
        "load_model": object,
    }


@context("docs/configuration.md", "In asyncio")
def in_asyncio(examples: Examples) -> Iterator[Names]:
    def process(message_id: str, job: Names) -> None:
        threading.Thread(target=examples.made[0].stop).start()

    examples.publish({"audio": AUDIO})
    names: Names = {"consumer": examples.consumer(process)}
    yield names
    assert examples.client.xlen(STREAM) == 0

    async def serve() -> None:
        names["consumer"] = examples.consumer(answer)
        async with names["lifespan"](None):
            assert names["consumer"].ready

    asyncio.run(serve())


@context("docs/configuration.md", "DeadLetters")
def dead_letters(examples: Examples) -> Iterator[Names]:
    def process(message_id: str, job: Names) -> None:
        raise RuntimeError(job["text"])

    examples.publish({"text": "CUDA error"}, {"text": "something else"})
    examples.run(examples.consumer(process, retry=RetryPolicy(max_attempts=1)))
    yield {}
    assert [fields for _, fields in examples.client.xrange(STREAM)] == [{b"text": b"CUDA error"}]


@context("docs/configuration.md", "Circuit breakers")
def circuit_breakers(examples: Examples) -> Iterator[Names]:
    said = []

    class Answer:
        def json(self) -> dict[str, str]:
            return {"text": "hola"}

        def raise_for_status(self) -> None:
            said.append("ok")

    yield {
        "requests": types.SimpleNamespace(
            ConnectionError=ConnectionError,
            Timeout=TimeoutError,
            post=lambda url, **_: Answer(),
            get=lambda url, **_: Answer(),
        ),
        "URL": "http://translator/",
        "RedisStreamConsumer": examples.constructor(),
        "print": said.append,
    }
    assert said == ["hola", "ok"]
    examples.publish({"text": "hello"})
    examples.run(examples.made[0])


@context("docs/configuration.md", "Passwords that change")
def passwords(examples: Examples) -> Iterator[Names]:
    class Secret:
        def __init__(self, path: str) -> None:
            assert path == "/run/secrets/redis"

        def read_text(self) -> str:
            return "secret\n"

    names: Names = {"Path": Secret, "RedisStreamProducer": RedisStreamProducer}
    examples.client.acl_setuser(
        "worker", enabled=True, passwords=["+secret"], categories=["+@all"], keys=["*"]
    )
    yield names
    with names["producer"] as producer:
        assert producer.publish({"audio": AUDIO})
    examples.client.acl_deluser("worker")


# --- health.md, metrics.md --------------------------------------------------------------------


@context("docs/health.md", "Health")
def health(examples: Examples) -> Iterator[Names]:
    examples.publish({"audio": AUDIO})
    yield {
        "logger": LOGGER,
        "consumer": examples.consumer(answer),
        "metrics": WorkerMetrics("stt-1"),
        "model": object(),
    }


@context("docs/health.md", "No request waits for your code")
def views(examples: Examples) -> Iterator[Names]:
    with HealthServer("stt-1", 0, LOGGER, lambda: {}) as server:
        yield {"consumer": examples.consumer(answer), "server": server}


@context("docs/health.md", "Acting from the page")
def acting_from_the_page(examples: Examples) -> Iterator[Names]:
    names: Names = {"consumer": examples.consumer(answer)}
    yield names
    with names["server"], names["actions"]:
        assert names["server"].port


@context("docs/metrics.md", "Metrics")
def metrics(examples: Examples) -> Iterator[Names]:
    names: Names = {"error": ValueError("bad audio")}
    yield names
    assert names["metrics"].get_metrics_data()["words_heard"] == 12


# --- jobs.md ----------------------------------------------------------------------------------


@context("docs/jobs.md", "Request and result")
def request_and_result(examples: Examples) -> Iterator[Names]:
    said: list[tuple[object, ...]] = []
    examples.worker(answer)
    yield {"wav_bytes": AUDIO, "print": lambda *words: said.append(words)}
    assert said[0] == ("17 bytes of speech",)
    assert said[2] == ({"text": "17 bytes of speech"},)


@context("docs/jobs.md", "In asyncio")
def results_in_asyncio(examples: Examples) -> Iterator[Names]:
    examples.worker(answer)
    names: Names = {"jobs": examples.jobs()}
    yield names
    assert asyncio.run(names["transcribe"](AUDIO)).ok
    names["executor"].shutdown()


@context("docs/jobs.md", "All results of a stream")
def all_results(examples: Examples) -> Iterator[Names]:
    class Received(Exception):
        """Ends the loop over the results, which has no end."""

    def received(*result: object) -> None:
        raise Received(result)

    examples.worker(answer, result_stream="audio:transcripts")
    ended = threading.Event()

    def publish() -> None:
        with RedisStreamProducer(examples.url, STREAM) as producer:
            while not ended.wait(0.05):
                producer.publish({"audio": AUDIO})

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        with pytest.raises(Received) as result:
            yield {"print": received}
    finally:
        ended.set()
        publishing.join()
    _, status, fields = result.value.args[0]
    assert (status, fields) == ("done", {"text": "17 bytes of speech"})


@context("docs/jobs.md", "Pipelines")
def pipelines(examples: Examples) -> Iterator[Names]:
    names: Names = {"recognize": lambda audio: "hello"}
    yield names
    examples.worker(names["transcribe"], "{speech}:audio")
    examples.worker(lambda _, job: {"spanish": f"hola ({job['text']})"}, "{speech}:texts")
    result = examples.jobs("{speech}:audio").request({"audio": AUDIO}, timeout=20)
    assert result.fields == {"spanish": "hola (hello)"}


@context("docs/jobs.md", "Expiry")
def expiry(examples: Examples) -> Iterator[Names]:
    yield {
        "jobs": examples.jobs(),
        "wav_bytes": AUDIO,
        "RedisStreamConsumer": examples.constructor(answer),
    }


@context("docs/jobs.md", "Cancellation")
def cancellation(examples: Examples) -> Iterator[Names]:
    names: Names = {
        "jobs": examples.jobs(),
        "wav_bytes": AUDIO,
        "current_message": current_message,
        "sentences": str.split,
    }
    yield names
    examples.worker(answer)
    assert names["handle"].result(timeout=20).status == "cancelled"
    examples.worker(names["translate"], "texts")
    assert examples.jobs("texts").request({"text": "one two"}, timeout=20).ok


@context("docs/jobs.md", "Progress")
def progress(examples: Examples) -> Iterator[Names]:
    names: Names = {
        "current_message": current_message,
        "recognize_from": lambda audio, start: [(0.5, "hel"), (1.0, "hello")],
    }
    yield names
    examples.worker(names["transcribe"])
    assert examples.jobs().request({"audio": AUDIO}, timeout=20).fields == {"text": "hello"}


@context("docs/jobs.md", "Publishing")
def publishing(examples: Examples) -> Iterator[Names]:
    yield {"jobs": examples.jobs(), "wav_bytes": AUDIO, "request_id": "r1"}
    assert examples.client.xlen(STREAM) == 3


# --- migration.md -----------------------------------------------------------------------------


@context("docs/migration.md", "From asyncio modules of the same names")
def from_asyncio(examples: Examples) -> Iterator[Names]:
    examples.publish({"audio": AUDIO})
    names: Names = {"model": types.SimpleNamespace(transcribe=lambda audio: "hello")}
    yield names
    assert names["metrics"].get_metrics_data()["successful_transcriptions"] == 1


@context("docs/migration.md", "A loop")
def a_loop_on_redis_py(examples: Examples) -> Iterator[Names]:
    class Finished(Exception):
        """Ends the loop, which has no end."""

    def transcribe(audio: bytes) -> str:
        if examples.client.xlen("audio:transcripts"):
            raise Finished
        return "hello"

    examples.publish({"audio": AUDIO}, {"audio": AUDIO})
    examples.client.xgroup_create(STREAM, GROUP, "0")
    with pytest.raises(Finished):
        yield {"client": examples.client, "transcribe": transcribe}
    assert examples.client.xpending(STREAM, GROUP)["pending"] == 1


@context("docs/migration.md", "The same here")
def the_same_as_the_loop(examples: Examples) -> Iterator[Names]:
    examples.publish({"audio": AUDIO})
    yield {"transcribe": lambda audio: "hello"}
    ((_, fields),) = examples.client.xrange("audio:transcripts")
    assert fields[b"text"] == b"hello"


@context("docs/migration.md", "From Celery, dramatiq or RQ")
def several_kinds_of_work(examples: Examples) -> Iterator[Names]:
    examples.publish({"task": "resize", "width": "20"}, {"task": "fly"}, stream="images")
    names: Names = {}
    yield names
    assert examples.client.xlen("{images}:image-workers:dead") == 1


def running(examples: Examples, page: str, heading: str) -> Any:
    """Return the context of the blocks, as a context manager."""
    return contextmanager(context_of(page, heading))(examples)
