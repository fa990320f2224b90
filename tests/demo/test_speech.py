"""Speech for the demo: what is read, what is refused and why, and what is recognized."""

from __future__ import annotations

import json
import math
import random
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from operator import mul
from pathlib import Path

import pytest

from shared_sync.demo.speech import DEMO_AUDIO, DEMO_GRAMMAR, Audio, Recognizer, read_wav
from shared_sync.errors import ConfigurationError, Reject

RECORDINGS = Path(__file__).parents[3] / "shared" / "audio"
TRANSCRIPTS: dict[str, str] = json.loads((DEMO_AUDIO / "transcripts.json").read_text())

needs_pocketsphinx = pytest.mark.skipif(
    find_spec("pocketsphinx") is None, reason="pocketsphinx is not installed"
)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(DEMO_GRAMMAR)


def demo(name: str) -> bytes:
    return (DEMO_AUDIO / name).read_bytes()


def wav(
    samples: list[int],
    *,
    rate: int = 16_000,
    channels: int = 1,
    encoding: int = 1,
    bits: int = 16,
    announced: int | None = None,
    extra: bytes = b"",
) -> bytes:
    """A WAV file of interleaved 16-bit `samples`, its header saying whatever the caller wants."""
    frames = struct.pack(f"<{len(samples)}h", *samples)
    size = len(frames) if announced is None else announced
    block = channels * bits // 8
    description = struct.pack("<HHIIHH", encoding, channels, rate, rate * block, block, bits)
    description += extra
    return b"".join(
        [
            struct.pack("<4sI4s", b"RIFF", 20 + len(description) + len(frames), b"WAVE"),
            struct.pack("<4sI", b"fmt ", len(description)) + description,
            struct.pack("<4sI", b"data", size) + frames,
        ]
    )


def samples_of(audio: Audio) -> list[int]:
    return [sample for (sample,) in struct.iter_unpack("<h", audio.samples)]


def tone(hertz: float, *, rate: int, seconds: float = 0.5) -> list[int]:
    return [
        round(10_000 * math.sin(2 * math.pi * hertz * n / rate)) for n in range(int(rate * seconds))
    ]


def strength(samples: list[int]) -> float:
    """The root mean square of the middle half, away from the edges."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    return math.sqrt(sum(sample * sample for sample in middle) / len(middle))


def raised(samples: list[int], rate: int) -> list[int]:
    """16 kHz samples at a higher rate, on straight lines between them."""
    positions = [n * 16_000 / rate for n in range((len(samples) - 1) * rate // 16_000)]
    return [
        round(samples[int(x)] + x % 1 * (samples[int(x) + 1] - samples[int(x)])) for x in positions
    ]


def halved(samples: list[int]) -> list[int]:
    """16 kHz samples at 8 kHz: smoothed by a half-band filter, every other one kept."""
    half_band = (-1, 0, 9, 16, 9, 0, -1)
    return [
        sum(map(mul, samples[n : n + 7], half_band)) // 32 for n in range(0, len(samples) - 7, 2)
    ]


def test_a_16_khz_mono_file_is_taken_as_it_is() -> None:
    audio = read_wav(wav([1, -2, 32767, -32768] * 4000))
    assert samples_of(audio) == [1, -2, 32767, -32768] * 4000
    assert audio.sample_rate == 16_000
    assert audio.seconds == 1.0


def test_stereo_is_mixed_down_to_the_mean_of_both_sides() -> None:
    audio = read_wav(wav([100, 300, -32768, -32768, 32767, 32767], channels=2))
    assert samples_of(audio) == [200, -32768, 32767]


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_347, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_become_16_khz_of_the_same_length_pitch_and_loudness(rate: int) -> None:
    audio = read_wav(wav(tone(1000, rate=rate), rate=rate))
    assert audio.sample_rate == 16_000
    assert audio.seconds == pytest.approx(0.5, abs=0.001)
    there = samples_of(audio)[1000:7000]
    expected = tone(1000, rate=16_000)[1000:7000]
    assert max(abs(a - b) for a, b in zip(there, expected, strict=True)) < 100


def test_a_tone_that_16_khz_cannot_hold_is_filtered_out_and_not_folded_back() -> None:
    audio = read_wav(wav(tone(11_000, rate=44_100), rate=44_100))
    assert strength(samples_of(audio)) < 50


def test_a_loud_recording_is_clipped_and_does_not_overflow() -> None:
    square = ([32767] * 20 + [-32768] * 20) * 100
    audio = read_wav(wav(square, rate=44_100))
    assert max(samples_of(audio)) == 32767
    assert min(samples_of(audio)) == -32768


def test_ten_seconds_of_44_khz_stereo_are_converted_in_a_few_seconds_at_most() -> None:
    data = wav([0] * 882_000, rate=44_100, channels=2)
    before = time.process_time()
    assert read_wav(data).seconds == pytest.approx(10.0)
    assert time.process_time() - before < 5


def test_other_chunks_around_the_audio_are_passed_over() -> None:
    plain = wav([1, 2, 3])
    odd = struct.pack("<4sI", b"LIST", 3) + b"abc\0"
    audio = read_wav(plain[:12] + odd + plain[12:] + odd)
    assert samples_of(audio) == [1, 2, 3]


def test_the_extensible_header_of_pcm_is_understood() -> None:
    extension = struct.pack("<HHIH14s", 22, 16, 0, 1, b"\0" * 14)
    assert samples_of(read_wav(wav([1, 2], encoding=0xFFFE, extra=extension))) == [1, 2]


@pytest.mark.parametrize("announced", [0x7FFFF000, 0xFFFFFFFF])
def test_a_file_written_to_a_pipe_without_a_length_reads_to_its_end(announced: int) -> None:
    assert samples_of(read_wav(wav([1, 2], announced=announced))) == [1, 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a WAV file"),
        (b"ID3\x04 an MP3 file, say, with more after it", "not a WAV file"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "not a WAV file"),
        (wav([1] * 100)[:12], "ends before its description"),
        (wav([1] * 100)[:20], "description has 0 bytes instead of 16"),
        (wav([1] * 100)[:40], "ends before its audio"),
        (wav([1] * 100)[:144], "100 of 200 bytes of audio are there"),
        (wav([1], announced=50), "2 of 50 bytes"),
        (wav([1])[:12] + wav([1])[36:], "the audio comes before the chunk that describes it"),
        (wav([]), "holds no audio"),
        (wav([1], channels=2), "holds no audio"),
        (wav([1], channels=0), "no channels"),
        (wav([1], bits=8), "8-bit PCM; only 16-bit PCM"),
        (wav([1], bits=24), "24-bit PCM; only 16-bit PCM"),
        (wav([1], encoding=3, bits=32), "32-bit floating point; only 16-bit PCM"),
        (wav([1], encoding=7, bits=8), "8-bit mu-law"),
        (wav([1], encoding=0x1234), "16-bit format 4660"),
        (wav([1], rate=0), "0 samples per second"),
        (wav([1], rate=4000), "4000 samples per second; 8000 to 192000"),
        (wav([1] * 8000 * 61, rate=8000), r"61\.0 s of audio, the limit is 60 s"),
    ],
)
def test_a_file_that_cannot_be_read_is_rejected_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Reject, match=reason):
        read_wav(data)


def test_a_demo_file_cut_or_damaged_anywhere_is_read_or_rejected_and_nothing_else() -> None:
    chance = random.Random(7)
    whole = demo("drain.wav")[:2000]
    for _ in range(2000):
        data = bytearray(whole[: chance.randrange(len(whole))])
        for _ in range(3):
            if data:
                data[chance.randrange(min(len(data), 60))] = chance.randrange(256)
        try:
            assert read_wav(bytes(data)).samples
        except Reject as reason:
            assert str(reason)  # noqa: PT017


@needs_pocketsphinx
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_each_demo_file_is_recognized_word_for_word(recognizer: Recognizer, name: str) -> None:
    assert recognizer.transcribe(read_wav(demo(name))) == TRANSCRIPTS[name]


@needs_pocketsphinx
def test_a_transcript_does_not_depend_on_what_was_heard_before(recognizer: Recognizer) -> None:
    for names in (list(TRANSCRIPTS), sorted(TRANSCRIPTS, reverse=True)):
        heard = {name: recognizer.transcribe(read_wav(demo(name))) for name in names}
        assert heard == TRANSCRIPTS


@needs_pocketsphinx
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_demo_file_in_44_khz_stereo_is_recognized(recognizer: Recognizer, name: str) -> None:
    mono = raised(samples_of(read_wav(demo(name))), 44_100)
    stereo = [side for sample in mono for side in (sample, sample)]
    audio = read_wav(wav(stereo, rate=44_100, channels=2))
    assert recognizer.transcribe(audio) == TRANSCRIPTS[name]


@needs_pocketsphinx
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_demo_file_at_8_khz_is_recognized(recognizer: Recognizer, name: str) -> None:
    audio = read_wav(wav(halved(samples_of(read_wav(demo(name)))), rate=8000))
    assert recognizer.transcribe(audio) == TRANSCRIPTS[name]


@needs_pocketsphinx
@pytest.mark.parametrize("seconds", [0, 0.001, 0.5])
def test_silence_has_no_words(recognizer: Recognizer, seconds: float) -> None:
    assert recognizer.transcribe(Audio(bytes(2 * int(16_000 * seconds)))) == ""


@needs_pocketsphinx
def test_the_recognizer_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    recognizer = Recognizer(DEMO_GRAMMAR)
    recognizer.transcribe(read_wav(demo("drain.wav")))
    recognizer.transcribe(Audio(bytes(320)))
    assert capfd.readouterr() == ("", "")


@needs_pocketsphinx
@pytest.mark.parametrize(
    "text", ["", "not a grammar", "#JSGF V1.0;\ngrammar g;\npublic <a> = xyzzyq;\n"]
)
def test_a_grammar_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.gram"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"cannot use the grammar {path}"):
        Recognizer(path)


@needs_pocketsphinx
def test_a_grammar_that_is_not_there_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the grammar .* No such file"):
        Recognizer(tmp_path / "missing.gram")


def test_without_pocketsphinx_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'shared_sync\[speech\]'"):
        Recognizer(DEMO_GRAMMAR)


def test_pocketsphinx_is_not_loaded_before_a_recognizer_is_made() -> None:
    program = "import sys, shared_sync.demo.speech; print('pocketsphinx' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert result.stdout == b"False\n"


def test_the_demo_files_are_small_and_in_the_form_that_the_recognizer_takes() -> None:
    assert {path.name for path in DEMO_AUDIO.glob("*.wav")} == set(TRANSCRIPTS)
    assert sum(len(demo(name)) for name in TRANSCRIPTS) < 600_000
    for name in TRANSCRIPTS:
        audio = read_wav(demo(name))
        assert demo(name).endswith(audio.samples)
        assert 1.5 < audio.seconds < 3


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="no recordings beside the repository")
def test_recordings_of_real_speech_are_read() -> None:
    for path in RECORDINGS.glob("*.wav"):
        audio = read_wav(path.read_bytes())
        assert audio.sample_rate == 16_000
        assert audio.seconds > 1


@needs_pocketsphinx
@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="no recordings beside the repository")
def test_the_full_language_model_hears_most_words_of_real_speech() -> None:
    audio = read_wav((RECORDINGS / "austen-0930.wav").read_bytes())
    heard = set(Recognizer().transcribe(audio).split())
    assert len(heard & {"he", "might", "even", "have", "been", "made", "amiable", "himself"}) > 5
