"""The demo: a gateway, a speech worker and a Redis in one process, on real audio.

A producer publishes recordings, a consumer transcribes them in its pool, and a second consumer
receives the results, as a service would. One file is corrupt and ends as a dead letter, and one job
fails twice and then succeeds.
"""

from __future__ import annotations

import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO

from shared_sync.connection import discovery, url
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.demo.recordings import load_recordings, load_transcripts
from shared_sync.demo.screen import Screen
from shared_sync.demo.speech import DEMO_GRAMMAR, Recognizer, read_wav
from shared_sync.health_server import HealthServer
from shared_sync.message import current_message
from shared_sync.metrics import WorkerMetrics
from shared_sync.policies import RetryPolicy
from shared_sync.protocol.keys import Keys
from shared_sync.redis_consumer import RedisStreamConsumer
from shared_sync.redis_producer import RedisStreamProducer

QUICK_RETRY = RetryPolicy(base_seconds=0.3)
STAGED_FAILURES = 2
RESULT_TIMEOUT_SECONDS = 120.0
"""Without a result for so long, the demo gives up."""
WORKERS, GATEWAYS = "stt-workers", "gateway"
"""The consumer groups of the jobs and of the results."""


NEXT: Final = """
Where next:
  shared-sync demo --keep        leaves all of this running, to look at its dashboard
  shared-sync demo --services    runs three programs: a gateway with a web page, and two workers
  shared-sync worker --help      runs a function of yours as a worker"""


@dataclass(frozen=True)
class Options:
    """The options of the command, which `shared_sync.cli.demo` explains."""

    audio: Path | None = None
    jobs: int | None = None
    threads: int = 2
    keep: bool = False
    redis_url: str | None = None


@dataclass
class Tally:
    """The results so far. Owned by the main thread."""

    expected: int
    transcripts: list[tuple[str, str]] = field(default_factory=list)
    deaths: list[tuple[str, str]] = field(default_factory=list)

    @property
    def returned(self) -> int:
        return len(self.transcripts) + len(self.deaths)


def run(options: Options, out: TextIO | None = None) -> int:
    """Run the demo, and return 0 if every result came back as it should, else 1.

    What happens is printed to `out`; None for the standard output. For the main thread, because
    SIGTERM is handled. Raises `ConfigurationError` if there are no recordings, and what the parts
    of the demo raise.
    """
    screen = Screen(out or sys.stdout)
    recordings = load_recordings(options.audio)
    spoken = load_transcripts(options.audio)
    name = f"demo-{secrets.token_hex(4)}"
    metrics = WorkerMetrics(name)
    worker = SpeechWorker(metrics, DEMO_GRAMMAR if options.audio is None else None)
    # In one slot, in case the Redis is a cluster.
    jobs, results = f"{{{name}}}:jobs", f"{{{name}}}:results"
    signal.signal(signal.SIGTERM, _exit_on_signal)

    with ExitStack() as stack:
        redis_url = _enter_redis(stack, options.redis_url, (jobs, results), screen)
        consumer = RedisStreamConsumer(
            redis_url,
            jobs,
            WORKERS,
            "stt-1",
            screen.logger(),
            worker.transcribe,
            metrics=metrics,
            threads=options.threads,
            binary_fields=("audio",),
            result_stream=results,
            carry_fields=("file",),
            retry=QUICK_RETRY,
        )
        returned: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        gateway = RedisStreamConsumer(
            redis_url,
            results,
            GATEWAYS,
            "gateway-1",
            screen.logger(),
            lambda _, result: returned.put(result),
        )
        server = HealthServer(
            name,
            0,
            None,
            consumer=consumer,
            metrics=metrics,
            host="127.0.0.1",
        )
        for part in (server, gateway, consumer):
            stack.enter_context(part)
        screen.line(f"Health   {server.url}/health and {server.url}/metrics")
        screen.line(f"Look at  {server.url}/ in a browser")

        messages = list(_jobs(recordings, options.jobs or len(recordings)))
        tally, seconds = _publish_and_wait(redis_url, jobs, messages, returned, screen)
        _show_summary(tally, metrics.get_metrics_data(), seconds, screen)
        wrong = _wrong_transcripts(tally, spoken)
        if options.keep:
            _keep(redis_url, jobs, server, screen)
        else:
            screen.line(NEXT)
    for file, heard, said in wrong:
        screen.line(f"{file}: heard {heard!r}, said was {said!r}")
    return 0 if tally.returned == tally.expected and len(tally.deaths) == 1 and not wrong else 1


def _enter_redis(
    stack: ExitStack, redis_url: str | None, streams: tuple[str, str], screen: Screen
) -> str:
    """Start a Redis that ends with the stack, or have the given one cleaned up then; its URL."""
    if redis_url is not None:
        screen.line(f"Redis    {url.safe_address(redis_url)}")
        stack.callback(_remove_keys, redis_url, *streams)
        return redis_url
    redis = stack.enter_context(EmbeddedRedis())
    screen.line(f"Redis    {redis.url}  ({redis.binary}, ends with this program)")
    return redis.url


def _publish_and_wait(
    redis_url: str,
    jobs: str,
    messages: Sequence[Mapping[str, object]],
    returned: queue.SimpleQueue[Mapping[str, Any]],
    screen: Screen,
) -> tuple[Tally, float]:
    """Publish the messages and wait for their results; what came back, and the seconds it took."""
    tally = Tally(expected=len(messages))
    screen.line(
        f"Jobs     {len(messages)}: {len(messages) - 2} recordings, 1 corrupt file, "
        f"1 that fails {STAGED_FAILURES} times\n"
    )
    started = time.monotonic()
    with RedisStreamProducer(redis_url, jobs) as producer:
        producer.publish_many(messages)
    _await_all(tally, returned, screen)
    return tally, time.monotonic() - started


class SpeechWorker:
    """The processor, with one recognizer for each thread, as a recognizer is not thread-safe."""

    def __init__(self, metrics: WorkerMetrics, grammar: Path | None) -> None:
        self._metrics = metrics
        self._grammar = grammar
        self._local = threading.local()
        self._recognizer()  # a model that cannot be loaded is an error before any job is read

    def transcribe(self, _message_id: str, job: dict[str, Any]) -> dict[str, str]:
        if current_message().attempt <= int(job.get("staged_failures", 0)):
            raise ConnectionError("the model server does not answer (staged by the demo)")
        audio = read_wav(job["audio"])
        with self._metrics.timer("model_inference_time"):
            text = self._recognizer().transcribe(audio)
        self._metrics.increment_counter("audio_duration_processed_seconds", audio.seconds)
        return {"text": text}

    def _recognizer(self) -> Recognizer:
        recognizer: Recognizer | None = getattr(self._local, "recognizer", None)
        if recognizer is None:
            recognizer = self._local.recognizer = Recognizer(self._grammar)
        return recognizer


def _jobs(recordings: dict[str, bytes], count: int) -> Iterator[dict[str, object]]:
    for file, audio in islice(cycle(recordings.items()), count):
        yield {"client_id": "demo", "file": file, "audio": audio}
    file, audio = next(iter(recordings.items()))
    yield {"client_id": "demo", "file": "corrupt.wav", "audio": audio[: len(audio) // 2]}
    yield {
        "client_id": "demo",
        "file": file,
        "audio": audio,
        "staged_failures": STAGED_FAILURES,
    }


def _await_all(
    tally: Tally, returned: queue.SimpleQueue[Mapping[str, Any]], screen: Screen
) -> None:
    screen.progress(0, tally.expected)
    while tally.returned < tally.expected:
        try:
            result = returned.get(timeout=RESULT_TIMEOUT_SECONDS)
        except queue.Empty:
            screen.line(f"no result for {RESULT_TIMEOUT_SECONDS:.0f} s, giving up")
            return
        if result["status"] == "done":
            tally.transcripts.append((result["file"], result["text"]))
            text = result["text"]
        else:
            tally.deaths.append((result["file"], result["reason"]))
            text = f"dead letter: {result['reason']}"
        screen.line(f"[{tally.returned}/{tally.expected}] {result['file']:<14} {text}")
        screen.progress(tally.returned, tally.expected)


def _show_summary(tally: Tally, values: Mapping[str, Any], seconds: float, screen: Screen) -> None:
    audio_seconds = values.get("audio_duration_processed_seconds", 0)
    rows = [
        ("jobs", tally.expected),
        ("results", len(tally.transcripts)),
        ("retries", values.get("jobs_retried", 0)),
        ("dead letters", len(tally.deaths)),
        ("p50 per job", _milliseconds(values.get("p50_processing_latency_ms"))),
        ("p95 per job", _milliseconds(values.get("p95_processing_latency_ms"))),
        ("audio per second", f"{audio_seconds / seconds:.1f} s"),
    ]
    screen.line()
    for label, value in rows:
        screen.line(f"  {label:<18}{value:>10}")


def _milliseconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} ms"


def _wrong_transcripts(tally: Tally, spoken: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [
        (file, heard, spoken[file])
        for file, heard in tally.transcripts
        if file in spoken and heard != spoken[file]
    ]


def _keep(redis_url: str, jobs: str, server: HealthServer, screen: Screen) -> None:
    place = f"--redis-url {url.safe_address(redis_url)} --stream '{jobs}'"
    try:
        screen.line(
            f"\nEverything stays up until Ctrl-C: worker on stream {jobs}, "
            f"{url.safe_address(redis_url)}, {server.url}\n"
            "Try in another terminal:\n"
            f"  shared-sync dead-letters list {place} --group {WORKERS}\n"
            f"  shared-sync publish {place} --wait 30 client_id=me audio=@YOUR.wav"
        )
        signal.pause()
    except KeyboardInterrupt:
        screen.line()


def _remove_keys(redis_url: str, jobs: str, results: str) -> None:
    connection = Connection(discovery.connector(redis_url, key=jobs, reply_timeout_seconds=5.0))
    with closing(connection):
        for keys in (Keys.of(jobs, WORKERS), Keys.of(results, GATEWAYS)):
            connection.call("DEL", *keys.all())


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
