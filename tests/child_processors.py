"""Processors and factories that the tests' child processes import."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from shared_sync import CircuitBreaker, Reject, Retry, current_message
from shared_sync.processors import ProcessorContext

LOG = logging.getLogger("app.speech")


def answer(message_id: str, job: dict[str, Any]) -> dict[str, Any]:
    """Return what was given, and where and how it was run."""
    message = current_message()
    assert (message.id, message.fields) == (message_id, job)
    return {**job, "attempt": message.attempt, "pid": os.getpid()}


def hand_on(_: str, job: dict[str, Any]) -> None:
    """Forward the job to the next stage."""
    stream = "{jobs}:next"
    current_message().emit(stream, {"text": job["n"]}, forward_reply=True)


def act(_: str, job: dict[str, Any]) -> Any:
    """Do what the message says."""
    return ACTIONS[job.get("do", "nothing")](job)


def _nothing(job: dict[str, Any]) -> str:
    return str(job.get("n", ""))


def _segfault(_: dict[str, Any]) -> None:
    ctypes.string_at(0)


def _exit(job: dict[str, Any]) -> NoReturn:
    os._exit(int(job["code"]))


def _die(job: dict[str, Any]) -> None:
    os.kill(os.getpid(), int(job["signal"]))


def _loop(_: dict[str, Any]) -> None:
    while True:
        pass


def _hold(job: dict[str, Any]) -> str:
    """Keep the interpreter lock, as a C extension may."""
    Path(job["started"]).touch()
    deadline = time.monotonic() + float(job["seconds"])
    library = ctypes.PyDLL(None)
    while time.monotonic() < deadline:
        library.usleep(900_000)
    return "held"


def _hold_for_ever(job: dict[str, Any]) -> None:
    """Keep the interpreter lock in one call, so that no thread of this process runs any more."""
    Path(job["started"]).touch()
    ctypes.PyDLL(None).sleep(60)


def _hang() -> None:
    threading.Event().wait(60)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait as `helpers.eventually` does, which would make the start of a child slower."""
    deadline, pause = time.monotonic() + 60, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "did not come true within 60 s"
        pause.wait(0.01)


def _clean_up(job: dict[str, Any]) -> None:
    Path(job["started"]).touch()
    try:
        _hang()
    finally:
        Path(job["cleaned"]).touch()


def _ignore_end(job: dict[str, Any]) -> None:
    Path(job["started"]).touch()
    while True:
        try:
            _hang()
        except BaseException:
            LOG.warning("stays")


def _start_program(job: dict[str, Any]) -> None:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(job["started"]).write_text(str(program.pid))
    _hang()


def _leave_program(job: dict[str, Any]) -> None:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(job["started"]).write_text(str(program.pid))


_GROWN: list[bytes] = []


def _grow(job: dict[str, Any]) -> str:
    _GROWN.append(os.urandom(int(job["megabytes"]) * 1024 * 1024))
    return str(os.getpid())


def _sleep(job: dict[str, Any]) -> str:
    threading.Event().wait(float(job["seconds"]))
    return "slept"


def _fork(_: dict[str, Any]) -> str:
    pid = os.fork()
    if pid == 0:
        LOG.warning("in the fork")
        _hang()
        os._exit(0)
    return "forked"


def _modules(_: dict[str, Any]) -> str:
    return " ".join(sys.modules)


def _log(job: dict[str, Any]) -> None:
    LOG.info("hello %s", job["n"], extra={"language": "de"})
    try:
        int("bad")
    except ValueError:
        LOG.exception("it failed")
    LOG.debug("too much")


def _log_later(job: dict[str, Any]) -> None:
    """Log when the message is done."""

    def log() -> None:
        wait_until(Path(job["done"]).exists)
        LOG.warning("afterwards")

    threading.Thread(target=log, daemon=True).start()


def _record(job: dict[str, Any]) -> None:
    """Record something, and go on until that has arrived."""
    RECORDERS[0].increment_counter("chunks", 2, {"kind": "audio"})
    RECORDERS[0].record_error(ValueError("bad"))
    _wait(job)


def _raise(job: dict[str, Any]) -> NoReturn:
    errors: dict[str, BaseException] = {
        "value": ValueError("bad value"),
        "reject": Reject("no use"),
        "retry": Retry(0.01, "later"),
        "exit": SystemExit(3),
        "memory": MemoryError("full"),
    }
    raise errors[job["error"]]


TRANSLATOR = CircuitBreaker(failure_threshold=2, recovery_seconds=0.2, name="translator")


def translate(_: str, job: dict[str, Any]) -> str:
    """Call something that is away as long as a file is not there."""
    with TRANSLATOR:
        if not Path(job["works"]).exists():
            raise ConnectionError("the translator is away")
    return "translated"


def _wait(job: dict[str, Any]) -> str:
    Path(job["started"]).touch()
    wait_until(Path(job["end"]).exists)
    return "waited"


def _give(_: dict[str, Any]) -> object:
    return object()


ACTIONS = {
    "nothing": _nothing,
    "segfault": _segfault,
    "exit": _exit,
    "die": _die,
    "loop": _loop,
    "hold": _hold,
    "hold for ever": _hold_for_ever,
    "clean up": _clean_up,
    "ignore the end": _ignore_end,
    "start a program": _start_program,
    "leave a program": _leave_program,
    "grow": _grow,
    "sleep": _sleep,
    "fork": _fork,
    "modules": _modules,
    "log": _log,
    "log later": _log_later,
    "record": _record,
    "raise": _raise,
    "wait": _wait,
    "give an object": _give,
}


RECORDERS: list[Any] = []


def acting(context: ProcessorContext) -> Any:
    RECORDERS.append(context.metrics)
    context.logger.info("loading")
    return act


class Closing:
    """A processor that says when it is closed."""

    def __init__(self, context: ProcessorContext) -> None:
        self.context = context

    def process(self, _: str, job: dict[str, Any]) -> dict[str, Any]:
        context = self.context
        context.metrics.increment_counter("words", 3)
        context.metrics.record_duration("inference", 0.25)
        context.metrics.set_gauge("beams", 5)
        context.logger.info("in the child")
        if "meet" in job:  # one message for each reader
            folder = Path(job["meet"])
            (folder / str(context.reader)).touch()
            wait_until(lambda: len(list(folder.iterdir())) >= int(job["readers"]))
        if "closed" in job:
            os.environ["CLOSED"] = job["closed"]
        return {
            "reader": context.reader,
            "device": context.device or "",
            "cuda": os.environ.get("CUDA_VISIBLE_DEVICES", "unset"),
            "pid": os.getpid(),
        }

    def close(self) -> None:
        if "CLOSED" in os.environ:
            Path(os.environ["CLOSED"]).touch()


def closing(context: ProcessorContext) -> Closing:
    return Closing(context)


def failing(_: ProcessorContext) -> NoReturn:
    raise OSError("model.bin is damaged")


def crashing(_: ProcessorContext) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def failing_close(_: ProcessorContext) -> Any:
    class Failing:
        def process(self, *_: object) -> None:
            return None

        def close(self) -> None:
            raise OSError("the device is gone")

    return Failing()


def hanging_close(_: ProcessorContext) -> Any:
    class Hanging:
        def process(self, *_: object) -> None:
            return None

        def close(self) -> None:
            _hang()

    return Hanging()
