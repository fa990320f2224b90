"""Which recognizer is used, and what is said if one is missing. faster-whisper is a stand-in."""

from __future__ import annotations

import io
import sys
import wave
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from shared_sync.demo.services import recognizers
from shared_sync.demo.services.recognizers import FasterWhisper, Pocketsphinx, make_recognizer
from shared_sync.demo.speech import DEMO_AUDIO, DEMO_GRAMMAR, read_wav
from shared_sync.errors import ConfigurationError, WorkerBroken

SPEECH = read_wav((DEMO_AUDIO / "check.wav").read_bytes())


class Model:
    """Hears what it was made with, and how long the audio is."""

    def __init__(self, folder: str, device: str, device_index: int) -> None:
        self.made = f"{Path(folder).name} {device} {device_index}"

    def transcribe(self, file: io.BytesIO, language: str) -> tuple[Any, None]:
        with wave.open(file) as reader:
            assert (reader.getframerate(), reader.getnchannels()) == (16_000, 1)
            seconds = reader.getnframes() / 16_000
        heard = [(f" {self.made} ", seconds / 2), (f" {language}", seconds)]
        return (SimpleNamespace(text=text, end=end) for text, end in heard), None


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("faster_whisper")
    module.__spec__ = SimpleNamespace()  # type: ignore[assignment]

    def download_model(name: str, *, local_files_only: bool) -> str:
        assert local_files_only
        if name != "here":
            raise OSError("not in the cache\nmany more lines")
        return "/models/here"

    module.download_model, module.WhisperModel = download_model, Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper", module)


def make(engine: str, *, model: str = "here", grammar: str = "") -> Any:
    return make_recognizer(engine, model=model, device="cuda:1", grammar=grammar)


@pytest.mark.usefixtures("whisper")
def test_whisper_is_used_if_it_has_a_model_and_yields_the_text_so_far() -> None:
    recognizer = make("auto")
    assert isinstance(recognizer, FasterWhisper)
    heard = list(recognizer.recognize(SPEECH))
    assert [text for _, text in heard] == ["here cuda 1", "here cuda 1 en", "here cuda 1 en"]
    assert [share for share, _ in heard] == [pytest.approx(0.5, abs=0.01), 0.99, 1.0]


@pytest.mark.usefixtures("whisper")
def test_a_missing_model_is_named_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(WorkerBroken, match=r"download_model\('tiny'\)") as caught:
        make("faster-whisper", model="tiny")
    assert "many more lines" not in str(caught.value)
    assert recognizers.find_model(str(tmp_path)) == str(tmp_path)


def test_without_any_engine_the_worker_is_broken_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recognizers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(WorkerBroken, match="pip install faster-whisper"):
        make("faster-whisper")
    with pytest.raises(WorkerBroken, match=r"pip install 'shared_sync\[speech\]'"):
        make("auto")
    with pytest.raises(ConfigurationError, match="auto, pocketsphinx, faster-whisper"):
        make("whisper")


def test_pocketsphinx_yields_the_words_so_far_and_the_same_in_the_end_each_time() -> None:
    pytest.importorskip("pocketsphinx", reason="pip install 'shared_sync[speech]'")
    recognizer = make("auto", grammar=str(DEMO_GRAMMAR))
    assert isinstance(recognizer, Pocketsphinx)
    heard = [list(recognizer.recognize(SPEECH)) for _ in range(2)]
    assert heard[0] == heard[1]
    assert len(heard[0]) > 1
    assert heard[0][-1] == (1.0, "check the second stream tomorrow")
