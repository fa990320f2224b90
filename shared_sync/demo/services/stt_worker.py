"""The speech-to-text worker: takes audio from a stream, and hands its text on to the translation.

    pip install 'shared_sync[speech]'
    REDIS_URL=redis://localhost:6379/0 python -m shared_sync.demo.services.stt_worker

While it recognizes, it reports the text so far; the caller of the job receives that at once. The
text then takes the place of the audio: in one step, Redis removes the audio and adds the text to
the stream of the translation workers, who answer the caller. So nothing is lost, and nothing runs
twice, if the worker dies before or after this step.

It uses faster-whisper if that is installed and has a model, otherwise pocketsphinx. The recognizer
runs in a child process, because pocketsphinx keeps Python's interpreter lock: no other thread of
its process could send heartbeats or answer health checks meanwhile.

On SIGTERM and Ctrl-C the worker drains: the running job has 25 s to finish.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from typing import Any

from shared_sync.checks import memory_headroom
from shared_sync.demo.services.recognizers import make_recognizer
from shared_sync.demo.services.streams import AUDIO, TEXTS
from shared_sync.demo.speech import read_wav
from shared_sync.errors import ConsumerBroken, SharedSyncError
from shared_sync.health_server import HealthServer
from shared_sync.logging import configure
from shared_sync.message import current_message
from shared_sync.metrics import WorkerMetrics
from shared_sync.processors import ProcessorContext
from shared_sync.redis_consumer import RedisStreamConsumer

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
INSTANCE_ID = os.environ.get("INSTANCE_ID", socket.gethostname())
LOG_LEVEL = os.environ.get("LOG_LEVEL", "INFO")
LOG_FORMAT = os.environ.get("LOG_FORMAT", "text")  # json: with the id of the message, too
HEALTH_HOST = os.environ.get("HEALTH_HOST")  # None: all addresses, because probes come from outside
HEALTH_PORT = os.environ.get("HEALTH_PORT", "8081")
LEASE_SECONDS = float(os.environ.get("LEASE_SECONDS", "30"))
THREADS = int(os.environ.get("THREADS", "1"))  # each has a recognizer, in a process of its own
ENGINE = os.environ.get("STT_ENGINE", "auto")  # auto, pocketsphinx or faster-whisper
GRAMMAR = os.environ.get("STT_GRAMMAR", "")  # a JSGF file: recognize only its sentences
WHISPER_MODEL = os.environ.get("WHISPER_MODEL", "tiny")
DEVICES = os.environ.get("DEVICES", "cpu").split(",")  # for faster-whisper, such as cuda:0,cuda:1


class Transcriber:
    """The processor. Each child process makes one, and loads its model before it takes a job."""

    def __init__(self, context: ProcessorContext) -> None:
        self.metrics = context.metrics
        self.recognizer = make_recognizer(
            ENGINE, model=WHISPER_MODEL, device=context.device or "cpu", grammar=GRAMMAR
        )

    def process(self, message_id: str, job: dict[str, Any]) -> dict[str, str]:
        """Process one job. An exception makes the consumer try it again later."""
        began = time.monotonic()
        try:
            text = self.transcribe(job)
        except Exception:
            self.metrics.increment_counter("failed_transcriptions")
            raise
        self.metrics.record_duration("transcription_time", time.monotonic() - began)
        self.metrics.increment_counter("successful_transcriptions")
        if text:
            # From now on this is a job of the translation workers: they answer its caller.
            current_message().emit(TEXTS, {"english": text}, forward_reply=True)
        return {"english": text, "spanish": ""}  # the answer if there was nothing to translate

    def transcribe(self, job: dict[str, Any]) -> str:
        message = current_message()
        audio = read_wav(job.get("audio", b""))  # Reject for what is not audio: it is not retried
        began = time.monotonic()
        text = ""
        for share, text in self.recognizer.recognize(audio):
            message.raise_if_cancelled()
            message.report_progress(share, english=text, english_is_final=share >= 1)
        self.metrics.record_duration("model_inference_time", time.monotonic() - began)
        self.metrics.increment_counter("audio_duration_processed_seconds", audio.seconds)
        return text


def main() -> int:
    # Until the consumer handles signals: a container's first process has no default handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure(LOG_LEVEL, "json" if LOG_FORMAT == "json" else "text")
    logger = logging.getLogger("stt_worker")
    metrics = WorkerMetrics(INSTANCE_ID, service="stt")
    metrics.alert("error_rate", above=0.2, for_seconds=60)
    consumer = RedisStreamConsumer(
        REDIS_URL,
        AUDIO,
        "stt-workers",
        None,  # a unique name
        logger,
        processor_factory=Transcriber,
        isolation="process",
        threads=max(THREADS, len(DEVICES)),
        devices=DEVICES,
        max_jobs_per_processor=500,  # then a new child, which gives back memory that has leaked
        binary_fields=("audio",),
        job_deadline_seconds=120,
        lease_seconds=LEASE_SECONDS,
        metrics=metrics,
    )
    server = HealthServer(
        INSTANCE_ID, HEALTH_PORT, logger, consumer=consumer, metrics=metrics, host=HEALTH_HOST
    )
    server.add_check("memory", memory_headroom(), critical=False)
    with server:
        try:
            consumer.start_consuming()
        except ConsumerBroken as error:  # such as no pocketsphinx: the text says what to install
            logger.critical("%s", error)
            return error.exit_code
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SharedSyncError as error:  # such as a port that is taken: the text has the remedy
        sys.exit(f"stt_worker: {error}")
