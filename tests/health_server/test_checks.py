"""Checks and probes of a HealthServer over real sockets: what counts for what, and when."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from helpers import Gate, ask, eventually

from shared_sync.errors import ConfigurationError
from shared_sync.health_server import HealthServer

LIMIT = 10.0
PERIOD = 0.01

Serve = Callable[..., HealthServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server with some checks, of which it waits for the first results."""
    with ExitStack() as servers:

        def start(
            get_health_data: Callable[[], Any] = dict,
            checks: dict[str, tuple[Callable[[], Any], dict[str, Any]]] | None = None,
            **options: Any,
        ) -> HealthServer:
            server = HealthServer("worker-1", 0, None, get_health_data, host="127.0.0.1", **options)
            for name, (function, flags) in (checks or {}).items():
                server.add_check(name, function, **{"period_seconds": PERIOD, **flags})
            servers.enter_context(server)
            for name in checks or ():
                eventually(lambda name=name: knows(server, name))
            return server

        yield start


def knows(server: HealthServer, check: str) -> bool:
    found = {one["name"]: one for one in ask(f"{server.url}/api/state")[1]["checks"]}
    return found[check]["age_seconds"] is not None or found[check]["running_seconds"] is not None


def probes(server: HealthServer) -> dict[str, int]:
    return {probe: ask(f"{server.url}/health/{probe}")[0] for probe in ("live", "ready", "startup")}


def health(server: HealthServer) -> tuple[int, str, list[str]]:
    code, body = ask(f"{server.url}/health")
    return code, body["status"], body.get("reasons", [])


class Answer:
    """A check that returns `returns`, or raises it if it is an error."""

    def __init__(self, returns: Any = True) -> None:
        self.returns = returns

    def __call__(self) -> Any:
        if isinstance(self.returns, BaseException):
            raise self.returns
        return self.returns


# --- what counts for what ---------------------------------------------------------------------

WELL = {"live": 200, "ready": 200, "startup": 200}


def test_without_any_problem_every_probe_succeeds(serve: Serve) -> None:
    server = serve(checks={"model": (Answer(), {"liveness": True, "startup": True})})
    assert probes(server) == WELL
    assert health(server) == (200, "healthy", [])


@pytest.mark.parametrize(
    ("flags", "whole", "bad"),
    [
        ({}, (500, "unhealthy"), ["ready"]),
        ({"critical": False}, (200, "degraded"), []),
        ({"critical": False, "readiness": True}, (200, "degraded"), ["ready"]),
        ({"readiness": False}, (500, "unhealthy"), []),
        ({"liveness": True}, (500, "unhealthy"), ["live", "ready"]),
        ({"startup": True, "readiness": False}, (500, "unhealthy"), ["ready", "startup"]),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
@pytest.mark.parametrize(
    ("returns", "reason"),
    [
        (False, "model: unhealthy"),
        ({"status": "unhealthy", "reasons": ["out of memory"]}, "model: out of memory"),
        (RuntimeError("secret"), "model failed"),
        (b"secret", "model failed"),
    ],
    ids=["false", "unhealthy", "raises", "nonsense"],
)
def test_an_unhealthy_check_counts_for_what_it_was_registered_for(
    serve: Serve,
    returns: object,
    reason: str,
    flags: dict[str, bool],
    whole: tuple[int, str],
    bad: list[str],
) -> None:
    server = serve(checks={"model": (Answer(returns), flags)})
    eventually(lambda: reason in health(server)[2])
    assert health(server) == (*whole, [reason])
    assert probes(server) == {name: 503 if name in bad else 200 for name in WELL}
    for probe in bad:
        assert ask(f"{server.url}/health/{probe}")[1]["reasons"] == [reason]


@pytest.mark.parametrize("flags", [{}, {"critical": False, "readiness": True}])
def test_a_degraded_check_degrades_and_fails_no_probe(serve: Serve, flags: dict[str, bool]) -> None:
    answer = Answer({"status": "degraded", "reasons": ["slow"]})
    server = serve(checks={"model": (answer, {"liveness": True, **flags})})
    eventually(lambda: health(server) == (200, "degraded", ["model: slow"]))
    assert probes(server) == WELL


def test_a_key_for_a_probe_counts_whatever_the_check_was_registered_for(serve: Serve) -> None:
    answer = Answer({"live": False, "ready": False, "started": False})
    server = serve(
        checks={"pool": (answer, {"critical": False, "liveness": False, "readiness": False})}
    )
    eventually(lambda: probes(server) == {"live": 503, "ready": 503, "startup": 503})
    assert ask(f"{server.url}/health/live")[1]["reasons"] == ["pool says so"]


def test_data_that_say_they_live_are_live_although_unhealthy(serve: Serve) -> None:
    """A consumer whose Redis is away must not be restarted for it."""
    away = Answer({"status": "unhealthy", "live": True, "ready": False, "reasons": ["Redis away"]})
    server = serve(checks={"consumer": (away, {"liveness": True})})
    eventually(lambda: probes(server)["ready"] == 503)
    assert probes(server)["live"] == 200
    assert health(server) == (500, "unhealthy", ["consumer: Redis away"])


def test_the_worst_check_decides_and_all_reasons_are_listed(serve: Serve) -> None:
    server = serve(
        lambda: {"status": "degraded", "reasons": ["warming up"]},
        checks={
            "disk": (Answer({"status": "degraded", "reasons": ["2 % free"]}), {}),
            "gpu": (Answer({"status": "unhealthy", "reasons": ["lost"]}), {"critical": False}),
        },
    )
    eventually(
        lambda: health(server) == (200, "degraded", ["warming up", "disk: 2 % free", "gpu: lost"])
    )


def test_each_check_shows_its_status_age_and_values(serve: Serve) -> None:
    server = serve(
        lambda: {"jobs": 3},
        checks={"disk": (Answer({"free_mb": 12.5, "age_seconds": "mine"}), {"critical": False})},
    )
    eventually(lambda: "free_mb" in ask(f"{server.url}/health")[1]["checks"]["disk"])
    body = ask(f"{server.url}/health")[1]
    disk = body["checks"]["disk"]
    assert body["jobs"] == 3
    assert (disk["status"], disk["critical"], disk["free_mb"]) == ("healthy", False, 12.5)
    assert 0 <= disk["age_seconds"] < LIMIT


def test_critical_keys_count_in_checks_too(serve: Serve) -> None:
    server = serve(
        checks={"cache": (Answer({"cache_connected": False}), {})}, critical=["cache_connected"]
    )
    eventually(lambda: health(server) == (500, "unhealthy", ["cache: cache_connected is false"]))


# --- startup ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["model_loaded", "started"])
def test_startup_is_answered_well_once_everything_is_loaded_and_from_then_on(
    serve: Serve, key: str
) -> None:
    data: dict[str, Any] = {key: False}
    server = serve(lambda: dict(data))
    eventually(lambda: probes(server)["ready"] == 503)
    assert probes(server) == {"live": 200, "ready": 503, "startup": 503}
    data[key] = True
    eventually(lambda: probes(server) == WELL)
    data[key] = False
    eventually(lambda: ask(f"{server.url}/health")[1][key] is False)
    assert probes(server)["startup"] == 200


def test_redis_being_away_does_not_delay_the_start(serve: Serve) -> None:
    server = serve(lambda: {"redis_connected": False, "model_loaded": True})
    eventually(lambda: probes(server) == {"live": 200, "ready": 503, "startup": 200})


def test_before_the_first_answer_it_lives_but_is_not_ready(serve: Serve) -> None:
    loading = Gate({"model_loaded": True})
    server = serve(loading)
    assert loading.entered.wait(LIMIT)
    assert probes(server) == {"live": 200, "ready": 503, "startup": 503}
    assert health(server) == (200, "degraded", ["get_health_data has not answered yet"])
    loading.opened.set()
    eventually(lambda: probes(server) == WELL)


def test_a_draining_server_is_not_ready_until_it_is_started_again(serve: Serve) -> None:
    server = serve()
    eventually(lambda: probes(server) == WELL)
    server.drain()
    assert probes(server) == {"live": 200, "ready": 503, "startup": 200}
    assert health(server) == (200, "degraded", ["draining"])
    server.stop_server()
    server.start_server()
    eventually(lambda: probes(server) == WELL)


# --- checks that hang -------------------------------------------------------------------------


def test_a_callback_that_hangs_is_unhealthy_and_recovers_when_it_returns(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate({"jobs": 1})
    gate.opened.set()
    server = serve(gate)
    eventually(lambda: probes(server) == WELL)
    gate.opened.clear()

    eventually(lambda: health(server)[1] == "unhealthy")
    code, body = ask(f"{server.url}/health")
    assert (code, body["error"]) == (500, "get_health_data timed out after 2 s")
    assert body["reasons"] == ["get_health_data timed out after 2 s"]
    assert probes(server) == {"live": 200, "ready": 503, "startup": 200}

    gate.opened.set()
    eventually(lambda: health(server) == (200, "healthy", []))
    assert probes(server) == WELL
    assert caplog.text.count("get_health_data has not returned within 2 s") == 1


def test_a_check_that_hangs_has_failed_after_its_own_limit(serve: Serve) -> None:
    gate = Gate()
    server = serve(checks={"model": (gate, {"timeout_seconds": 0.05, "liveness": True})})
    eventually(lambda: health(server) == (500, "unhealthy", ["model timed out after 0.05 s"]))
    assert probes(server) == {"live": 503, "ready": 503, "startup": 200}
    gate.opened.set()
    eventually(lambda: probes(server) == WELL)


def test_one_that_hangs_keeps_no_other_from_being_checked(serve: Serve) -> None:
    gate = Gate()
    other = Answer()
    server = serve(checks={"stuck": (gate, {}), "other": (other, {"critical": False})})
    assert gate.entered.wait(LIMIT)
    other.returns = {"status": "degraded", "reasons": ["slow"]}
    eventually(lambda: "other: slow" in health(server)[2])
    gate.opened.set()


@pytest.mark.parametrize(("registered", "code"), [(False, 200), (True, 503)])
def test_one_that_hangs_is_not_live_only_where_it_was_registered_for_that(
    serve: Serve, registered: bool, code: int
) -> None:
    stuck = threading.Event()

    def data() -> dict[str, Any]:
        if stuck.is_set():
            assert gone.wait(60)
        stuck.set()
        return {"live": True}

    gone = threading.Event()
    flags = {"timeout_seconds": 0.05, "liveness": registered}
    server = serve(checks={"consumer": (data, flags)})
    eventually(lambda: "consumer timed out after 0.05 s" in health(server)[2])
    assert probes(server)["live"] == code
    gone.set()


# --- adding -----------------------------------------------------------------------------------


def test_checks_and_views_can_be_added_while_it_runs(serve: Serve) -> None:
    server = serve()
    server.add_check("disk", Answer(False))
    server.add_view("mine", lambda: {"jobs": []})
    eventually(lambda: health(server) == (500, "unhealthy", ["disk: unhealthy"]))
    eventually(lambda: ask(f"{server.url}/api/state")[1]["views"]["mine"]["data"] == {"jobs": []})


@pytest.mark.parametrize("add", [HealthServer.add_check, HealthServer.add_view])
def test_a_name_is_given_once(add: Callable[..., None]) -> None:
    server = HealthServer("worker-1", 0, None, dict)
    add(server, "disk", dict)
    with pytest.raises(ConfigurationError, match="'disk'"):
        add(server, "disk", dict)


def test_the_callback_is_a_check_already() -> None:
    server = HealthServer("worker-1", 0, None, dict)
    with pytest.raises(ConfigurationError, match="get_health_data"):
        server.add_check("get_health_data", dict)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("", dict), {}, "name"),
        ((5, dict), {}, "name"),
        (("disk", {}), {}, "'disk' must be a function"),
        (("disk", dict), {"period_seconds": 0}, "period_seconds"),
        (("disk", dict), {"timeout_seconds": "2"}, "timeout_seconds"),
        (("disk", dict), {"timeout_seconds": float("nan")}, "timeout_seconds"),
    ],
)
def test_a_check_that_cannot_work_is_refused_at_once(
    arguments: tuple[Any, ...], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        HealthServer("worker-1", 0, None, dict).add_check(*arguments, **options)


# --- details ----------------------------------------------------------------------------------


def test_details_are_shown_by_a_server_that_was_made_for_it(serve: Serve) -> None:
    def raise_it() -> dict[str, Any]:
        raise RuntimeError("no answer from redis://me:s3cret@host")

    server = serve(raise_it, details=True)
    eventually(lambda: health(server)[0] == 500)
    body = ask(f"{server.url}/health")[1]
    assert body["failures"] == {"get_health_data": "RuntimeError: no answer from redis://***@host"}


def test_the_log_of_a_check_goes_to_the_given_logger(caplog: pytest.LogCaptureFixture) -> None:
    mine = logging.getLogger("mine")
    with HealthServer("worker-1", 0, mine, dict, host="127.0.0.1") as server:
        server.add_check("model", Answer(ValueError("broken")))
        eventually(lambda: "model failed" in caplog.text)
    assert {record.name for record in caplog.records} == {"mine"}


def test_a_logger_that_raises_ends_no_check(serve: Serve) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("disk full")

    mine = logging.Logger("mine")
    mine.addHandler(Broken())
    answer = Answer(ValueError("broken"))
    server = HealthServer("worker-1", 0, mine, answer, host="127.0.0.1")
    with server:
        eventually(lambda: health(server) == (500, "unhealthy", ["get_health_data failed"]))
        answer.returns = {}
        eventually(lambda: health(server) == (200, "healthy", []))


def unnoticed(server: HealthServer, check: str) -> bool:
    """Whether nobody has noticed that the check hangs."""
    return f"{check} timed out after 0.05 s" not in health(server)[2]


def test_a_log_that_hangs_keeps_no_hang_from_being_noticed() -> None:
    stuck = Gate()

    class Stuck(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                stuck()

    mine = logging.Logger("mine")
    mine.addHandler(Stuck())
    checks = [Gate(), Gate()]
    with HealthServer("worker-1", 0, mine, dict, host="127.0.0.1") as server:
        for number, check in enumerate(checks):
            server.add_check(f"check-{number}", check, timeout_seconds=0.05)
            eventually(lambda number=number: not unnoticed(server, f"check-{number}"))
        for part in (stuck, *checks):
            part.opened.set()
