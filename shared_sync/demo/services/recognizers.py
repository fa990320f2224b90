"""Speech recognition, for the speech-to-text worker: pocketsphinx, or faster-whisper.

Each recognizer takes the audio of one message, and returns the text again and again while it
recognizes more of it.
"""

from __future__ import annotations

import importlib.util
import io
import os
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from shared_sync.demo.speech import Audio, Recognizer
from shared_sync.errors import ConfigurationError, WorkerBroken

ENGINES: Final = ("auto", "pocketsphinx", "faster-whisper")


class SpeechRecognizer(Protocol):
    """Turns speech into text. For one thread at a time."""

    def recognize(self, audio: Audio) -> Iterator[tuple[float, str]]:
        """Yield the share of the audio that was recognized, and the text of it. 1.0 is the last."""


class Pocketsphinx:
    """A small model of English, which needs neither a GPU nor a download."""

    def __init__(self, grammar: Path | None = None) -> None:
        try:
            self._recognizer = Recognizer(grammar)
        except ConfigurationError as error:
            raise WorkerBroken(str(error)) from error

    def recognize(self, audio: Audio) -> Iterator[tuple[float, str]]:
        return self._recognizer.transcribe_in_parts(audio)


class FasterWhisper:
    """A model of OpenAI's Whisper, on a GPU or the CPU. `model` is its name, or its folder."""

    def __init__(self, model: str, device: str) -> None:
        import faster_whisper  # noqa: PLC0415 - optional, and takes seconds

        kind, _, index = device.partition(":")
        self._model: Any = faster_whisper.WhisperModel(
            find_model(model), device=kind, device_index=int(index or 0)
        )

    def recognize(self, audio: Audio) -> Iterator[tuple[float, str]]:
        segments, _ = self._model.transcribe(to_wav(audio), language="en")
        text = ""
        for segment in segments:  # the model runs while they are read
            text = f"{text} {segment.text.strip()}".strip()
            yield min(0.99, segment.end / max(0.01, audio.seconds)), text
        yield 1.0, text


def make_recognizer(engine: str, *, model: str, device: str, grammar: str) -> SpeechRecognizer:
    """Return the recognizer that `engine` names; "auto" is faster-whisper if it can be had.

    Raises `WorkerBroken` if it is not installed.
    """
    if engine not in ENGINES:
        raise ConfigurationError(f"STT_ENGINE must be one of {', '.join(ENGINES)}, not {engine!r}")
    if engine == "faster-whisper" or (engine == "auto" and not grammar and has_whisper(model)):
        if reason := missing_for_whisper(model):
            raise WorkerBroken(reason)
        return FasterWhisper(model, device)
    return Pocketsphinx(Path(grammar) if grammar else None)


def has_whisper(model: str) -> bool:
    """Whether faster-whisper and the model are on this machine."""
    return not missing_for_whisper(model)


def missing_for_whisper(model: str) -> str:
    """Return what faster-whisper lacks on this machine, with the remedy; "" if nothing."""
    if importlib.util.find_spec("faster_whisper") is None:
        return "faster-whisper is not installed: pip install faster-whisper"
    try:
        find_model(model)
    except Exception as error:  # noqa: BLE001 - huggingface_hub raises many types
        reason = str(error).partition("\n")[0]
        return (
            f"there is no model {model!r} on this machine ({reason}): download it with "
            f'python -c "import faster_whisper as f; f.download_model({model!r})", or set '
            "WHISPER_MODEL to the folder of one"
        )
    return ""


def find_model(model: str) -> str:
    """Return the folder of a model. Raises if it is not on this machine: downloads nothing."""
    if os.path.isdir(model):
        return model
    import faster_whisper  # noqa: PLC0415 - optional, and takes seconds

    return str(faster_whisper.download_model(model, local_files_only=True))


def to_wav(audio: Audio) -> io.BytesIO:
    """Return the audio as a WAV file in memory."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(audio.sample_rate)
        writer.writeframes(audio.samples)
    file.seek(0)
    return file
