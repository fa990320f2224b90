"""python -m shared_sync demo, as a newcomer runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from helpers import eventually, start_program

import shared_sync
from shared_sync.__main__ import main
from shared_sync.demo.speech import DEMO_AUDIO

pytest.importorskip("pocketsphinx", reason="pip install 'shared_sync[speech]'")

RECORDINGS = Path(__file__).parents[3] / "shared" / "audio"
Demo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def demo(redis_server: object) -> Iterator[Demo]:
    """Starts demos, which do not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = start_program(
            [sys.executable, "-u", "-m", "shared_sync", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def redis_servers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "redis" in child.name() or "valkey" in child.name()
    ]


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    assert process.stdout is not None
    text = ""
    while wanted not in text:
        line = process.stdout.readline()
        assert line, f"{wanted!r} did not come:\n{text}"
        text += line
    return text


def test_it_transcribes_the_shipped_files_word_for_word_and_shows_what_happened(
    demo: Demo,
) -> None:
    process = demo()
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    spoken: dict[str, str] = json.loads((DEMO_AUDIO / "transcripts.json").read_text())
    for file, text in spoken.items():
        assert re.search(rf"^\[\d/8\] {re.escape(file)} +{text}$", output, re.MULTILINE), output
    assert re.search(r"corrupt\.wav +dead letter: rejected: truncated WAV file", output)
    assert output.count("staged by the demo") == 2
    summary = dict(re.findall(r"^  (jobs|results|retries|dead letters) +(\d+)$", output, re.M))
    assert summary == {"jobs": "8", "results": "7", "retries": "2", "dead letters": "1"}
    assert re.search(r"p50 per job +\d+ ms", output)
    assert re.search(r"audio per second +[\d.]+ s", output)
    assert "shared-sync demo --keep" in output.partition("audio per second")[2]


def test_it_leaves_no_server_behind_when_it_is_killed(demo: Demo) -> None:
    process = demo("--keep", "--jobs", "1")
    read_until(process, "stays up until Ctrl-C")
    (server,) = redis_servers_of(process)
    process.kill()
    process.wait()
    eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_it_leaves_no_server_behind_when_it_is_interrupted_at_work(demo: Demo) -> None:
    processes = [demo("--jobs", "200") for _ in "ab"]
    for process, number, status in zip(
        processes, (signal.SIGINT, signal.SIGTERM), (130, 143), strict=True
    ):
        read_until(process, "[1/")
        (server,) = redis_servers_of(process)
        os.kill(process.pid, number)
        process.communicate(timeout=30)
        assert process.returncode == status
        assert not server.is_running()


def test_kept_alive_it_answers_for_its_health(demo: Demo) -> None:
    process = demo("--keep", "--threads", "1", "--jobs", "2")
    output = read_until(process, "stays up until Ctrl-C")
    found = re.search(r"(http://\S+)/health", output)
    assert found
    with urllib.request.urlopen(f"{found.group(1)}/health", timeout=10) as answer:
        health = json.load(answer)
    assert health["status"] == "healthy"
    assert health["redis_connected"] is True

    def finished() -> tuple[int, int]:
        with urllib.request.urlopen(f"{found.group(1)}/metrics", timeout=10) as answer:
            metrics = json.load(answer)
        return metrics["jobs_processed"], metrics["jobs_dead"]

    eventually(lambda: finished() == (3, 1))
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 0


def test_on_a_given_redis_it_cleans_up_after_itself(
    demo: Demo, redis_url: str, client: redis.Redis
) -> None:
    process = demo("--redis-url", redis_url, "--jobs", "1")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert client.keys() == []


def test_it_takes_any_recordings(demo: Demo, tmp_path: Path) -> None:
    if not RECORDINGS.is_dir():
        pytest.skip("the recordings are not here")
    (tmp_path / "any.wav").symlink_to(RECORDINGS / "austen-0930.wav")
    process = demo("--audio", str(tmp_path))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert re.search(r"any\.wav +.*amiable himself$", output, re.MULTILINE), output


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--audio", "/nowhere"], "/nowhere is not a folder"),
        (["--audio", str(Path(shared_sync.__file__).parent)], "no .wav file"),
    ],
)
def test_recordings_that_are_not_there_are_named(
    arguments: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == 2
    assert remedy in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("redis_url", "status", "remedy"),
    [
        ("redis://127.0.0.1:1", 1, "Connection refused"),
        ("nonsense", 2, "redis_url cannot be used"),
    ],
)
def test_a_redis_that_cannot_be_used_is_one_line_with_the_reason(
    redis_url: str, status: int, remedy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--redis-url", redis_url]) == status
    output, errors = capfd.readouterr()
    assert remedy in output + errors
    assert "Traceback" not in output + errors
