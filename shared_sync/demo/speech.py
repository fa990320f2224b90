"""Speech to text for the demo: a WAV file in, words out, by pocketsphinx on one CPU core.

`read_wav` converts the audio of a client to what the recognizer takes: 16 kHz, 16 bit, mono. For a
file that it cannot read it raises `Reject` with the reason, because no retry repairs a file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from pathlib import Path
from typing import Any

from shared_sync.errors import ConfigurationError, Reject

SAMPLE_RATE = 16_000
DEMO_AUDIO = Path(__file__).with_name("audio")
DEMO_GRAMMAR = DEMO_AUDIO / "demo.gram"

_LOWEST_RATE, _HIGHEST_RATE = 8_000, 192_000
_SAMPLE_BYTES = 2
_PCM, _EXTENSIBLE = 0x0001, 0xFFFE
_FORMAT_NAMES = {3: "floating point", 6: "A-law", 7: "mu-law", 0x11: "ADPCM", 0x55: "MP3"}
_LENGTH_UNKNOWN = 0x7FFF_F000  # programs that write to a pipe announce this length or more
_ONE_WORD = "one word"
_ONE_WORD_GRAMMAR = "#JSGF V1.0; grammar one; public <word> = hello;"
_LOBES = 8  # zero crossings of the resampling filter on each side of its centre


class UnsupportedAudio(Reject):
    """The file may be whole, but `read_wav` reads no files of its kind."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Speech as the recognizer takes it: 16-bit little-endian mono samples at `sample_rate`."""

    samples: bytes
    sample_rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        return len(self.samples) / _SAMPLE_BYTES / self.sample_rate


def read_wav(data: bytes, *, max_seconds: float = 60.0) -> Audio:
    """Read a whole WAV file, mixed down to mono and converted to 16 kHz.

    Takes 16-bit PCM of any number of channels at 8 to 192 kHz. Raises `Reject` for everything
    else, and for more than `max_seconds` of audio.
    """
    channels, rate, frames = _parse(data)
    frame_bytes = channels * _SAMPLE_BYTES
    count = len(frames) // frame_bytes
    if count > max_seconds * rate:
        raise Reject(
            f"the WAV file holds {count / rate:.1f} s of audio, the limit is {max_seconds:g} s"
        )
    frames = frames[: count * frame_bytes]
    if channels == 1 and rate == SAMPLE_RATE:
        return Audio(frames)
    samples = struct.unpack(f"<{count * channels}h", frames)
    mono = [sum(frame) / channels for frame in zip(*[iter(samples)] * channels, strict=True)]
    converted = mono if rate == SAMPLE_RATE else _resample(mono, rate)
    whole = [max(-32768, min(32767, round(sample))) for sample in converted]
    return Audio(struct.pack(f"<{len(whole)}h", *whole))


def wav_seconds(data: bytes) -> float:
    """Return the length of a WAV file that `read_wav` can read, without converting it.

    Raises `UnsupportedAudio` for a file of another kind, and `Reject` for one that is broken.
    """
    channels, rate, frames = _parse(data)
    return len(frames) / (channels * _SAMPLE_BYTES * rate)


class Recognizer:
    """Turns speech into lower-case words.

    With `grammar`, the path of a JSGF file, only sentences of that grammar are recognized, and
    loading and decoding take a fraction of a second. Without it, any English sentence is, with the
    model of pocketsphinx, which is slower and more often wrong.

    A recognizer is not thread-safe: make one for each thread. pocketsphinx keeps the interpreter
    lock while it decodes, so no other thread of the process runs meanwhile. The model was trained
    on wide-band speech: at 8 kHz, as from a telephone, more words are misheard.

    Raises `ConfigurationError` when pocketsphinx is missing or the grammar cannot be used.
    """

    def __init__(self, grammar: Path | None = None) -> None:
        try:
            from pocketsphinx import Decoder  # noqa: PLC0415  # heavy, and an optional dependency
        except ImportError as error:
            raise ConfigurationError(
                "speech recognition needs pocketsphinx: pip install 'shared_sync[speech]'"
            ) from error
        model: dict[str, Any] = {}
        if grammar is not None:
            _check_readable(grammar)
            model = {"jsgf": str(grammar), "lm": None}
        try:
            self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", **model)
            self._decoder.add_jsgf_string(_ONE_WORD, _ONE_WORD_GRAMMAR)
            self._unadapted = self._decoder.get_cmn(False)
        except (RuntimeError, ValueError) as error:
            raise ConfigurationError(
                "pocketsphinx cannot use its English model"
                if grammar is None
                else f"pocketsphinx cannot use the grammar {grammar}: it is not JSGF, "
                "or a word is missing from the dictionary"
            ) from error

    def transcribe(self, audio: Audio) -> str:
        """The words of `audio`, separated by spaces; empty if none were recognized.

        Blocks while it decodes. Each call is an utterance of its own, whatever was decoded before.
        """
        if not audio.samples:
            return ""
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(audio.samples, full_utt=True)
        finally:
            self._decoder.end_utt()
        return self._words()

    def transcribe_in_parts(
        self, audio: Audio, *, seconds: float = 1.0
    ) -> Iterator[tuple[float, str]]:
        """Yield the share of the audio that was recognized, and its words, part by part.

        A part has so many `seconds` of audio; the last share is 1.0. Later parts may change words
        that were yielded before. Between two parts the interpreter lock is free.
        """
        step = max(_SAMPLE_BYTES, int(seconds * audio.sample_rate) * _SAMPLE_BYTES)
        self._adapt(audio)
        self._decoder.start_utt()
        try:
            for start in range(0, len(audio.samples), step):
                self._decoder.process_raw(audio.samples[start : start + step], full_utt=False)
                if start + step < len(audio.samples):
                    yield (start + step) / len(audio.samples), self._words()
        finally:
            self._decoder.end_utt()
        yield 1.0, self._words()

    def _adapt(self, audio: Audio) -> None:
        """Adapt the decoder to the sound of the whole recording, and of nothing before it.

        Otherwise it would adapt only while it recognizes, and misunderstand the first words. The
        grammar of one word costs next to nothing to search.
        """
        decoder, search = self._decoder, self._decoder.current_search()
        decoder.set_cmn(self._unadapted)
        decoder.activate_search(_ONE_WORD)
        try:
            decoder.start_utt()
            decoder.process_raw(audio.samples, full_utt=True)
            decoder.end_utt()
        finally:
            decoder.activate_search(search)
        decoder.set_cmn(decoder.get_cmn(False))

    def _words(self) -> str:
        hypothesis = self._decoder.hyp()
        return "" if hypothesis is None else str(hypothesis.hypstr)


def _check_readable(grammar: Path) -> None:
    """Raise an error: pocketsphinx 5.1 ends the process if it cannot open the grammar."""
    try:
        grammar.open("rb").close()
    except OSError as error:
        raise ConfigurationError(f"cannot read the grammar {grammar}: {error.strerror}") from error


def _parse(data: bytes) -> tuple[int, int, bytes]:
    """The number of channels, frames per second, and the bytes of the frames."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise UnsupportedAudio("not a WAV file: it does not begin with RIFF and WAVE")
    form: tuple[int, int] | None = None
    for name, size, body in _chunks(data):
        if name == b"fmt ":
            form = _parse_format(body)
        elif name == b"data":
            if form is None:
                raise Reject("corrupt WAV file: the audio comes before the chunk that describes it")
            if len(body) < size < _LENGTH_UNKNOWN:
                raise Reject(f"truncated WAV file: {len(body)} of {size} bytes of audio are there")
            if len(body) < form[0] * _SAMPLE_BYTES:
                raise Reject("the WAV file holds no audio")
            return (*form, body)
    raise Reject(f"truncated WAV file: it ends before its {'audio' if form else 'description'}")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """The name, announced size and actual body of each chunk."""
    start = 12
    while start + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, start)
        start += 8
        yield name, size, data[start : start + size]
        start += size + size % 2


def _parse_format(body: bytes) -> tuple[int, int]:
    """The number of channels and frames per second. Raises `Reject` for other formats than PCM."""
    if len(body) < 16:
        raise Reject(f"corrupt WAV file: its description has {len(body)} bytes instead of 16")
    encoding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if encoding == _EXTENSIBLE and len(body) >= 26:
        (encoding,) = struct.unpack_from("<H", body, 24)
    if encoding != _PCM or bits != 8 * _SAMPLE_BYTES:
        kind = "PCM" if encoding == _PCM else _FORMAT_NAMES.get(encoding, f"format {encoding}")
        raise UnsupportedAudio(f"the WAV file is {bits}-bit {kind}; only 16-bit PCM can be read")
    if channels == 0:
        raise Reject("corrupt WAV file: it has no channels")
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise UnsupportedAudio(
            f"the WAV file has {rate} samples per second; "
            f"{_LOWEST_RATE} to {_HIGHEST_RATE} can be read"
        )
    return channels, rate


def _resample(samples: list[float], rate: int) -> list[float]:
    """Convert `samples` from `rate` to 16 kHz with a windowed-sinc filter."""
    kernels, step = _filter_bank(rate)
    phases, taps = len(kernels), len(kernels[0])
    silence = [0.0] * (taps // 2)
    padded = [*silence[1:], *samples, *silence]
    positions = (divmod(n * step, phases) for n in range(len(samples) * phases // step))
    return [sum(map(mul, padded[at : at + taps], kernels[phase])) for at, phase in positions]


@lru_cache(maxsize=4)
def _filter_bank(rate: int) -> tuple[list[list[float]], int]:
    """The filters from `rate` to 16 kHz, and the step between filters for each output sample.

    There is one filter for each position that an output sample can have between two input samples.
    """
    divisor = math.gcd(rate, SAMPLE_RATE)
    phases = SAMPLE_RATE // divisor
    passband = min(1.0, SAMPLE_RATE / rate)
    half = math.ceil(_LOBES / passband)
    bank = []
    for phase in range(phases):
        offsets = [tap - phase / phases for tap in range(1 - half, half + 1)]
        kernel = [_sinc(x * passband) * (1 + math.cos(math.pi * x / half)) for x in offsets]
        gain = sum(kernel)
        bank.append([weight / gain for weight in kernel])
    return bank, rate // divisor


def _sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0
