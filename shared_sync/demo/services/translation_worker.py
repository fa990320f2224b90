"""The translation worker: English texts from a stream, Spanish back to the caller of the speech.

    apt-get install apertium-eng-spa
    REDIS_URL=redis://localhost:6379/0 python -m shared_sync.demo.services.translation_worker

Each thread has an Apertium of its own, which blocks while it translates; that runs outside of
Python, so threads are enough here. Texts that were translated lately come from a cache.

On SIGTERM and Ctrl-C the worker drains: running jobs have 25 s to finish.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from typing import Any

from shared_sync.checks import memory_headroom
from shared_sync.demo.services.apertium import MOST_CHARS, Apertium
from shared_sync.demo.services.streams import TEXTS
from shared_sync.errors import ConsumerBroken, Reject, SharedSyncError
from shared_sync.health_server import HealthServer
from shared_sync.logging import configure
from shared_sync.metrics import WorkerMetrics
from shared_sync.processors import ProcessorContext
from shared_sync.redis_consumer import RedisStreamConsumer

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
INSTANCE_ID = os.environ.get("INSTANCE_ID", socket.gethostname())
LOG_LEVEL = os.environ.get("LOG_LEVEL", "INFO")
LOG_FORMAT = os.environ.get("LOG_FORMAT", "text")  # json: with the id of the message, too
HEALTH_HOST = os.environ.get("HEALTH_HOST")  # None: all addresses, because probes come from outside
HEALTH_PORT = os.environ.get("HEALTH_PORT", "8082")
LEASE_SECONDS = float(os.environ.get("LEASE_SECONDS", "30"))
THREADS = int(os.environ.get("THREADS", "2"))
CACHE_SIZE = int(os.environ.get("CACHE_SIZE", "10000"))


class Cache:
    """The newest translations, for all threads. When it is full, the one used longest ago goes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._translations: OrderedDict[str, str] = OrderedDict()

    def get(self, text: str) -> str | None:
        with self._lock:
            if text in self._translations:
                self._translations.move_to_end(text)
            return self._translations.get(text)

    def put(self, text: str, translation: str) -> None:
        with self._lock:
            self._translations[text] = translation
            self._translations.move_to_end(text)
            while len(self._translations) > self._size:
                self._translations.popitem(last=False)


CACHE = Cache(CACHE_SIZE)


class Translator:
    """The processor of one thread."""

    def __init__(self, context: ProcessorContext) -> None:
        self.metrics = context.metrics
        self.engine = Apertium()  # WorkerBroken if it is not installed: the worker ends with 70
        self.engine.translate("good morning")  # starts it, so that the first job is not slower

    def process(self, message_id: str, job: dict[str, Any]) -> dict[str, str]:
        """Process one job. An exception makes the consumer try it again later."""
        text = job.get("english")
        if not isinstance(text, str) or len(text) > MOST_CHARS:
            raise Reject(f"field 'english' must be a text of at most {MOST_CHARS} characters")
        began = time.monotonic()
        try:
            spanish = self.translate(text)
        except Exception:
            self.metrics.increment_counter("failed_translations")
            raise
        self.metrics.record_duration("translation_time", time.monotonic() - began)
        self.metrics.increment_counter("successful_translations")
        self.metrics.increment_counter("text_chars_processed", len(text))
        return {"spanish": spanish}

    def translate(self, text: str) -> str:
        spanish = CACHE.get(text)
        # The metric cache_hit_ratio is computed from these two counters.
        self.metrics.increment_counter("cache_misses" if spanish is None else "cache_hits")
        if spanish is None:
            spanish = self.engine.translate(text)
            CACHE.put(text, spanish)
        return spanish

    def close(self) -> None:
        """Called when the worker stops."""
        self.engine.close()


def main() -> int:
    # Until the consumer handles signals: a container's first process has no default handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure(LOG_LEVEL, "json" if LOG_FORMAT == "json" else "text")
    logger = logging.getLogger("translation_worker")
    metrics = WorkerMetrics(INSTANCE_ID, service="translation")
    metrics.alert("error_rate", above=0.2, for_seconds=60)
    consumer = RedisStreamConsumer(
        REDIS_URL,
        TEXTS,
        "translators",
        None,  # a unique name
        logger,
        processor_factory=Translator,
        threads=THREADS,
        carry_fields=("english",),
        job_deadline_seconds=60,
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
        except ConsumerBroken as error:  # such as no Apertium: the text says what to install
            logger.critical("%s", error)
            return error.exit_code
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SharedSyncError as error:  # such as a port that is taken: the text has the remedy
        sys.exit(f"translation_worker: {error}")
