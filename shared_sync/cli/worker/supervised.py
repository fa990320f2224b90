"""The main program of a worker process that a supervisor has started.

It gets its configuration over the link, reports its health every second, answers questions, and
drains when the supervisor says so or has ended.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from shared_sync import RedisStreamConsumer
from shared_sync.cli.grammar import FAILED, MISUSED
from shared_sync.cli.worker import building, program
from shared_sync.cli.worker.configuration import Configuration
from shared_sync.cli.worker.link import Link
from shared_sync.common.loop import Loop
from shared_sync.errors import ConfigurationError, SharedSyncError

REPORT_SECONDS: Final = 1.0
_STATUSES: Final = ("healthy", "degraded", "unhealthy")

logger = logging.getLogger(__name__)


def main(descriptor: int) -> None:
    """Run one worker, and end the process with its exit status."""
    link = Link(socket.socket(fileno=descriptor))
    os.set_inheritable(descriptor, False)
    setup = next(link.messages())
    configuration = Configuration.from_json(setup["configuration"])
    program.prepare(configuration)
    try:
        sys.exit(_run(link, configuration, setup["name"]))
    except ConfigurationError as error:
        logger.critical("%s", error)
        sys.exit(MISUSED)
    except SharedSyncError as error:
        logger.critical("%s", error)
        sys.exit(FAILED)


def _run(link: Link, configuration: Configuration, name: str) -> int:
    worker = _Worker(link)
    worker.start()
    metrics = building.make_metrics(configuration, name)
    consumer = building.make_consumer(configuration, name, metrics)
    worker.show(consumer, metrics)
    return program.consume(consumer)


class _Worker:
    """Reports and answers while the worker runs. Its threads end with the process."""

    def __init__(self, link: Link) -> None:
        # Fixed after construction.
        self._link = link
        self._questions = threading.Thread(
            target=self._answer_questions, name="supervisor", daemon=True
        )
        self._reports = Loop(
            "supervisor-reports",
            step=self._report,
            stop=threading.Event(),
            period_seconds=REPORT_SECONDS,
        )
        # Written by the main thread once, together.
        self._shown: tuple[RedisStreamConsumer, Any] | None = None

    def start(self) -> None:
        """Begin to report and to answer."""
        self._questions.start()
        self._reports.start()

    def show(self, consumer: RedisStreamConsumer, metrics: Any) -> None:
        """Report about these from now on."""
        self._shown = (consumer, metrics)
        self._report()

    def _report(self) -> None:
        self._link.send({"health": self._health()})

    def _health(self) -> dict[str, Any]:
        if self._shown is None:
            return {
                "status": "degraded",
                "reasons": ["imports the processor"],
                "ready": False,
                "started": False,
            }
        consumer, metrics = self._shown
        health = consumer.get_health_data()
        alerts: Mapping[str, Any] = getattr(metrics, "get_basic_health_data", dict)()
        if "status" not in alerts:
            return health
        statuses = [health.get("status", "healthy"), alerts["status"]]
        return {
            **health,
            "status": max(statuses, key=_STATUSES.index),
            "reasons": [*health.get("reasons", []), *alerts.get("reasons", [])],
        }

    def _answer_questions(self) -> None:
        for message in self._link.messages():
            if "stop" in message:
                self._stop(message["stop"])
            else:
                self._link.send(
                    {"answer": message["number"], "value": self._answer(message["ask"])}
                )
        logger.warning("the supervisor has ended; this worker drains")
        self._stop(None)

    def _answer(self, question: str) -> Any:
        if self._shown is None:
            return None
        consumer, metrics = self._shown
        answers: Mapping[str, Callable[[], Any]] = {
            "readers": consumer.get_views()["readers"],
            "metrics": metrics.get_metrics_data,
            "render_prometheus": lambda: metrics.render_prometheus().decode(),
            "render_openmetrics": lambda: metrics.render_openmetrics().decode(),
        }
        try:
            return answers[question]()
        except Exception:
            logger.exception("%s cannot be shown", question)
            return None

    def _stop(self, seconds: float | None) -> None:
        """Drain for so long (None for `drain_seconds`), in a thread of its own."""
        if self._shown is None:
            os.kill(os.getpid(), signal.SIGTERM)  # nothing was read yet
            return
        consumer, _ = self._shown
        threading.Thread(target=consumer.stop, args=(seconds,), daemon=True).start()
