"""What the tests of the dashboard share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from helpers import Gate

from shared_sync.health_server import state as health_server_state

if TYPE_CHECKING:
    from dashboards import Worker


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that is not started yet, and calls its views whenever the page asks."""
    from dashboards import Worker  # noqa: PLC0415 - loads selenium

    monkeypatch.setattr(health_server_state, "VIEW_PERIOD_SECONDS", 0.0)
    made = Worker()
    yield made
    made.stop()


@pytest.fixture
def hold(worker: Worker) -> Iterator[Gate]:
    """A check or view that hangs until it is opened, or until the end of the test."""
    made = Gate()
    yield made
    made.opened.set()
