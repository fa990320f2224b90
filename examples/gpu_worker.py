"""A worker for several GPUs: a model on each of them, in a child process of its own, and batches.

    REDIS_URL=redis://localhost:6379/0 HEALTH_PORT=8084 python examples/gpu_worker.py

It reads jobs with the field `text` from the stream `gpu:jobs`, and writes a vector for each of them
to the stream `gpu:results`. Without a GPU it runs on the CPU. The model is a small one of torch; if
torch is not installed, a stand-in takes its place and says so in the log.

On SIGTERM and Ctrl-C the worker drains. If its GPU is broken, the jobs go back uncharged, and the
worker ends with exit status 70, so that a supervisor starts it elsewhere.
"""

import logging
import os
import signal
import socket
import sys
import time

from shared_sync import Batching, HealthServer, RedisStreamConsumer, Reject, WorkerMetrics
from shared_sync.errors import ConsumerBroken

try:
    import torch
except ImportError:
    torch = None

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
HEALTH_PORT = os.environ.get("HEALTH_PORT", "8081")
INSTANCE_ID = os.environ.get("INSTANCE_ID", socket.gethostname())
MODELS_ON_CPU = 2


class TorchModel:
    """Turns texts into vectors, many of them in one call of the model."""

    def __init__(self, context):
        self.context = context
        torch.manual_seed(0)  # the same weights everywhere
        self.model = torch.nn.EmbeddingBag(256, 8).to(context.device).eval()

    def process_batch(self, messages):
        """Return one result for each message; an error in its place concerns that message alone."""
        results = [check(message) for message in messages]
        good = [place for place, result in enumerate(results) if result is None]
        if good:
            texts = [list(messages[place].fields["text"].encode()) for place in good]
            starts = [sum(map(len, texts[:number])) for number in range(len(texts))]
            began = time.monotonic()
            with torch.inference_mode():
                device = self.context.device
                codes = torch.tensor([code for text in texts for code in text], device=device)
                vectors = self.model(codes, torch.tensor(starts, device=device)).tolist()
            seconds = time.monotonic() - began
            self.context.metrics.record_duration("model_inference_time", seconds)
            for place, vector in zip(good, vectors, strict=True):
                results[place] = {"vector": vector}
        return results

    def close(self):
        """Called when the worker stops, and before the model is loaded anew."""
        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class StandIn:
    """Takes as long as a model with fixed costs would: 20 ms for a batch, and 1 ms for a text."""

    def __init__(self, context):
        context.logger.warning("torch is not installed: a stand-in computes nothing of use")

    def process_batch(self, messages):
        time.sleep(0.02 + 0.001 * len(messages))
        return [check(message) or {"vector": [0.0] * 8} for message in messages]


def check(message):
    """Return what is wrong with a message; None if it can be processed."""
    if not message.fields.get("text"):
        return Reject("field 'text' is missing or empty")
    return None


def load(context):
    """Called in each child before any job is read; the child sees its own GPU only."""
    return TorchModel(context) if torch else StandIn(context)


def find_devices():
    """Return a device for each model. Does not initialize CUDA in this process."""
    gpus = torch.cuda.device_count() if torch else 0
    return [f"cuda:{number}" for number in range(gpus)] or ["cpu"] * MODELS_ON_CPU


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logger = logging.getLogger("gpu_worker")
    devices = find_devices()
    metrics = WorkerMetrics(INSTANCE_ID)
    consumer = RedisStreamConsumer(
        REDIS_URL,
        "gpu:jobs",
        "gpu-workers",
        None,
        logger,
        processor_factory=load,
        isolation="process",
        devices=devices,
        threads=len(devices),
        batch=Batching(max_size=16, max_wait_seconds=0.02),
        job_deadline_seconds=60,
        result_stream="gpu:results",
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
