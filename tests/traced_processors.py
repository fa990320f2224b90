"""Processors that log and make spans, also in threads of their own, for tests of both."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shared_sync import Retry, current_message
from shared_sync.logging import in_attempt

LOG = logging.getLogger("app.words")


def log(_: str, job: dict[str, Any]) -> None:
    """Log from here, from a library that has an `extra` of its own, and from another thread."""
    LOG.info("words %s", job["n"], extra={"language": "es"})
    logging.getLogger("app.library").info("library", extra={"group": "its own"})
    with ThreadPoolExecutor(1) as pool:
        pool.submit(in_attempt(LOG.info), "in a thread of it").result()
    if current_message().attempt == 1:
        raise Retry("once more", delay_seconds=0.01)
