"""Processors of child processes that use what a message can do while it runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from child_processors import wait_until

from shared_sync import Message, current_message


def emit(_: str, job: dict[str, Any]) -> Any:
    """Emit what the message says, to the streams that it names, and return its other fields."""
    message = current_message()
    forward = job.pop("forward", None)
    if forward is not None:
        message.emit(forward, {"text": job["text"]}, forward_reply=True)
    for stream in job.pop("streams", "").split():
        message.emit(stream, {"text": job.get("text", ""), "audio": b"\xff\xfe"})
    return {"length": len(job["text"]), "raw": b"\xff"} if "text" in job else None


def emit_batch(messages: Sequence[Message]) -> list[Any]:
    """Emit each message; those with an odd number fail."""
    results: list[Any] = []
    for message in messages:
        message.emit("next", {"n": message.fields["n"]})
        odd = int(str(message.fields["n"])) % 2
        results.append(ValueError("odd") if odd else {"n": message.fields["n"]})
    return results


def count(_: str, job: dict[str, Any]) -> str:
    """Report progress from where the last attempt was; die, hang or fail at a place."""
    message = current_message()
    resumed = message.resume_data
    first = int(resumed["place"]) + 1 if resumed is not None else 0
    for place in range(first, int(job["places"])):
        message.report_progress(place / int(job["places"]), place=place, text=f"part {place}")
        if place == int(job.get("at", -1)) and resumed is None:
            if job["do"] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("bad")
    return f"from {first}"


def wait(_: str, job: dict[str, Any]) -> str:
    """Say that it has started, and wait to be cancelled; then do what the message says."""
    Path(job["started"]).touch()
    message = current_message()
    if job["then"] == "ignore":
        threading.Event().wait(60)
    assert message.cancelled.wait(60)
    if job["then"] == "raise":
        message.raise_if_cancelled()
    if job["then"] == "fail":
        raise ValueError("bad")
    if job["then"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return "done nevertheless"


def wait_batch(messages: Sequence[Message]) -> list[str]:
    """Wait until the second message is cancelled, if there is one; the first one is not."""
    if len(messages) == 1:
        return ["alone"]
    Path(str(messages[0].fields["started"])).touch()
    assert messages[1].cancelled.wait(60)
    messages[0].raise_if_cancelled()
    messages[1].raise_if_cancelled()
    return ["first", "second"]


def hold_batch(messages: Sequence[Message]) -> list[None]:
    """Say that it has started, and return when it may."""
    Path(str(messages[0].fields["started"])).touch()
    wait_until(Path(str(messages[0].fields["end"])).exists)
    return [None] * len(messages)
