"""The recordings that the demos play."""

from __future__ import annotations

import json
from pathlib import Path

from shared_sync.demo.speech import DEMO_AUDIO
from shared_sync.errors import ConfigurationError


def load_recordings(folder: Path | None) -> dict[str, bytes]:
    """Return the WAV files of a folder by name; None for those that come with the package.

    Raises `ConfigurationError` if there are none.
    """
    where = folder or DEMO_AUDIO
    if not where.is_dir():
        raise ConfigurationError(f"--audio {where} is not a folder")
    found = {path.name: path.read_bytes() for path in sorted(where.glob("*.wav"))}
    if not found:
        raise ConfigurationError(f"no .wav file in {where}; give a folder of 16-bit WAV files")
    return found


def load_transcripts(folder: Path | None) -> dict[str, str]:
    """Return the words of the recordings that come with the package; nothing for others."""
    if folder is not None:
        return {}
    said: dict[str, str] = json.loads((DEMO_AUDIO / "transcripts.json").read_text())
    return said
