"""`demo --services`: starts the three programs and a Redis, and plays recordings through them."""

from __future__ import annotations

import importlib.util
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from shared_sync.connection import url
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.demo.recordings import load_recordings, load_transcripts
from shared_sync.demo.screen import Screen
from shared_sync.demo.services.apertium import Apertium
from shared_sync.demo.services.programs import HOST, Program, ask, free_ports
from shared_sync.demo.services.recognizers import has_whisper
from shared_sync.demo.services.streams import TEXTS
from shared_sync.demo.speech import DEMO_GRAMMAR
from shared_sync.errors import WorkerBroken
from shared_sync.redis_producer import RedisStreamProducer

FINAL: Final = ("done", "dead", "expired", "cancelled")
REQUEST_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Options:
    """The options of the command, which `shared_sync.cli.demo` explains."""

    audio: Path | None = None
    keep: bool = False
    redis_url: str | None = None


@dataclass(frozen=True)
class Missing:
    """What the demo has to do without on this machine, with the remedy; "" for nothing."""

    recognizer: str
    translator: str

    @classmethod
    def find(cls) -> Missing:
        """Look for the recognizer and the translator."""
        recognizer = translator = ""
        if importlib.util.find_spec("pocketsphinx") is None and not has_whisper("tiny"):
            recognizer = "pocketsphinx is not installed: pip install 'shared_sync[speech]'"
        try:
            Apertium()
        except WorkerBroken as error:
            translator = str(error)
        return cls(recognizer, translator)


class Demo:
    """The running programs, and the recordings that are played through them."""

    def __init__(self, stack: ExitStack, redis_url: str, missing: Missing, screen: Screen) -> None:
        self._stack = stack
        self._redis_url = redis_url
        self._missing = missing
        self._screen = screen
        self.port, *self._health_ports = free_ports(4)

    def start(self, grammar: str) -> Program | None:
        """Start what can run here, and return the speech-to-text worker."""
        programs = [self._start("gateway", HOST=HOST, PORT=str(self.port))]
        listener = None
        if not self._missing.recognizer:
            programs.append(listener := self._start("stt_worker", STT_GRAMMAR=grammar))
        if not self._missing.translator:
            programs.append(self._start("translation_worker"))
        for program in programs:
            program.wait_until_ready()
        return listener

    def replace_recognizer(self, program: Program) -> None:
        """Start the speech-to-text worker again, with the full model of English."""
        program.stop()
        self._health_ports.insert(0, program.health_port)
        self._start("stt_worker").wait_until_ready()

    def play(self, recordings: dict[str, bytes], said: dict[str, str]) -> bool:
        """Send each recording, and print its text and translation. Return whether all went well."""
        is_well = True
        for number, (name, wav) in enumerate(recordings.items(), 1):
            heard = self._send(wav)
            english, spanish = heard["english"], heard["spanish"]
            self._screen.line(f"[{number}/{len(recordings)}] {name}")
            self._screen.line(f"      English  {english or heard['reason']}")
            if not self._missing.translator:
                self._screen.line(f"      Spanish  {spanish or heard['reason']}")
                is_well = is_well and heard["state"] == "done"
            if said.get(name, english) != english:
                self._screen.line(f"      said was {said[name]}")
                is_well = False
        return is_well

    def translate(self, said: dict[str, str]) -> bool:
        """Have the words of the recordings translated, because nothing here recognizes them."""
        with RedisStreamProducer(self._redis_url, TEXTS) as texts:
            for name, english in said.items():
                result = texts.request({"english": english}, timeout=REQUEST_SECONDS)
                self._screen.line(f"{name}\n      English  {english}")
                self._screen.line(f"      Spanish  {result.raise_for_status().fields['spanish']}")
        return True

    def _start(self, name: str, **environment: str) -> Program:
        port = self._health_ports.pop(0)
        program = Program(name, port, {"REDIS_URL": self._redis_url, **environment})
        self._stack.callback(program.stop)
        self._screen.line(f"Started  {name:<20} health and metrics: {program.url}")
        return program

    def _send(self, wav: bytes) -> dict[str, Any]:
        """Send a recording to the gateway, and return the last that there is to know of it."""
        status, answer = ask(self.port, "POST", "/api/jobs", wav, Content_Type="audio/wav")
        if status != 202:
            return {"state": "refused", "english": "", "spanish": "", "reason": answer["error"]}
        path, version = f"/api/jobs/{answer['job']}", ""
        while True:
            _, known = ask(self.port, "GET", f"{path}?after={version}")
            if known["state"] in FINAL:
                return known
            if self._missing.translator and known["english_is_final"]:
                ask(self.port, "DELETE", path)  # or it would wait for a translator
                return known
            version = known["version"]


def run(options: Options, out: TextIO | None = None) -> int:
    """Run the three programs, and return 0 if every recording came back as it should, else 1.

    What happens is printed to `out`; None for the standard output. For the main thread, because
    SIGTERM is handled. Raises `ConfigurationError` if there are no recordings.
    """
    screen = Screen(out or sys.stdout)
    recordings, said = load_recordings(options.audio), load_transcripts(options.audio)
    missing = Missing.find()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with ExitStack() as stack:
        redis_url = options.redis_url or stack.enter_context(EmbeddedRedis()).url
        screen.line(f"Redis    {url.safe_address(redis_url)}")
        demo = Demo(stack, redis_url, missing, screen)
        for text in filter(None, (missing.recognizer, missing.translator)):
            screen.line(f"Missing  {text}")
        listener = demo.start("" if options.audio else str(DEMO_GRAMMAR))
        screen.line(f"Page     http://{HOST}:{demo.port}/\n")
        if listener is not None:
            is_well = demo.play(recordings, said)
        else:
            is_well = bool(missing.translator) or demo.translate(said)
        screen.line(f"\nThe three programs, to be read and copied: {Path(__file__).parent}")
        if not options.keep:
            screen.line("With --keep everything stays up, and you can speak to the page.")
            return 0 if is_well else 1
        if listener is not None and not options.audio:
            screen.line("Now the full model of English is loaded, for your own recordings.")
            demo.replace_recognizer(listener)
        _keep(screen, demo.port)
    return 0 if is_well else 1


def _keep(screen: Screen, port: int) -> None:
    try:
        screen.line(f"\nEverything stays up until Ctrl-C; the page is http://{HOST}:{port}/")
        signal.pause()
    except KeyboardInterrupt:
        screen.line()
