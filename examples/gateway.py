"""A gateway: publishes WAV files as jobs and prints the results.

    pip install shared_sync
    REDIS_URL=redis://localhost:6379/0 python examples/gateway.py speech.wav more.wav

Run examples/stt_worker.py beside it. Results come back through a stream, so none is missed while
the gateway is away. This example is made for a single gateway: the consumer group `gateways` gives
each result to one of its members, so several gateways would need a result stream each.
"""

import logging
import os
import queue
import sys
from pathlib import Path

from shared_sync import RedisStreamConsumer, RedisStreamProducer

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")


def main(files):
    received = queue.SimpleQueue()
    results = RedisStreamConsumer(
        REDIS_URL,
        "audio:transcripts",
        "gateways",
        None,
        logging.getLogger("gateway"),
        lambda message_id, result: received.put(result),
    )
    with RedisStreamProducer(REDIS_URL, "audio:jobs", max_queue_depth=10_000) as jobs, results:
        waiting = set(
            jobs.publish_many(
                {"client_id": "c1", "file": file.name, "audio": file.read_bytes()}
                for file in map(Path, files)
            )
        )
        while waiting:
            result = received.get()
            if result["message_id"] in waiting:
                waiting.remove(result["message_id"])
                print(f"{result['file']}: {result.get('text') or result.get('reason')}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
