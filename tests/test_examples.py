"""The examples, run as their first lines say."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from helpers import ask, eventually, free_port, start_program

from shared_sync import RedisStreamProducer
from shared_sync.demo.speech import DEMO_AUDIO

EXAMPLES = Path(__file__).parents[1] / "examples"
RECORDINGS = Path(__file__).parents[2] / "shared" / "audio"

STT_NAMES = {
    "jobs_processed",
    "successful_transcriptions",
    "failed_transcriptions",
    "avg_transcription_time_ms",
    "model_inference_time_ms",
    "audio_duration_processed_seconds",
    "memory_usage_mb",
    "error_rate",
}

Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def stt_worker(redis_url: str) -> Iterator[Spawn]:
    """Starts speech workers, which do not outlive the test."""
    pytest.importorskip("pocketsphinx", reason="pip install 'shared_sync[speech]'")
    started: list[subprocess.Popen[bytes]] = []

    def start(
        instance_id: str, health_port: int = 0, lease_seconds: int = 30
    ) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "REDIS_URL": redis_url,
            "HEALTH_PORT": str(health_port),
            "INSTANCE_ID": instance_id,
            "CONSUMER_ID": instance_id,
            "LEASE_SECONDS": str(lease_seconds),
        }
        process = start_program(
            [sys.executable, str(EXAMPLES / "stt_worker.py")],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def publish(redis_url: str, files: list[Path]) -> list[str]:
    with RedisStreamProducer(redis_url, "audio:jobs") as producer:
        return producer.publish_many(
            {"client_id": "c1", "file": file.name, "audio": file.read_bytes()} for file in files
        )


def transcripts(client: redis.Redis) -> list[dict[str, str]]:
    return [
        {name.decode(): value.decode() for name, value in fields.items()}
        for _, fields in client.xrange("audio:transcripts")
    ]


def word_errors(said: list[str], heard: list[str]) -> int:
    """The Levenshtein distance in words: the fewest insertions, deletions and replacements."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        previous, row[0] = row[0], number
        for column, other in enumerate(heard, 1):
            substituted = previous + (word != other)
            previous = row[column]
            row[column] = min(substituted, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def test_the_speech_worker_serves_health_and_metrics_and_drains(
    stt_worker: Spawn, redis_url: str, client: redis.Redis
) -> None:
    port = free_port()
    worker = stt_worker("stt-1", port)
    files = sorted(DEMO_AUDIO.glob("*.wav"))[:2]
    ids = publish(redis_url, files)
    eventually(lambda: client.xlen("audio:transcripts") == 2, within=60)
    assert [entry["message_id"] for entry in transcripts(client)] == ids
    assert [entry["file"] for entry in transcripts(client)] == [file.name for file in files]
    page = f"http://127.0.0.1:{port}"
    eventually(lambda: ask(f"{page}/health")[1]["status"] == "healthy")
    health = ask(f"{page}/health")[1]
    assert health["checks"]["model"]["model_loaded"] is health["redis_connected"] is True
    assert {ask(f"{page}/health/{probe}")[0] for probe in ("live", "ready", "startup")} == {200}
    metrics = ask(f"{page}/metrics")[1]
    assert metrics.keys() >= STT_NAMES
    assert metrics["successful_transcriptions"] == metrics["jobs_processed"] == 2
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


def test_the_gateway_prints_the_results(
    stt_worker: Spawn, redis_url: str, client: redis.Redis
) -> None:
    program = [sys.executable, str(EXAMPLES / "gateway.py")]
    environment = {**os.environ, "REDIS_URL": redis_url}
    stt_worker("stt-1")
    files = sorted(DEMO_AUDIO.glob("*.wav"))[:2]
    with start_program(program, env=environment, stdout=subprocess.PIPE, text=True) as listening:
        try:
            done = subprocess.run(
                [*program, *map(str, files), __file__],
                env=environment,
                capture_output=True,
                text=True,
                timeout=90,
                check=True,
            )
            lines = sorted(done.stdout.splitlines())
            assert [line.partition(":")[0] for line in lines] == sorted(
                [*(file.name for file in files), Path(__file__).name]
            )
            assert "test_examples.py: rejected: no readable WAV file" in done.stdout
            assert client.xlen("audio:transcripts") == 0
            eventually(
                lambda: any("listener" in one["name"] for one in client.client_list()), within=60
            )
            publish(redis_url, [Path(__file__)])
            assert listening.stdout is not None
            assert "rejected: no readable WAV file" in listening.stdout.readline()
        finally:
            listening.terminate()
    assert not client.keys("{audio:jobs}:replies:*")


def test_the_speech_worker_rejects_a_job_without_audio(
    stt_worker: Spawn, redis_url: str, client: redis.Redis
) -> None:
    with RedisStreamProducer(redis_url, "audio:jobs") as producer:
        producer.publish({"file": "text", "audio": b"not a WAV file"})
        producer.publish({"file": "none"})
    stt_worker("stt-1")
    eventually(lambda: client.xlen("audio:transcripts") == 2, within=60)
    assert [entry["status"] for entry in transcripts(client)] == ["dead", "dead"]
    assert client.xlen("audio:jobs") == 0


def test_at_least_half_of_the_words_in_real_recordings_are_recognized(
    stt_worker: Spawn, redis_url: str, client: redis.Redis
) -> None:
    if not RECORDINGS.is_dir():
        pytest.skip("the recordings are not installed")
    table = re.findall(
        r"^\| (\S+\.wav) \| [\d.]+ \| (.+?) \|$", (RECORDINGS / "README.md").read_text(), re.M
    )
    table = sorted(table, key=lambda row: (RECORDINGS / row[0]).stat().st_size)[:2]
    assert len(table) == 2
    stt_worker("stt-1")
    publish(redis_url, [RECORDINGS / file for file, _ in table])
    eventually(lambda: client.xlen("audio:transcripts") == 2, within=90)
    heard = {entry["file"]: entry["text"].split() for entry in transcripts(client)}
    errors = sum(word_errors(said.split(), heard[file]) for file, said in table)
    rate = errors / sum(len(said.split()) for _, said in table)
    print(f"word error rate {rate:.3f}")
    assert rate <= 0.5


def test_a_job_whose_worker_was_killed_is_finished_once_by_another(
    stt_worker: Spawn, redis_url: str, client: redis.Redis
) -> None:
    files = sorted(DEMO_AUDIO.glob("*.wav"))[:4]
    victim, _ = (stt_worker(name, lease_seconds=2) for name in ("victim", "second"))
    eventually(lambda: client.zcard("{audio:jobs}:stt-workers:presence") == 2, within=60)
    ids = publish(redis_url, files)

    def victim_has_a_message() -> bool:
        rows = client.xpending("audio:jobs", "stt-workers")["consumers"]
        return any(row["name"] == b"victim" for row in rows)

    eventually(victim_has_a_message)
    victim.kill()
    killed = time.monotonic()
    eventually(lambda: client.xlen("audio:jobs") == 0, within=60)
    print(f"all done {time.monotonic() - killed:.1f} s after the kill")
    results = transcripts(client)
    assert sorted(result["message_id"] for result in results) == sorted(ids)
    assert {result["status"] for result in results} == {"done"}


# --- GPUs -----------------------------------------------------------------------------------------


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


WHISPER = """
from types import SimpleNamespace

def decode_audio(file):
    data = file.read()
    if not data:
        import av
        raise av.FFmpegError("nothing to decode")
    return data

def download_model(name, local_files_only):
    assert local_files_only
    return "/models/" + name

class WhisperModel:
    def __init__(self, model, device, device_index):
        self.words = [model, device, str(device_index)]

    def transcribe(self, audio, beam_size):
        info = SimpleNamespace(language="en")
        return (SimpleNamespace(text=f" {word} ") for word in self.words), info
"""
"""Stands in for faster-whisper, and hears the arguments of its model."""


def test_the_worker_for_whisper_transcribes_and_rejects(
    redis_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "faster_whisper.py").write_text(WHISPER)
    (tmp_path / "av.py").write_text("class FFmpegError(Exception): pass")
    (tmp_path / "ctranslate2.py").write_text("def get_cuda_device_count(): return 0")
    with RedisStreamProducer(redis_url, "audio:jobs") as producer:
        producer.publish_many([{"audio": b"sound"}, {"audio": b""}, {"file": "none"}])
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with worker(
        "faster_whisper_worker.py", redis_url, PYTHONPATH=path, WHISPER_MODEL="small"
    ) as process:
        eventually(lambda: client.xlen("audio:transcripts") == 3, within=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    first, *others = transcripts(client)
    assert (first["status"], first["text"]) == ("done", "/models/small cpu 0")
    assert [entry["status"] for entry in others] == ["dead", "dead"]
    assert all("no readable audio in field 'audio'" in entry["reason"] for entry in others)


def test_the_worker_for_whisper_says_in_one_line_what_is_missing(redis_url: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "faster_whisper_worker.py")],
        env={**os.environ, "REDIS_URL": redis_url, "WHISPER_MODEL": "/none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert "pip install faster-whisper" in line or "download it with" in line
