"""shared-sync demo --services, as a newcomer runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from helpers import eventually, start_program

from shared_sync.__main__ import main
from shared_sync.demo.services import run
from shared_sync.demo.services.apertium import Apertium
from shared_sync.demo.services.run import Missing
from shared_sync.errors import WorkerBroken

pytest.importorskip("pocketsphinx", reason="pip install 'shared_sync[speech]'")

NEED_APERTIUM = "apt-get install apertium-eng-spa"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The demo handles SIGTERM, in the process of the tests, too."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def apertium_is_here() -> bool:
    try:
        Apertium()
    except WorkerBroken:
        return False
    return True


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_it_plays_the_recordings_and_nothing_of_it_is_left_in_the_end(
    redis_server: object, how: signal.Signals
) -> None:
    demo = start_program(
        [sys.executable, "-u", "-m", "shared_sync", "demo", "--services", "--keep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert demo.stdout is not None
        seen = ""
        for line in demo.stdout:
            seen += line
            if "stays up" in line or (how is signal.SIGKILL and line.startswith("Page")):
                break
        started = psutil.Process(demo.pid).children(recursive=True)
        assert len(started) >= 4
        demo.send_signal(how)
        assert demo.wait(60) == (0 if how is signal.SIGINT else -9)
    finally:
        demo.kill()
        demo.communicate()
    eventually(lambda: not any(map(psutil.Process.is_running, started)), within=60)
    assert re.search(r"Page +http://127\.0\.0\.1:\d+/\n", seen)
    if how is signal.SIGINT:
        assert seen.count("English") == 6 + 1
        assert "      English  repair the healthy stream tonight\n" in seen
        assert "said was" not in seen
        assert seen.count("Spanish") == (6 if apertium_is_here() else 0)


def test_without_the_translator_it_names_the_package_and_shows_english(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Missing, "find", classmethod(lambda cls: cls("", NEED_APERTIUM)))
    monkeypatch.setattr(run, "load_recordings", lambda _: dict([*_RECORDINGS.items()][:1]))
    assert main(["demo", "--services", "--redis-url", redis_url]) == 0
    seen = capfd.readouterr().out
    assert f"Missing  {NEED_APERTIUM}" in seen
    assert "English  check the second stream tomorrow" in seen
    assert "Spanish" not in seen


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


_RECORDINGS = run.load_recordings(None)
