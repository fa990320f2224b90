"""What a program's exporter gets of a message that is published, waits, runs and is settled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import redis
import traced_processors
from consumers import Make
from helpers import ENVIRONMENT, eventually
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from shared_sync import (
    Batching,
    ConfigurationError,
    Job,
    RedisStreamConsumer,
    RedisStreamProducer,
    RetryPolicy,
)
from shared_sync.common.trace_context import is_traceparent
from shared_sync.logging import AttemptFilter
from shared_sync.testing import Faults
from shared_sync.tracing import configure, sdk

CONSOLE = EntryPoint("console", "opentelemetry.sdk.trace.export:ConsoleSpanExporter", "")
GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SOON = RetryPolicy(base_seconds=0.01)


class Spans:
    """What the exporter of the program has got, with the newest last."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self, name: str = "") -> list[ReadableSpan]:
        return [one for one in self.exporter.get_finished_spans() if one.name.startswith(name)]

    def one(self, name: str) -> ReadableSpan:
        (found,) = self.all(name)
        return found


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def producer(redis_url: str, spans: Spans) -> Iterator[RedisStreamProducer]:
    with RedisStreamProducer(redis_url, "jobs", tracing=spans.provider) as made:
        yield made


@pytest.fixture
def application(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what the processor asks for be the tracer of the same provider."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context(span: ReadableSpan) -> Any:
    return span.get_span_context()


def parent(span: ReadableSpan) -> Any:
    return None if span.parent is None else span.parent.span_id


def options_of(client: redis.Redis, stream: str) -> list[dict[str, Any]]:
    entries = client.xrange(stream)
    return [json.loads(fields[b"shared_sync.options"]) for _, fields in entries]


@pytest.mark.usefixtures("application")
def test_a_message_is_one_trace_from_its_publisher_to_the_settling_of_each_attempt(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    spans: Spans,
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.handler.addFilter(AttemptFilter())
    make(traced_processors.work, tracing=spans.provider, retry=SOON, result_stream="done").start()
    with spans.provider.get_tracer("gateway").start_as_current_span("upload"):
        message_id = producer.publish({"fail": "1", "emit": "next"})
    eventually(lambda: len(spans.all("settle")) == 2)
    upload, published, wait = spans.one("upload"), spans.one("publish"), spans.one("wait")
    (failed, done), (parked, settled) = spans.all("process"), spans.all("settle")
    first_work, work = spans.all("app work")
    ours = [published, wait, failed, done, parked, settled, first_work, work, *spans.all("emit")]
    assert {context(one).trace_id for one in ours} == {context(upload).trace_id}
    assert parent(published) == context(upload).span_id
    for one in (wait, failed, done):
        assert parent(one) == context(published).span_id
    assert [parent(parked), parent(settled)] == [context(failed).span_id, context(done).span_id]
    assert [parent(first_work), parent(work)] == [context(failed).span_id, context(done).span_id]

    kinds = [one.kind for one in (published, wait, done, settled)]
    assert kinds == [SpanKind.PRODUCER, SpanKind.INTERNAL, SpanKind.CONSUMER, SpanKind.CLIENT]
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    server = {"server.address": "127.0.0.1", "server.port": port}
    whole = {"messaging.system": "redis", "messaging.destination.name": "jobs", **server}
    assert about(published) == {
        **whole,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.message.id": message_id,
    }
    assert about(settled) == {
        **whole,
        "messaging.operation.name": "settle",
        "messaging.operation.type": "settle",
        "messaging.message.id": message_id,
        "messaging.consumer.group.name": "workers",
        "messaging.client.id": "consumer-1",
        "shared_sync.attempt": 2,
        "shared_sync.outcome": "done",
    }
    assert about(parked)["shared_sync.outcome"] == "retry"
    assert [about(one)["shared_sync.attempt"] for one in (failed, done)] == [1, 2]
    assert about(failed)["error.type"] == "ValueError"
    assert "error.type" not in about(done)
    assert (failed.status.status_code, done.status.status_code) == (
        StatusCode.ERROR,
        StatusCode.UNSET,
    )
    (event,) = failed.events
    assert "Traceback" in event.attributes["exception.stacktrace"]
    assert "opensesame" not in str(event.attributes)
    added = int(message_id.partition("-")[0]) / 1000
    assert wait.start_time / 1e9 == pytest.approx(added, abs=0.5)
    assert wait.end_time <= failed.start_time <= failed.end_time <= parked.end_time
    assert settled.start_time >= done.end_time

    # What was emitted in the span of the program, and in a thread without one, goes on from there.
    emitted = spans.all("emit next")[2:]
    assert [parent(one) for one in emitted] == [context(work).span_id, context(done).span_id]
    assert [one["traceparent"][36:52] for one in options_of(client, "next")] == [
        trace.format_span_id(context(one).span_id) for one in emitted
    ]
    records = [one for one in caplog.records if one.getMessage() == "working"]
    assert [one.span_id for one in records] == [
        trace.format_span_id(context(one).span_id) for one in (first_work, work)
    ]
    (result,) = client.xrange("done")
    assert result[1][b"traceparent"][3:35].decode() == trace.format_trace_id(
        context(upload).trace_id
    )


def test_spans_of_a_child_process_belong_to_the_attempt(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    spans: Spans,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "spans"
    monkeypatch.setenv("SPANS_FILE", str(file))
    consumer = make(traced_processors.work, isolation="process", tracing=spans.provider, retry=SOON)
    consumer.start()
    producer.publish({"fail": "1", "emit": "next"})
    eventually(lambda: len(spans.all("settle")) == 2)
    consumer.stop()
    failed, done = spans.all("process")
    made = [json.loads(line) for line in file.read_text().splitlines()]
    works = [one for one in made if one["name"] == "app work"]
    assert [one["parent_id"] for one in works] == [
        f"0x{trace.format_span_id(context(one).span_id)}" for one in (failed, done)
    ]
    trace_id = trace.format_trace_id(context(done).trace_id)
    assert {one["context"]["trace_id"] for one in made} == {f"0x{trace_id}"}
    assert about(failed)["error.type"] == "ValueError"
    emitted = [one["context"]["span_id"] for one in made if one["name"] == "emit next"][2:]
    assert [f"0x{one['traceparent'][36:52]}" for one in options_of(client, "next")] == emitted
    (first, _) = [one for one in caplog.records if one.getMessage() == "working"]
    assert (first.trace_id, f"0x{first.span_id}") == (trace_id, works[0]["context"]["span_id"])


def test_a_batch_links_to_each_of_its_messages(
    make: Make, producer: RedisStreamProducer, spans: Spans
) -> None:
    ids = producer.publish_many([{"n": "1"}, {"n": "2"}, Job({"n": "3"}, traceparent=GIVEN)])
    published = spans.one("publish")
    assert about(published)["messaging.batch.message_count"] == 3
    make(
        None,
        batch_processor=traced_processors.work_on_batch,
        batch=Batching(max_size=3),
        tracing=spans.provider,
    ).start()
    eventually(lambda: spans.all("settle"))
    process, settle = spans.one("process"), spans.one("settle")
    creation = trace.format_span_id(context(published).span_id)
    for span in (process, settle):
        assert about(span)["messaging.batch.message_count"] == 3
        assert [trace.format_span_id(one.context.span_id) for one in span.links] == [
            creation,
            creation,
            GIVEN[36:52],
        ]
        assert [one.attributes["messaging.message.id"] for one in span.links] == ids
    assert process.parent is None
    assert parent(settle) == context(process).span_id
    waits = [context(one).trace_id for one in spans.all("wait")]
    assert waits.count(context(published).trace_id) == 2


def test_a_trace_begins_with_the_wait_if_the_publisher_has_none(
    make: Make, client: redis.Redis, spans: Spans
) -> None:
    current: list[bool] = []

    class Watching:
        def process(self, *_: object) -> None:
            current.append(trace.get_current_span().get_span_context().is_valid)

        def close(self) -> None:
            self.process()

    client.xadd("jobs", {"n": "1"})
    with make(None, processor_factory=lambda _: Watching(), tracing=spans.provider):
        eventually(lambda: spans.all("settle"))
    assert current == [True, False], "the span is current while the processor runs, and no longer"
    wait, process, settle = spans.one("wait"), spans.one("process"), spans.one("settle")
    assert wait.parent is None
    assert parent(process) == context(wait).span_id
    assert parent(settle) == context(process).span_id


def test_a_request_is_a_span_until_its_result_and_a_given_context_travels_unchanged(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, spans: Spans
) -> None:
    make(traced_processors.work, tracing=spans.provider).start()
    result = producer.request({"n": "1"}, timeout=30)
    request, process = spans.one("request"), spans.one("process")
    assert request.end_time >= process.end_time
    assert (parent(process), request.kind) == (context(request).span_id, SpanKind.PRODUCER)
    assert result.traceparent[36:52] == trace.format_span_id(context(request).span_id)

    producer.publish({"n": "1"}, traceparent=GIVEN)
    eventually(lambda: len(spans.all("process")) == 2)
    published, process = spans.one("publish"), spans.all("process")[1]
    assert trace.format_span_id(parent(process)) == GIVEN[36:52]
    (link,) = published.links
    assert (trace.format_span_id(link.context.span_id), published.kind) == (
        GIVEN[36:52],
        SpanKind.CLIENT,
    )


def test_what_is_not_published_is_an_error_of_its_span(
    producer: RedisStreamProducer, spans: Spans
) -> None:
    with pytest.raises(ConfigurationError, match="traceparent must be a W3C trace context such as"):
        producer.publish({"n": "1"}, traceparent="00-1")
    span = spans.one("publish")
    assert (about(span)["error.type"], span.status.status_code) == (
        "ConfigurationError",
        StatusCode.ERROR,
    )


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        (GIVEN, True),
        (f"cc{GIVEN[2:]}-later", True),
        (f"{GIVEN}-later", False),
        (GIVEN.upper(), False),
        (f"ff{GIVEN[2:]}", False),
        (f"00-{'0' * 32}-{GIVEN[36:]}", False),
        (f"{GIVEN[:36]}{'0' * 16}-01", False),
        (f"{GIVEN}\n", False),
    ],
)
def test_a_traceparent_has_the_form_of_the_w3c(text: str, is_valid: bool) -> None:
    assert is_traceparent(text) is is_valid


class Broken(SpanExporter):
    """A part of a program that raises whenever it is asked."""

    def on_start(self, *_: object, **__: object) -> None:
        raise RuntimeError("no disk, token=opensesame")

    on_end = shutdown = on_start


def test_an_sdk_that_raises_costs_no_message(
    make: Make, redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken())  # type: ignore[arg-type]
    make(traced_processors.work, tracing=provider, result_stream="done").start()
    with RedisStreamProducer(redis_url, "jobs", tracing=provider) as producer:
        producer.publish_many([{"n": "1"}, {"emit": "next"}])
        producer.request({"emit": "next"}, timeout=60)
    eventually(lambda: client.xlen("done") == 2)
    assert client.xlen("next") == 4
    assert caplog.text.count("a span could not be made (RuntimeError") == 2, "once for each"


@pytest.mark.parametrize("kind", [RedisStreamConsumer, RedisStreamProducer])
def test_tracing_without_opentelemetry_or_with_something_else_is_refused(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["redis://localhost", "jobs"]
    if kind is RedisStreamConsumer:
        arguments += ["workers", None, None, traced_processors.work]  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="tracing must be True, False or a TracerProvider"):
        kind(*arguments, tracing="yes")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'shared_sync\[otel\]'"):
        kind(*arguments, tracing=True)


def test_a_settlement_whose_reply_is_lost_is_seen_and_the_next_one_counts(
    make: Make, client: redis.Redis, spans: Spans, redis_url: str
) -> None:
    with Faults(redis_url) as faults:
        faults.lose_next_settlement()
        client.xadd("jobs", {"n": "1"})
        make(traced_processors.work, url=faults.url, tracing=spans.provider).start()
        eventually(lambda: len(spans.all("settle")) == 2)
    lost, settled = spans.all("settle")
    assert parent(lost) == parent(settled) == context(spans.one("process")).span_id
    assert about(lost)["error.type"] == "RedisUnavailable"
    assert "error.type" not in about(settled)


PROGRAM = """
import sys
from shared_sync import RedisStreamConsumer, RedisStreamProducer
from shared_sync.tracing import configure
from opentelemetry import trace

def work(message_id, job):
    trace.get_tracer("app").start_span("app work").end()

if __name__ == "__main__":
    provider = configure("words")
    assert configure() is provider
    producer = RedisStreamProducer(sys.argv[1], "jobs", tracing=True)
    worker = RedisStreamConsumer(
        sys.argv[1], "jobs", "workers", None, None, work, isolation="process", tracing=True
    )
    with producer, worker:
        producer.request({"n": 1}, timeout=60)
"""


def test_the_environment_configures_the_exporter_also_in_child_processes(
    redis_url: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    done = subprocess.run(
        [sys.executable, program, redis_url],
        env={**ENVIRONMENT, "OTEL_TRACES_EXPORTER": "console"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split('"')[3] for line in done.stdout.splitlines() if '"name": ' in line]
    assert {"request jobs", "process jobs", "app work", "settle jobs"} <= set(names)
    assert done.stdout.count('"service.name": "words"') == len(names)


@pytest.mark.parametrize(
    ("exporter", "remedy"),
    [("smoke-signals", "installed are console, "), ("otlp", "pip install opentelemetry-exporter-")],
)
def test_an_exporter_that_is_not_installed_is_named(
    exporter: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    monkeypatch.setattr(sdk, "entry_points", lambda name=None, **_: [] if name else [CONSOLE])
    with pytest.raises(ConfigurationError, match=f"which is not installed: {remedy}"):
        configure()
