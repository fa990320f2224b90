"""The processes of gateway_scene.py: a gateway, a speech-to-text worker, a translation worker.

Recognizing and translating are stand-ins that take a moment and can be checked: the text is the
digest of the audio, and its translation the same in capitals.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias

from shared_sync import RedisStreamConsumer, RedisStreamProducer, Result, current_message
from shared_sync.errors import RedisUnavailable, ResultTimeout

Isolation: TypeAlias = Literal["thread", "process"]

AUDIO, TEXTS = "{speech}:audio", "{speech}:texts"
AUDIO_BYTES = 32_000
"""A second of speech."""

JOB_SECONDS = 0.1
RESULT_SECONDS = 60.0
"""Longest wait for a result."""
RETRY_SECONDS = 0.2


def audio_of(gateway: str, number: int) -> bytes:
    """Return what a client of this gateway says in its request of this number."""
    return random.Random(f"{gateway}/{number}").randbytes(AUDIO_BYTES)


def translation_of(audio: bytes) -> str:
    return hashlib.sha256(audio).hexdigest().upper()


# --- workers ------------------------------------------------------------------------------------


def transcribe(_: str, job: dict[str, Any]) -> None:
    time.sleep(JOB_SECONDS)
    text = hashlib.sha256(job["audio"]).hexdigest()
    current_message().emit(TEXTS, {"text": text}, forward_reply=True)


def translate(_: str, job: dict[str, Any]) -> dict[str, str]:
    time.sleep(JOB_SECONDS)
    return {"text": job["text"].upper()}


WORKERS = {"stt": (AUDIO, transcribe), "translation": (TEXTS, translate)}


def work(role: str, url: str, name: str, lease_seconds: float, isolation: Isolation) -> None:
    """Process messages until SIGTERM."""
    stream, processor = WORKERS[role]
    RedisStreamConsumer(
        url,
        stream,
        f"{role}-workers",
        name,
        logging.getLogger(name),
        processor,
        threads=4,
        binary_fields=("audio",),
        lease_seconds=lease_seconds,
        isolation=isolation,
    ).start_consuming()


# --- the gateway --------------------------------------------------------------------------------


class Gateway:
    """Sends requests at their times, and writes into a journal what becomes of them."""

    def __init__(self, url: str, name: str, journal: Path, reply_ttl_seconds: float) -> None:
        # Fixed after construction.
        self._name = name
        self._producer = RedisStreamProducer(url, AUDIO, reply_ttl_seconds=reply_ttl_seconds)
        self._started = time.monotonic()
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._journal = journal.open("a", buffering=1)

    def serve(self, numbers: range, per_second: float) -> None:
        """Serve a client for each of these requests, each in a thread of its own."""
        with ThreadPoolExecutor(len(numbers)) as clients:
            for place, number in enumerate(numbers):
                clients.submit(self._serve, number, self._started + place / per_second)

    def close(self) -> None:
        self._producer.close()

    def _serve(self, number: int, moment: float) -> None:
        threading.Event().wait(moment - time.monotonic())
        audio = audio_of(self._name, number)
        asked = time.time()
        key = f"{self._name}/{os.getpid()}/{number}"  # of this process, as is its reply stream
        while True:
            try:
                handle = self._producer.submit({"audio": audio}, deduplicate_key=key)
                break
            except RedisUnavailable:
                time.sleep(RETRY_SECONDS)  # the key keeps the job from being published twice
        self._write(event="sent", number=number, id=handle.id, moment=asked)
        try:
            result: Result | None = handle.result(timeout=RESULT_SECONDS)
        except ResultTimeout:
            result = None
        right = result is not None and result.fields.get("text") == translation_of(audio)
        status = result.status if result else "missing"
        self._write(event="ended", number=number, status=status, right=right, moment=time.time())

    def _write(self, **facts: object) -> None:
        with self._lock:
            self._journal.write(json.dumps(facts) + "\n")


def ask(
    url: str, name: str, journal: str, first: int, count: int, per_second: float, ttl: float
) -> None:
    """Send requests, wait for all of their results, and stay until standard input ends."""
    gateway = Gateway(url, name, Path(journal), ttl)
    gateway.serve(range(first, first + count), per_second)
    sys.stdin.read()
    gateway.close()


def main() -> None:
    given = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    role = given.pop("role")
    if role == "gateway":
        ask(**given)
    else:
        work(role, **given)


if __name__ == "__main__":
    main()
