"""The examples, run as their first lines say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from helpers import eventually, start_program

from shared_sync import RedisStreamProducer

EXAMPLES = Path(__file__).parents[1] / "examples"


BROKEN_TORCH = """
import contextlib

class cuda:
    device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: False)

class nn:
    class EmbeddingBag:
        def __init__(self, *sizes): pass
        def to(self, device): return self
        def eval(self): return self
        def __call__(self, *inputs):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

def manual_seed(seed): pass
def tensor(values, device): return values
def inference_mode(): return contextlib.nullcontext()
"""
"""Stands in for torch on a machine whose GPU is broken."""


@contextmanager
def worker(program: str, redis_url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = start_program(
        [sys.executable, str(EXAMPLES / program)],
        env={**os.environ, "REDIS_URL": redis_url, "HEALTH_PORT": "0", **environment},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_gpu_worker_runs_on_the_cpu_and_drains(redis_url: str, client: redis.Redis) -> None:
    with RedisStreamProducer(redis_url, "gpu:jobs") as producer:
        producer.publish_many([{"text": f"text {n}"} for n in range(20)] + [{"text": ""}])
    with worker("gpu_worker.py", redis_url, CUDA_VISIBLE_DEVICES="") as process:
        eventually(lambda: client.xlen("gpu:results") == 21, within=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    results = [fields for _, fields in client.xrange("gpu:results")]
    done = [fields for fields in results if fields[b"status"] == b"done"]
    assert len(done) == 20
    assert all(len(json.loads(fields[b"vector"])) == 8 for fields in done)
    (dead,) = [fields for fields in results if fields[b"status"] == b"dead"]
    assert b"field 'text' is missing or empty" in dead[b"reason"]


def test_the_gpu_worker_whose_gpu_is_broken_gives_the_jobs_back_and_ends(
    redis_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(BROKEN_TORCH)
    with RedisStreamProducer(redis_url, "gpu:jobs") as producer:
        producer.publish_many({"text": f"text {n}"} for n in range(20))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with worker("gpu_worker.py", redis_url, PYTHONPATH=path) as process:
        assert process.wait(60) == 70
    assert client.xlen("gpu:jobs") == 20
    assert client.xlen("gpu:results") == 0
    assert client.xlen("{gpu:jobs}:gpu-workers:dead") == 0
