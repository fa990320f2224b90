"""Factories that child processes of tests import; they share a folder with the test."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from pathlib import Path

from shared_sync.message import Message
from shared_sync.processors import ProcessorContext

FOLDER = "FACTORY_FOLDER"


def _folder() -> Path:
    return Path(os.environ[FOLDER])


class Model:
    """Returns in which child it runs; crashes at a message that says so."""

    def __init__(self, context: ProcessorContext) -> None:
        if (_folder() / "broken").exists() and (_folder() / "loaded").exists():
            raise OSError("model.bin is damaged")
        (_folder() / "loaded").touch()
        self.context = context

    def process(self, _: str, job: dict[str, str]) -> str:
        if job.get("do") == "crash":
            ctypes.string_at(0)
        return f"{self.context.device} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid()}"


class BatchModel(Model):
    """The same for several messages."""

    def process_batch(self, messages: Sequence[Message]) -> list[str]:
        with (_folder() / "runs").open("a") as runs:
            runs.write(f"{len(messages)}\n")
        return [self.process(message.id, message.fields) for message in messages]  # type: ignore[arg-type]


def run(_: str, __: dict[str, str]) -> int:
    """A processor that needs no factory."""
    return os.getpid()


def load_together(context: ProcessorContext) -> Model:
    """Load only while the other one of two readers loads, too."""
    (_folder() / str(context.reader)).touch()
    deadline = time.monotonic() + 20
    while not (_folder() / str(3 - context.reader)).exists():
        assert time.monotonic() < deadline, "the other reader does not load"
        time.sleep(0.01)
    return Model(context)


def load_for_ever(context: ProcessorContext) -> Model:
    """Load as a library does that is stuck."""
    (_folder() / f"loads-{context.reader}").write_text(str(os.getpid()))
    ctypes.CDLL(None).sleep(600)
    return Model(context)
