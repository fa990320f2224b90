"""Make shared_sync/demo/audio: spoken commands, their grammar, and what is said in them.

    python scripts/make_demo_audio.py

Needs espeak-ng and pocketsphinx. Run it after changing the words below and commit what it writes;
it stops with an error if a sentence is not recognised word for word.
"""

from __future__ import annotations

import json
import subprocess
import wave
from pathlib import Path

from shared_sync.demo.speech import DEMO_AUDIO, DEMO_GRAMMAR, Audio, Recognizer, read_wav

SLOTS = {
    "verb": ["check", "drain", "inspect", "repair", "restart", "upgrade"],
    "adjective": ["broken", "busy", "first", "healthy", "idle", "second", "slow"],
    "noun": ["channel", "cluster", "gateway", "server", "stream", "translator", "worker"],
    "time": ["after lunch", "at noon", "now", "on monday", "this morning", "tomorrow", "tonight"],
}
SENTENCE = "{verb} the {adjective} {noun} {time}"

# file: (voice of espeak-ng, verb, adjective, noun, time)
COMMANDS = {
    "check.wav": ("en-us+f1", "check", "second", "stream", "tomorrow"),
    "drain.wav": ("en-us+f5", "drain", "slow", "gateway", "now"),
    "inspect.wav": ("en-us+m2", "inspect", "busy", "worker", "after lunch"),
    "repair.wav": ("en-us+f2", "repair", "healthy", "stream", "tonight"),
    "restart.wav": ("en-us+f5", "restart", "broken", "translator", "at noon"),
    "upgrade.wav": ("en-us+f5", "upgrade", "slow", "cluster", "on monday"),
}
WORDS_PER_MINUTE = 150


def main() -> None:
    DEMO_AUDIO.mkdir(exist_ok=True)
    DEMO_GRAMMAR.write_text(grammar())
    recognizer = Recognizer(DEMO_GRAMMAR)
    transcripts = {}
    for name, (voice, *words) in COMMANDS.items():
        text = SENTENCE.format(**dict(zip(SLOTS, words, strict=True)))
        audio = speak(text, voice)
        heard = recognizer.transcribe(audio)
        if heard != text:
            raise SystemExit(f"{name}: {voice} said {text!r}, the recogniser heard {heard!r}")
        write_wav(DEMO_AUDIO / name, audio)
        transcripts[name] = text
        print(f"{name:12} {audio.seconds:.1f} s  {text}")
    (DEMO_AUDIO / "transcripts.json").write_text(json.dumps(transcripts, indent=2) + "\n")


def grammar() -> str:
    sentence = SENTENCE.format(**{slot: f"<{slot}>" for slot in SLOTS})
    rules = [f"<{slot}> = {' | '.join(words)};" for slot, words in SLOTS.items()]
    head = ["#JSGF V1.0;", "grammar demo;", f"public <command> = {sentence};"]
    head = ["#JSGF V1.0;", "grammar demo;", f"public <command> = {sentence};"]
    return "\n".join([*head, *rules, ""])


def speak(text: str, voice: str) -> Audio:
    command = ["espeak-ng", "-v", voice, "-s", str(WORDS_PER_MINUTE), "--stdout", text]
    return read_wav(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603


def write_wav(path: Path, audio: Audio) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio.sample_rate)
        file.writeframes(audio.samples)


if __name__ == "__main__":
    main()
