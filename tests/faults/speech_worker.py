"""A worker of a speech service in a process of its own: speech to text, or translation.

Recognizing and translating are stand-ins that take a moment and can be checked: the text is the
digest of the audio, and its translation the same in capitals.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import sys
import threading

from shared_sync import RedisStreamConsumer, current_message

Job = dict[str, "str | bytes"]

AUDIO, TEXTS, RESULTS = "{speech}:audio", "{speech}:texts", "{speech}:results"
JOB_SECONDS = 0.05


def transcribe(_: str, job: Job) -> None:
    audio = base64.b64decode(job["audio"], validate=True)
    threading.Event().wait(JOB_SECONDS)
    text = {"text": hashlib.sha256(audio).hexdigest()}
    source = {name: job[name] for name in ("client_id", "chunk")}
    current_message().emit(TEXTS, text | source, forward_reply=True)


def translate(_: str, job: Job) -> dict[str, object]:
    threading.Event().wait(JOB_SECONDS)
    return {"text": str(job["text"]).upper(), "chunk": int(job["chunk"])}


ROLES = {"stt": (AUDIO, transcribe, None), "translation": (TEXTS, translate, RESULTS)}
"""Of each role its stream, its processor, and the stream of results that nobody has asked for."""


def main(role: str, url: str, name: str, lease_seconds: float) -> None:
    stream, processor, result_stream = ROLES[role]
    RedisStreamConsumer(
        url,
        stream,
        f"{role}-workers",
        name,
        logging.getLogger(name),
        processor,
        threads=2,
        result_stream=result_stream,
        carry_fields=("client_id",) if result_stream else (),
        lease_seconds=lease_seconds,
        block_seconds=0.2,
    ).start_consuming()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    main(**json.loads(sys.argv[1]))
