"""The streams between the three programs.

Both have the hash tag `{speech}`, so that the text can take the place of the audio in one step, and
the translation finds its way back to the caller of the audio.
"""

from __future__ import annotations

from typing import Final

AUDIO: Final = "{speech}:audio"
"""From the gateway to the speech-to-text workers: a WAV file in the field `audio`."""

TEXTS: Final = "{speech}:texts"
"""From there to the translation workers: a text in the field `english`."""
