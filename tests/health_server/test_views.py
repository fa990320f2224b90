"""Views and the history of a HealthServer: when they are called, and what becomes of failures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Gate, ask, eventually

from shared_sync.health_server import HealthServer

LIMIT = 10.0

Serve = Callable[..., HealthServer]


# --- views ------------------------------------------------------------------------------------


def test_views_are_called_only_while_somebody_looks(serve: Serve) -> None:
    calls = threading.Semaphore(0)
    server = serve()
    server.add_view("mine", lambda: calls.release() or {"jobs": []})
    ask(f"{server.url}/health")
    assert not calls.acquire(blocking=False)
    view = ask(f"{server.url}/api/state")[1]["views"]["mine"]
    assert calls.acquire(timeout=LIMIT)
    assert view["problem"] is None
    assert (view["data"] is None) == (view["age_seconds"] is None)


def test_a_view_that_fails_or_hangs_says_so_beside_its_last_tables(serve: Serve) -> None:
    def fail() -> None:
        raise RuntimeError("secret")

    stuck = Gate({"jobs": []})
    server = serve()
    server.add_view("broken", fail)
    server.add_view("stuck", stuck, timeout_seconds=0.05)

    def problems() -> dict[str, Any]:
        views = ask(f"{server.url}/api/state")[1]["views"]
        return {name: view["problem"] for name, view in views.items()}

    eventually(lambda: problems() == {"broken": "failed", "stuck": "timed out after 0.05 s"})
    stuck.opened.set()
    eventually(lambda: problems()["stuck"] is None)


class Consumer:
    """An object with views beside its health data."""

    def get_health_data(self) -> dict[str, Any]:
        return {"live": True}

    def get_views(self) -> dict[str, Callable[[], dict[str, Any]]]:
        return {"readers": lambda: {"readers": [{"name": "r1"}]}}


def test_the_views_of_a_consumer_are_added_by_themselves(serve: Serve) -> None:
    server = serve(Consumer().get_health_data)
    eventually(
        lambda: (
            ask(f"{server.url}/api/state")[1]["views"]["readers"]["data"]
            == {"readers": [{"name": "r1"}]}
        )
    )


class Service:
    """An object with a method of the same name, but with another meaning."""

    def get_health_data(self) -> dict[str, Any]:
        return {}

    def get_views(self, user: str) -> list[str]:
        return [user]


def test_another_method_of_that_name_is_left_alone(serve: Serve) -> None:
    server = serve(Service().get_health_data)
    assert ask(f"{server.url}/api/state")[1]["views"] == {}


def test_who_opens_the_page_after_a_while_waits_for_new_tables(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_sync.health_server.state.VIEW_PERIOD_SECONDS", 3600.0)
    calls = iter(range(10**6))
    server = serve()
    server.add_view("group", lambda: {"call": next(calls)})

    def call() -> int:
        return int(ask(f"{server.url}/api/state")[1]["views"]["group"]["data"]["call"])

    assert [call(), call()] == [0, 0]
    monkeypatch.setattr("shared_sync.health_server.state.OLD_VIEW_SECONDS", 0.0)
    assert call() == 1


# --- history ----------------------------------------------------------------------------------


def test_the_history_has_the_values_of_health_metrics_and_checks(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_sync.health_server.sampler.PERIOD_SECONDS", 0.05)
    numbers = iter(range(10**6))
    server = HealthServer(
        "worker-1", 0, None, lambda: {"in_flight": 7}, lambda: {"jobs": next(numbers), "text": "x"},
        host="127.0.0.1",
    )  # fmt: skip
    server.add_check("disk", lambda: {"free": 0.5})
    with server:
        eventually(lambda: len(ask(f"{server.url}/api/history")[1]["times"]) > 3)
        whole = ask(f"{server.url}/api/history")[1]
        assert set(whole["figures"]) == {"in_flight", "jobs", "free"}
        jobs = whole["figures"]["jobs"]
        assert jobs == sorted(set(jobs)), "each point is of a call of its own"
        assert set(whole["figures"]["in_flight"]) == {7}
        since = whole["sequences"][1]
        newer = ask(f"{server.url}/api/history?since={since}&figure=jobs")[1]
        assert newer["sequences"][: len(whole["sequences"]) - 1] == whole["sequences"][1:]
        assert set(newer["figures"]) == {"jobs"}
        assert newer["run"] == whole["run"]


def test_the_history_outlives_a_restart_of_the_server(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_sync.health_server.sampler.PERIOD_SECONDS", 0.05)
    server = serve(lambda: {"jobs": 1})
    eventually(lambda: ask(f"{server.url}/api/history")[1]["next"] > 2)
    before = ask(f"{server.url}/api/history")[1]
    server.stop_server()
    server.start_server()
    after = ask(f"{server.url}/api/history")[1]
    assert after["times"][:3] == before["times"][:3]
    assert after["run"] == before["run"]


@pytest.mark.parametrize("since", ["", "-1", "x", "1.5", "9" * 400, "%F0%9F%98%80"])
def test_a_strange_since_is_refused_with_the_remedy(serve: Serve, since: str) -> None:
    code, body = ask(f"{serve().url}/api/history?since={since}")
    assert (code, body["error"]) == (400, "since must be the `next` of an earlier answer")
