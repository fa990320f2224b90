"""shared-sync demo --services, as a newcomer runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from helpers import eventually, has_ended, start_program

from shared_sync.__main__ import main
from shared_sync.demo.services.apertium import Apertium
from shared_sync.demo.services.run import Missing
from shared_sync.errors import WorkerBroken

pytest.importorskip("pocketsphinx", reason="pip install 'shared_sync[speech]'")

Demo = Callable[..., "subprocess.Popen[str]"]
NEED_APERTIUM = "apt-get install apertium-eng-spa"


def apertium_is_here() -> bool:
    try:
        Apertium()
    except WorkerBroken:
        return False
    return True


@pytest.fixture
def demo(redis_server: object) -> Iterator[Demo]:
    """Starts demos, which do not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = start_program(
            [sys.executable, "-u", "-m", "shared_sync", "demo", "--services", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(demo: subprocess.Popen[str], wanted: str) -> str:
    """What the demo has printed, up to this text."""
    assert demo.stdout is not None
    seen = ""
    for line in demo.stdout:
        seen += line
        if wanted in line:
            return seen
    raise AssertionError(f"no {wanted!r} in:\n{seen}")


def end(demo: subprocess.Popen[str], number: signal.Signals) -> int:
    """Send a signal, and return the exit status once none of its programs is left."""
    started = psutil.Process(demo.pid).children(recursive=True)
    assert len(started) >= 3
    demo.send_signal(number)
    status = demo.wait(60)
    eventually(lambda: all(map(has_ended, started)), within=60)
    return status


def test_it_plays_the_recordings_stays_up_and_ends_with_ctrl_c(demo: Demo) -> None:
    running = demo("--keep")
    seen = read_until(running, "stays up")
    assert end(running, signal.SIGINT) == 0
    assert re.search(r"Page +http://127\.0\.0\.1:\d+/\n", seen)
    assert "      English  repair the healthy stream tonight\n" in seen
    assert seen.count("      English  ") == 6
    assert seen.count("      Spanish  ") == (6 if apertium_is_here() else 0)
    assert "said was" not in seen


def test_without_the_translator_it_names_the_package_shows_english_and_can_be_killed(
    demo: Demo, tmp_path: Path
) -> None:
    running = demo(APERTIUM_DATADIR=str(tmp_path))
    seen = read_until(running, "[2/6]")
    assert end(running, signal.SIGKILL) == -signal.SIGKILL
    assert re.search(f"Missing +.*{NEED_APERTIUM}\n", seen)
    assert "translation_worker" not in seen
    assert "[1/6] check.wav\n      English  check the second stream tomorrow\n[2/6]" in seen


def test_without_a_recognizer_it_translates_what_is_said_in_the_recordings(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if not apertium_is_here() and not os.environ.get("CI"):
        pytest.skip(NEED_APERTIUM)
    monkeypatch.setattr(Missing, "find", classmethod(lambda cls: cls("no pocketsphinx", "")))
    assert main(["demo", "--services", "--redis-url", redis_url]) == 0
    seen = capfd.readouterr().out
    assert "Missing  no pocketsphinx" in seen
    assert "English  drain the slow gateway now\n" in seen
    assert "Spanish  Desagüe la puerta lenta ahora\n" in seen


def test_options_of_the_other_demo_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--services", "--jobs", "3"]) == 2
    assert "--jobs and --threads are for the demo without --services" in capsys.readouterr().err
