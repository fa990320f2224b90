"""Processors that log, make spans and emit, also in threads of their own."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from shared_sync import Message, Retry, current_message
from shared_sync.logging import in_attempt

LOG = logging.getLogger("app.words")

if "SPANS_FILE" in os.environ and "shared_sync.isolation.child" in sys.modules:
    # In a child process, as a program would do it at the top of its module.
    _file = Path(os.environ["SPANS_FILE"]).open("a")  # noqa: SIM115 - open until the process ends
    _provider = TracerProvider()
    _exporter = ConsoleSpanExporter(out=_file, formatter=lambda span: span.to_json(None) + "\n")
    _provider.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(_provider)


def log(_: str, job: dict[str, Any]) -> None:
    """Log from here, from a library that has an `extra` of its own, and from another thread."""
    LOG.info("words %s", job["n"], extra={"language": "es"})
    logging.getLogger("app.client").info("called", extra={"group": "its own"})
    with ThreadPoolExecutor(1) as pool:
        pool.submit(in_attempt(LOG.info), "in a thread of it").result()
    if current_message().attempt == 1:
        raise Retry(0.01)


def work(message_id: str, job: dict[str, Any]) -> dict[str, Any] | None:
    """Make a span, emit a message, log, and fail the first time if that is asked for."""
    message = current_message()
    with trace.get_tracer("app").start_as_current_span("app work"):
        LOG.warning("working")
        if "emit" in job:
            message.emit(job["emit"], {"n": "1"})
    if "emit" in job:
        with ThreadPoolExecutor(1) as pool:  # no span is the current one there
            pool.submit(message.emit, job["emit"], {"n": "2"}).result()
    if "fail" in job and message.attempt == 1:
        raise ValueError("no use, password=opensesame")
    return {"done": message_id}


def work_on_batch(messages: Sequence[Message]) -> list[object]:
    """Fail as a whole while a message of the batch asks for it."""
    if len(messages) > 1 and any("fail" in one.fields for one in messages):
        raise ValueError("not together")
    return ["done" for _ in messages]
