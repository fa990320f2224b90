"""A speech-to-text worker with metrics and a health server.

    pip install 'shared_sync[speech]'
    REDIS_URL=redis://localhost:6379/0 HEALTH_PORT=8081 python examples/stt_worker.py

It reads jobs from the stream `audio:jobs`, with the fields `client_id`, `file` and `audio` (a WAV
file: 16 kHz, 16 bit, mono), and writes transcripts to the stream `audio:transcripts`.
examples/gateway.py publishes such jobs. On SIGTERM and Ctrl-C the worker drains: the running job
has 25 s to finish, then the worker exits.
"""

import io
import logging
import os
import signal
import socket
import sys
import wave

from pocketsphinx import Decoder

from shared_sync import HealthServer, RedisStreamConsumer, Reject, WorkerMetrics, checks

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
HEALTH_PORT = os.environ.get("HEALTH_PORT", "8081")
CONSUMER_ID = os.environ.get("CONSUMER_ID")  # None, the best choice, makes a unique one
INSTANCE_ID = os.environ.get("INSTANCE_ID", socket.gethostname())


class STTWorker:
    def __init__(self):
        self.logger = logging.getLogger("stt_worker")
        self.model = None
        self.metrics = WorkerMetrics(INSTANCE_ID, service="stt")
        self.metrics.alert("error_rate", above=0.2, for_seconds=60)
        self.consumer = RedisStreamConsumer(
            REDIS_URL,
            "audio:jobs",
            "stt-workers",
            CONSUMER_ID,
            self.logger,
            self.transcribe,
            metrics=self.metrics,
            binary_fields=("audio",),
            result_stream="audio:transcripts",
            carry_fields=("client_id", "file"),
            lease_seconds=float(os.environ.get("LEASE_SECONDS", "30")),
        )
        self.health = HealthServer(
            INSTANCE_ID,
            HEALTH_PORT,
            self.logger,
            consumer=self.consumer,
            metrics=self.metrics,
        )
        self.health.add_check("model", self.check_model, startup=True, period_seconds=1)
        self.health.add_check("memory", checks.memory_headroom(), critical=False)

    def transcribe(self, message_id, job):
        """Process one job, in a thread of the consumer.

        An exception makes the consumer try the job again, except for Reject, which makes it a dead
        letter at once.
        """
        try:
            with self.metrics.timer("transcription_time"):
                samples = self.read_audio(job)
                text = self.recognize(samples)
        except Exception:
            self.metrics.increment_counter("failed_transcriptions")
            raise
        self.metrics.increment_counter("successful_transcriptions")
        self.metrics.increment_counter("audio_duration_processed_seconds", len(samples) / 32_000)
        return {"text": text}

    def read_audio(self, job):
        try:
            with wave.open(io.BytesIO(job["audio"])) as wav:
                form = (wav.getframerate(), wav.getsampwidth(), wav.getnchannels())
                if form != (16_000, 2, 1):
                    raise Reject(f"audio must be 16 kHz, 16 bit, mono, not {form}")
                return wav.readframes(wav.getnframes())
        except (KeyError, EOFError, wave.Error) as error:
            raise Reject(f"no readable WAV file in field 'audio': {error!r}") from error

    def recognize(self, samples):
        with self.metrics.timer("model_inference_time"):
            self.model.start_utt()
            self.model.process_raw(samples, full_utt=True)
            self.model.end_utt()
        return self.model.hyp().hypstr if self.model.hyp() else ""

    def check_model(self):
        return {"model_loaded": self.model is not None}

    def run(self):
        with self.health:
            self.model = Decoder(samprate=16_000, loglevel="FATAL")
            self.consumer.start_consuming()


if __name__ == "__main__":
    # Ends the program while the model loads: a container's first process has no default handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    STTWorker().run()
