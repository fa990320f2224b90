"""A speech-to-text worker with faster-whisper: one model per GPU, in a child process of its own.

    pip install faster-whisper
    WHISPER_MODEL=small python -c "import faster_whisper as f; f.download_model('small')"
    WHISPER_MODEL=small REDIS_URL=redis://localhost:6379/0 python examples/faster_whisper_worker.py

It reads jobs from the stream `audio:jobs`, with the field `audio` (a whole file in any format that
ffmpeg reads), and writes transcripts to the stream `audio:transcripts`. `WHISPER_MODEL` is the name
of a model that has been downloaded, or the folder of one. `DEVICES` is a list such as
"cuda:0,cuda:1", "cuda:0" by default where there is a GPU, else "cpu".

The children keep two troubles away from the worker: a crash in CUDA code costs one attempt of one
message, and each model is loaded anew after 500 jobs, which gives back memory that has leaked.
"""

import io
import logging
import os
import signal
import socket
import sys
import time

from shared_sync import HealthServer, RedisStreamConsumer, Reject, WorkerMetrics
from shared_sync.errors import ConsumerBroken

try:
    import av
    import ctranslate2
    import faster_whisper
except ImportError:
    faster_whisper = None

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
HEALTH_PORT = os.environ.get("HEALTH_PORT", "8081")
INSTANCE_ID = os.environ.get("INSTANCE_ID", socket.gethostname())
MODEL = os.environ.get("WHISPER_MODEL", "tiny")
UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
MAX_AUDIO_SECONDS = 3600


class Transcriber:
    def __init__(self, context):
        self.metrics = context.metrics
        kind, _, index = context.device.partition(":")
        self.model = faster_whisper.WhisperModel(
            find_model(), device=kind, device_index=int(index or 0)
        )

    def process(self, message_id, job):
        try:
            audio = faster_whisper.decode_audio(io.BytesIO(job["audio"]))
        except (KeyError, av.FFmpegError) as error:
            raise Reject(f"no readable audio in field 'audio': {error!r}") from error
        seconds = len(audio) / 16_000
        if seconds > MAX_AUDIO_SECONDS:
            raise Reject(f"{seconds:.0f} s of audio, the limit is {MAX_AUDIO_SECONDS} s")
        began = time.monotonic()
        segments, info = self.model.transcribe(audio, beam_size=5)
        # `segments` is a generator: the model runs while it is read.
        text = " ".join(segment.text.strip() for segment in segments)
        self.metrics.record_duration("transcription_time", time.monotonic() - began)
        self.metrics.increment_counter("audio_duration_processed_seconds", seconds)
        return {"text": text, "language": info.language}


def find_model():
    """Return the folder of the model. Raises if it is not on this machine: downloads nothing."""
    if os.path.isdir(MODEL):
        return MODEL
    return faster_whisper.download_model(MODEL, local_files_only=True)


def find_devices():
    if devices := os.environ.get("DEVICES"):
        return [device.strip() for device in devices.split(",")]
    return ["cuda:0"] if ctranslate2.get_cuda_device_count() else ["cpu"]


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logger = logging.getLogger("faster_whisper_worker")
    if faster_whisper is None:
        print("faster-whisper is not installed: pip install faster-whisper", file=sys.stderr)
        return UNAVAILABLE
    try:
        find_model()
    except Exception as error:  # noqa: BLE001 - huggingface_hub raises many types
        reason = str(error).partition("\n")[0]
        print(
            f"there is no model {MODEL!r} on this machine ({reason}): download it with "
            f'python -c "import faster_whisper as f; f.download_model({MODEL!r})", or set '
            "WHISPER_MODEL to the folder of one",
            file=sys.stderr,
        )
        return UNAVAILABLE
    devices = find_devices()
    metrics = WorkerMetrics(INSTANCE_ID, service="stt")
    consumer = RedisStreamConsumer(
        REDIS_URL,
        "audio:jobs",
        "stt-workers",
        None,
        logger,
        processor_factory=Transcriber,
        isolation="process",
        devices=devices,
        threads=len(devices),
        max_jobs_per_processor=500,
        binary_fields=("audio",),
        result_stream="audio:transcripts",
        metrics=metrics,
    )
    with HealthServer(INSTANCE_ID, HEALTH_PORT, logger, consumer=consumer, metrics=metrics):
        try:
            consumer.start_consuming()
        except ConsumerBroken as error:
            logger.critical("%s", error)
            return error.exit_code
    return 0


if __name__ == "__main__":
    # Until the consumer handles signals: a container's first process has no default handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.exit(main())
