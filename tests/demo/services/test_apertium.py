"""Apertium as an engine: what it is sent, and what happens when it dies, hangs or is not there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from helpers import eventually, has_ended

from shared_sync.demo.services.apertium import MOST_CHARS, Apertium
from shared_sync.errors import WorkerBroken


@pytest.fixture
def engine() -> Iterator[Apertium]:
    try:
        made = Apertium(timeout_seconds=20)
    except WorkerBroken as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must not skip what needs Apertium: {error}")
        pytest.skip(str(error))
    with closing(made):
        yield made


def programs(engine: Apertium) -> list[psutil.Process]:
    assert engine._process is not None
    return psutil.Process(engine._process.pid).children(recursive=True)


def test_each_text_gets_its_own_translation_whatever_it_contains(engine: Apertium) -> None:
    assert engine.translate("the house") == "La casa"
    assert engine.translate("") == ""
    special = r"[a\b] {c} ^d/e$ <f> @ #"
    assert all(mark in engine.translate(special) for mark in r"[]{}^/$<>@\#")
    assert engine.translate("the\0house\nis\tgreen.") == "La casa es verde."
    for end in ("...", "?!", "e.g.", "3.", "[", "\\", ".[]"):
        assert engine.translate(f"the house {end}").startswith("La casa"), end
    long = "the house is green and " * (MOST_CHARS // 23)
    assert engine.translate(long).count("casa") == long.count("house")
    assert engine.translate("the house") == "La casa"
    with pytest.raises(ValueError, match="the limit is 5000"):
        engine.translate("x" * (MOST_CHARS + 1))


def test_a_dead_program_is_started_again_and_a_hanging_one_costs_one_text(
    engine: Apertium,
) -> None:
    engine.translate("the house")
    started = programs(engine)
    assert len(started) > 5
    started[3].kill()
    assert engine.translate("the house") == "La casa"
    hanging = programs(engine)[0]
    hanging.send_signal(signal.SIGSTOP)
    engine._timeout_seconds = 0.2
    with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
        engine.translate("the garden")
    eventually(lambda: has_ended(hanging))
    engine._timeout_seconds = 20
    assert engine.translate("the house") == "La casa"
    last = programs(engine)
    engine.close()
    eventually(lambda: all(map(has_ended, last)))


def test_without_the_languages_the_worker_is_broken_and_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APERTIUM_DATADIR", str(tmp_path))
    with pytest.raises(WorkerBroken, match="apt-get install apertium-eng-spa"):
        Apertium()


def test_a_pipeline_that_cannot_start_is_an_error_of_the_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: Apertium
) -> None:
    (tmp_path / "modes").mkdir()
    (tmp_path / "modes" / "eng-spa.mode").write_text("false")
    monkeypatch.setenv("APERTIUM_DATADIR", str(tmp_path))
    with closing(Apertium()) as broken, pytest.raises(ConnectionError):
        broken.translate("the house")
