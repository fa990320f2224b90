"""A gateway: publishes WAV files as jobs and prints their transcripts.

    pip install shared_sync
    REDIS_URL=redis://localhost:6379/0 python examples/gateway.py speech.wav more.wav

Run examples/stt_worker.py beside it. Each gateway receives its own results and no others, so any
number of them may run at the same time. A job that was not started within a minute expires, and a
job whose result nobody waits for is cancelled. Without files the program prints every result of the
stream `audio:transcripts`: the results of jobs that were published without a caller.
"""

import os
import sys
from pathlib import Path

from shared_sync import RedisStreamProducer, ResultListener, ResultTimeout

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
MAX_WAIT_SECONDS = 60.0


def transcribe(files):
    with RedisStreamProducer(REDIS_URL, "audio:jobs", max_queue_depth=10_000) as jobs:
        handles = {}
        try:
            for file in map(Path, files):
                job = {"client_id": "c1", "file": file.name, "audio": file.read_bytes()}
                handles[file.name] = jobs.submit(job, expires_seconds=MAX_WAIT_SECONDS)
            for name, handle in handles.items():
                print(f"{name}: {transcript_of(handle)}", flush=True)
        finally:
            for handle in handles.values():
                handle.cancel()  # does nothing to a job that has ended


def transcript_of(handle):
    try:
        result = handle.result(timeout=MAX_WAIT_SECONDS)
    except ResultTimeout as error:
        return str(error)
    return result.fields["text"] if result.ok else result.reason


def listen():
    with ResultListener(REDIS_URL, "audio:transcripts") as results:
        for result in results:
            print(f"{result.id}: {result.fields.get('text') or result.reason}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        transcribe(sys.argv[1:])
    else:
        listen()
