"""Apertium as a blocking engine: a pipeline of its programs that stays up between texts.

Starting these programs takes a few tenths of a second, a text then takes a few milliseconds. The
programs end when their input is closed, so none of them outlives this process.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from shared_sync.errors import WorkerBroken

MOST_CHARS: Final = 5_000
"""The longest text. It fits into the buffer of a pipe, so writing it never blocks."""

_END: Final = b".[]"
"""What Apertium itself puts behind a text. It makes the programs finish the last sentence, and it
arrives behind the translation: without it, a program has died and the answer is not whole."""

_SPECIAL: Final = re.compile(r"[\[\]{}^$/\\@<>]")
_ESCAPED: Final = re.compile(r"\\(.)")
_PROGRAM: Final = re.compile(r"(^|\|)\s*([\w-]+)")


class Apertium:
    """Translates one text after the other. For one thread at a time.

    Raises `WorkerBroken` if the languages are not installed.
    """

    def __init__(self, pair: str = "eng-spa", *, timeout_seconds: float = 10.0) -> None:
        folder = Path(os.environ.get("APERTIUM_DATADIR", "/usr/share/apertium"))
        mode = folder / "modes" / f"{pair}.mode"
        if not mode.is_file() or shutil.which("lt-proc") is None:
            raise WorkerBroken(
                f"Apertium cannot translate {pair}, because {mode} or the program lt-proc is "
                f"missing: apt-get install apertium-{pair}"
            )
        # With -z each program passes on what it has at the end of a text, which is a zero byte.
        self._pipeline = _PROGRAM.sub(r"\1 \2 -z", mode.read_text().strip())
        self._timeout_seconds = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def translate(self, text: str) -> str:
        """Return the translation. Words that Apertium does not know stay as they are.

        Starts the pipeline again if it has died. Raises TimeoutError if there is no answer in time,
        and `ConnectionError` if a new pipeline dies, too.
        """
        if len(text) > MOST_CHARS:
            raise ValueError(f"a text of {len(text)} characters; the limit is {MOST_CHARS}")
        plain = " ".join(text.replace("\0", " ").split())
        request = _SPECIAL.sub(r"\\\g<0>", plain).encode() + _END + b"\0"
        was_running = self._process is not None
        try:
            answer = self._ask(request)
        except ConnectionError:
            if not was_running:
                raise
            answer = self._ask(request)
        translated = _ESCAPED.sub(r"\1", answer.decode())
        return " ".join(translated.split())  # Apertium leaves two blanks where it drops a word

    def close(self) -> None:
        """End the programs, whatever they are doing."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with self._process:
                self._process = None

    def _ask(self, request: bytes) -> bytes:
        process = self._process = self._process or self._start()
        try:
            return self._exchange(process, request)
        except BaseException:
            self.close()  # or the next text would get the answer to this one
            raise

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes) -> bytes:
        assert process.stdin is not None  # noqa: S101 - it was started with pipes
        assert process.stdout is not None  # noqa: S101
        deadline = time.monotonic() + self._timeout_seconds
        os.write(process.stdin.fileno(), request)
        answer = b""
        while not answer.endswith(b"\0"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                raise TimeoutError(f"Apertium has not answered within {self._timeout_seconds:g} s")
            part = os.read(process.stdout.fileno(), 65_536)
            if not part:
                raise ConnectionError("Apertium has ended in the middle of a text")
            answer += part
        if not answer.endswith(_END + b"\0"):
            raise ConnectionError("a program of Apertium has died")
        return answer[: -len(_END) - 1]

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the pipeline. -n: do not mark the words that are not known."""
        return subprocess.Popen(  # noqa: S603 - the programs that Apertium's mode names
            ["/bin/sh", "-c", self._pipeline, "apertium", "-n", ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            start_new_session=True,  # a group of processes, so that all can be ended together
        )
