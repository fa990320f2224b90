"""The processors of bench_gpu.py, which child processes import by their paths.

A message says by its fields what becomes of it: `do` is what it does, and nothing if there is no
such field.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared_sync import CircuitBreaker, Message, ProcessorContext, current_message
from shared_sync.demo.speech import Recognizer, read_wav

RECORDINGS = Path(__file__).parents[2] / "shared" / "audio"

MODEL_SECONDS, SECONDS_PER_MESSAGE = 0.02, 0.001
"""What one run of the model takes, and each message in it."""

LARGEST_BATCH = 8
"""What fits into the memory of the model."""

calls: list[tuple[float, int]] = []
"""Of each run in this process: its moment on the monotonic clock, and its number of messages."""

Fields = dict[str, Any]


def noop(_message_id: str, _message: Fields) -> None:
    pass


def sleep(_message_id: str, message: Fields) -> dict[str, str]:
    calls.append((time.monotonic(), 1))
    time.sleep(float(message["seconds"]))
    return {"n": message["n"]}


# --- faults ---------------------------------------------------------------------------------------


def act(message_id: str, message: Fields) -> dict[str, object]:
    """Do what the message says, and return the number of its attempt."""
    calls.append((time.monotonic(), 1))
    return _act(Message(message_id, message, current_message().attempt))


def act_in_batches(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Do what each message says; what one of them does happens to all."""
    calls.append((time.monotonic(), len(messages)))
    return [_act(message) for message in messages]


def _act(message: Message) -> dict[str, object]:
    what = message.fields.get("do")
    if what == "segfault":
        ctypes.string_at(0)
    if what == "loop":
        re.match(r"(a+)+$", "a" * 64 + "b")  # in C, with the interpreter lock, for centuries
    if what == "raise":
        raise ValueError("this message is bad")
    return {"n": message.fields["n"], "attempt": message.attempt}


def broken_gpu(_message_id: str, _message: Fields) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def endless(_message_id: str, message: Fields) -> None:
    threading.Event().wait(float(message["seconds"]))


# --- a model --------------------------------------------------------------------------------------


def model(_message_id: str, _message: Fields) -> dict[str, bool]:
    return run_model(1)[0]


def model_in_batches(messages: Sequence[Message]) -> list[dict[str, bool]]:
    return run_model(len(messages))


def small_model_in_batches(messages: Sequence[Message]) -> list[dict[str, bool]]:
    if len(messages) > LARGEST_BATCH:
        calls.append((time.monotonic(), len(messages)))
        raise MemoryError(f"a batch of {len(messages)} does not fit")
    return run_model(len(messages))


def run_model(messages: int) -> list[dict[str, bool]]:
    calls.append((time.monotonic(), messages))
    time.sleep(MODEL_SECONDS + SECONDS_PER_MESSAGE * messages)
    return [{"done": True}] * messages


# --- a dependency ---------------------------------------------------------------------------------

FAILURE_THRESHOLD = 5
dependency = CircuitBreaker(FAILURE_THRESHOLD, 1.0, counts=ConnectionError, name="dependency")


def ask_dependency(_message_id: str, message: Fields) -> dict[str, str]:
    """Ask a dependency that is dead as long as there is a file."""
    with dependency:
        calls.append((time.monotonic(), 1))
        if Path(message["dead_while"]).exists():
            raise ConnectionError("the dependency is dead")
    return {"n": message["n"]}


# --- speech ---------------------------------------------------------------------------------------


def speech(_context: ProcessorContext | None) -> Callable[[str, Fields], dict[str, object]]:
    """Return a processor that turns a recording into text, with a model of its own."""
    recognizer = Recognizer()

    def transcribe(_message_id: str, message: Fields) -> dict[str, object]:
        audio = read_wav((RECORDINGS / message["file"]).read_bytes())
        return {"text": recognizer.transcribe(audio), "seconds": audio.seconds}

    return transcribe
