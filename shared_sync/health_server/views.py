"""Views: functions that return tables for the dashboard, called while somebody looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared_sync.common import arguments
from shared_sync.common.poller import Poller
from shared_sync.errors import ConfigurationError
from shared_sync.health_server.checks import SECONDS, age, as_detail

VIEW_TIMEOUT_SECONDS = 8.0
"""Longer than a view of a group takes if each step of connecting to Redis takes its longest."""


@dataclass(frozen=True, slots=True)
class View:
    """A function that returns tables for the dashboard."""

    name: str
    function: Callable[[], object]
    timeout_seconds: float

    def __post_init__(self) -> None:
        """Raises `ConfigurationError` for what cannot work."""
        arguments.text("name", self.name)
        if not callable(self.function):
            raise ConfigurationError(
                f"the view {self.name!r} must be a function, not {self.function!r}"
            )
        arguments.number("timeout_seconds", self.timeout_seconds, *SECONDS)


def views_of(function: Callable[[], object]) -> dict[str, View]:
    """Return the views of the object whose method this is, as a RedisStreamConsumer has them.

    Empty for any other function. Calls `get_views()` of the object, and raises nothing.
    """
    get_views = getattr(getattr(function, "__self__", None), "get_views", None)
    try:
        views = get_views() if callable(get_views) else {}
        return {name: View(name, view, VIEW_TIMEOUT_SECONDS) for name, view in views.items()}
    except Exception:  # noqa: BLE001 - a method of the same name with another meaning
        return {}


def to_dict(poller: Poller[Any], *, details: bool) -> dict[str, Any]:
    """Return what the dashboard shows of a view: its newest tables, their age, and a problem.

    `details` says whether to show the text of an error.
    """
    result = poller.result
    problem = None
    if result.hangs:
        problem = f"timed out after {poller.timeout_seconds:g} s"
    elif result.error is not None:
        problem = f"failed: {as_detail(result.error)}" if details else "failed"
    return {"age_seconds": age(result.ended_at), "problem": problem, "data": result.value}
