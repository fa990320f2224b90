"""The demo: a gateway, a speech worker and a Redis in one process, on real audio.

What it shows is what a service does: audio goes in through a producer, a consumer transcribes it
in its pool, results come back through a second consumer, one file is beyond repair and ends as a
dead letter, one job fails twice and then succeeds.
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from shared_sync.connection import discovery, url
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.demo.speech import DEMO_AUDIO, DEMO_GRAMMAR, Recognizer, read_wav
from shared_sync.errors import ConfigurationError
from shared_sync.health_server import HealthServer
from shared_sync.message import current_message
from shared_sync.metrics import WorkerMetrics
from shared_sync.policies import RetryPolicy
from shared_sync.protocol.commands import Keys
from shared_sync.redis_consumer import RedisStreamConsumer
from shared_sync.redis_producer import RedisStreamProducer

QUICK_RETRY = RetryPolicy(base_seconds=0.3)
STAGED_FAILURES = 2
PATIENCE_SECONDS = 120.0
BAR_WIDTH = 30


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    audio: Path | None = None
    jobs: int | None = None
    threads: int = 2
    keep: bool = False
    redis_url: str | None = None


@dataclass
class Tally:
    """What has come back so far; owned by the main thread."""

    expected: int
    transcripts: list[tuple[str, str]] = field(default_factory=list)
    deaths: list[tuple[str, str]] = field(default_factory=list)

    @property
    def returned(self) -> int:
        return len(self.transcripts) + len(self.deaths)


class Screen:
    """Whole lines, and a progress bar below them on a terminal. Safe from any thread."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._bar = ""

    def line(self, text: str = "") -> None:
        """Write a line; in one piece, because several threads do."""
        with self._lock:
            self._write(f"{text}\n")

    def progress(self, done: int, total: int) -> None:
        """Draw the bar anew, if this is a terminal."""
        filled = BAR_WIDTH * done // total
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        with self._lock:
            self._bar = f"[{bar}] {done} of {total}\r" if self._terminal and done < total else ""
            self._write("")

    def _write(self, text: str) -> None:
        blank = " " * (shutil.get_terminal_size().columns - 1) + "\r" if self._terminal else ""
        self._out.write(blank + text + self._bar)
        self._out.flush()


def run(options: Options, out: TextIO = sys.stdout) -> int:
    """Run the demo and return its exit status: 0 if all came back as it should."""
    screen = Screen(out)
    recordings = _recordings(options.audio)
    spoken = _spoken(options.audio)
    name = f"demo-{secrets.token_hex(4)}"
    metrics = WorkerMetrics(name)
    worker = SpeechWorker(metrics, DEMO_GRAMMAR if options.audio is None else None)
    jobs, results = f"{{{name}}}:jobs", f"{{{name}}}:results"  # in one slot, should it be a cluster
    signal.signal(signal.SIGTERM, _exit_on_signal)

    with ExitStack() as stack:
        redis_url = options.redis_url
        if redis_url is None:
            redis = stack.enter_context(EmbeddedRedis())
            redis_url = redis.url
            screen.line(f"Redis    {redis_url}  ({redis.binary}, ends with this program)")
        else:
            screen.line(f"Redis    {url.safe_address(redis_url)}")
            stack.callback(_remove_keys, redis_url, jobs, results)

        consumer = RedisStreamConsumer(
            redis_url,
            jobs,
            "stt-workers",
            "stt-1",
            _brief_logger(screen),
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
            "gateway",
            "gateway-1",
            _brief_logger(screen),
            lambda _, result: returned.put(result),
        )
        server = HealthServer(
            name,
            0,
            None,
            consumer.get_health_data,
            metrics.get_metrics_data,
            host="127.0.0.1",
        )
        for part in (server, gateway, consumer):
            stack.enter_context(part)
        screen.line(f"Health   {server.url}/health and {server.url}/metrics")
        screen.line(f"Look at  {server.url}/ in a browser")

        batch = list(_jobs(recordings, options.jobs or len(recordings)))
        tally = Tally(expected=len(batch))
        screen.line(
            f"Jobs     {len(batch)}: {len(batch) - 2} recordings, 1 corrupt file, "
            f"1 that fails {STAGED_FAILURES} times\n"
        )
        started = time.monotonic()
        with RedisStreamProducer(redis_url, jobs) as producer:
            producer.publish_many(batch)
        _await_all(tally, returned, screen)
        seconds = time.monotonic() - started

        _show_summary(tally, metrics.get_metrics_data(), seconds, screen)
        wrong = _wrong_transcripts(tally, spoken)
        if options.keep:
            _keep(redis_url, jobs, server, screen)
    for file, heard, said in wrong:
        screen.line(f"{file}: heard {heard!r}, said was {said!r}")
    return 0 if tally.returned == tally.expected and len(tally.deaths) == 1 and not wrong else 1


class SpeechWorker:
    """The processor: one recogniser for each thread, because a recogniser is not thread-safe."""

    def __init__(self, metrics: WorkerMetrics, grammar: Path | None) -> None:
        self._metrics = metrics
        self._grammar = grammar
        self._local = threading.local()
        self._recognizer()  # what cannot be loaded fails here, before any job is taken

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


def _recordings(folder: Path | None) -> dict[str, bytes]:
    where = folder or DEMO_AUDIO
    if not where.is_dir():
        raise ConfigurationError(f"--audio {where} is not a folder")
    found = {path.name: path.read_bytes() for path in sorted(where.glob("*.wav"))}
    if not found:
        raise ConfigurationError(f"no .wav file in {where}; give a folder of 16-bit WAV files")
    return found


def _spoken(folder: Path | None) -> dict[str, str]:
    """What is said in the recordings that come with the package; unknown for others."""
    if folder is not None:
        return {}
    spoken: dict[str, str] = json.loads((DEMO_AUDIO / "transcripts.json").read_text())
    return spoken


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
            result = returned.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            screen.line(f"no result for {PATIENCE_SECONDS:.0f} s, giving up")
            return
        if result["status"] == "done":
            tally.transcripts.append((result["file"], result["text"]))
            told = result["text"]
        else:
            tally.deaths.append((result["file"], result["reason"]))
            told = f"dead letter: {result['reason']}"
        screen.line(f"[{tally.returned}/{tally.expected}] {result['file']:<14} {told}")
        screen.progress(tally.returned, tally.expected)


def _show_summary(tally: Tally, figures: Mapping[str, Any], seconds: float, screen: Screen) -> None:
    audio_seconds = figures.get("audio_duration_processed_seconds", 0)
    rows = [
        ("jobs", tally.expected),
        ("results", len(tally.transcripts)),
        ("retries", figures.get("jobs_retried", 0)),
        ("dead letters", len(tally.deaths)),
        ("p50 per job", _milliseconds(figures.get("p50_processing_latency_ms"))),
        ("p95 per job", _milliseconds(figures.get("p95_processing_latency_ms"))),
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
    screen.line(
        f"\nEverything stays up until Ctrl-C: worker on stream {jobs}, "
        f"{url.safe_address(redis_url)}, {server.url}"
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        screen.line()


def _remove_keys(redis_url: str, jobs: str, results: str) -> None:
    link = Connection(discovery.connector(redis_url, key=jobs, reply_timeout_seconds=5.0))
    try:
        for keys in (Keys.of(jobs, "stt-workers"), Keys.of(results, "gateway")):
            link.call("DEL", *keys.all())
    finally:
        link.close()


def _brief_logger(screen: Screen) -> logging.Logger:
    """Warnings and errors, a line each and no tracebacks: the demo's failures are staged."""

    class Brief(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            screen.line(f"      {record.getMessage()}")

    logger = logging.Logger("shared_sync.demo", logging.WARNING)
    logger.addHandler(Brief())
    return logger


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
