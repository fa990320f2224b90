"""Who may act, what an action may say, and what an operator is told when it takes too long."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from helpers import Gate, eventually, in_a_fork
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared_sync.errors import ConfigurationError, DeadLetterMissing, RedisUnavailable
from shared_sync.health_server import HealthServer
from shared_sync.health_server.actions import requests
from shared_sync.health_server.actions.protocol import METHODS
from shared_sync.health_server.actions.runner import ActionRunner

TOKEN = "f8a1-secret"
Serve = Callable[..., HealthServer]
LETTER = "1700000000000-0"


class Recorded:
    """Actions that only note what they were asked for."""

    stream, group = "jobs", "workers"

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.behave: Callable[[], Any] = lambda: {"done": 2, "missing": 1, "next": None}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return self.behave()

        return call


@pytest.fixture
def actions() -> Recorded:
    return Recorded()


def act(
    server: HealthServer, name: str, body: object, *, method: str = "POST", **headers: str | None
) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
    """Ask as the page does, but for the headers that are given; None leaves one out."""
    own = f"127.0.0.1:{server.port}"
    sent = {
        "Host": own,
        "Origin": f"http://{own}",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {TOKEN}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    text = body if isinstance(body, str) else json.dumps(body)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as client:
        kept = {name: value for name, value in sent.items() if value is not None}
        client.request(method, f"/actions/{name}", text, kept)
        answer = client.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers


PURGE = {"by": "Anna", "ids": [LETTER]}


def test_the_page_acts_and_the_log_says_who_did_what(
    serve: Serve, actions: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = serve(token=TOKEN, actions=actions)
    code, answer, headers = act(server, "purge", PURGE, X_Forwarded_For="203.0.113.9")
    assert (code, answer) == (200, {"done": 2, "missing": 1, "next": None})
    ((name, arguments),) = actions.calls
    assert name == "purge"
    assert arguments == {**PURGE, "where": {}, "most": 0, "up_to": "", "after": ""}
    assert not [name for name in headers if name.startswith("Access-Control")]
    (line,) = [record.message for record in caplog.records if "action purge" in record.message]
    assert line == (
        "jobs · workers: action purge by 'Anna' (a name that nobody has verified) from 127.0.0.1 "
        f"(X-Forwarded-For '203.0.113.9'): 1 ids: {LETTER}: 2 done, 1 were gone"
    )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Authorization": None}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Origin": None}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://ops.evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "ftp://127.0.0.1"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "https://named.example"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": None}, 415),
        # A name that another site may own leads here, so the browser takes it for the page's own.
        ({"Host": "rebound.example", "Origin": "http://rebound.example"}, 421),
    ],
)
def test_nobody_else_acts(
    serve: Serve,
    actions: Recorded,
    headers: dict[str, str | None],
    expected: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(token=TOKEN, actions=actions, cors=["*", "https://named.example"])
    code, answer, answered = act(server, "purge", PURGE, **headers)
    assert code == expected
    assert "error" in answer
    assert actions.calls == []
    assert not [name for name in answered if name.startswith("Access-Control")]
    if expected in (401, 403):
        assert "action refused: 'purge' from 127.0.0.1" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "origin", ["https://ops.example", "https://stt.example.com", "http://stt.example.com:80"]
)
def test_it_may_be_behind_a_proxy(serve: Serve, actions: Recorded, origin: str) -> None:
    server = serve(
        token=TOKEN,
        actions=actions,
        action_origins="https://ops.example",
        allowed_hosts="stt.example.com",
    )
    code, _, _ = act(
        server, "purge", PURGE, Host="stt.example.com", Origin=origin, Sec_Fetch_Site="same-origin"
    )
    assert code == 200


def test_no_preflight_is_answered_and_no_other_method(serve: Serve, actions: Recorded) -> None:
    server = serve(token=TOKEN, actions=actions, cors="https://named.example")
    for method in ("OPTIONS", "GET", "PUT"):
        code, _, headers = act(server, "purge", PURGE, method=method)
        assert (code, headers["Allow"]) == (405, "POST")
        assert not [name for name in headers if name.startswith("Access-Control")]
    assert actions.calls == []


def test_they_are_off_unless_given_and_need_a_token(serve: Serve, actions: Recorded) -> None:
    server = serve(token=TOKEN)
    assert act(server, "purge", PURGE)[0] == 404
    with pytest.raises(ConfigurationError, match="actions need a token: without one, everybody"):
        serve(actions=actions)
    with pytest.raises(ConfigurationError, match="actions must be a GroupActions"):
        serve(token=TOKEN, actions=object())
    with pytest.raises(ConfigurationError, match="action_origins must be origins such as"):
        serve(token=TOKEN, actions=actions, action_origins="*")


ALL = {"by": "x", "most": 9, "up_to": "9-9"}


@pytest.mark.parametrize(
    ("name", "body", "problem"),
    [
        ("purge", "{", "the body must be a JSON object"),
        ("purge", [1], "the body must be a JSON object"),
        ("purge", {"ids": [LETTER]}, "'by' is missing"),
        ("purge", {"by": "a\nb", "ids": [LETTER]}, "'by' must be the name of whoever asks"),
        ("purge", {"by": " ", "ids": [LETTER]}, "'by' must be the name of whoever asks"),
        ("purge", {"by": "x", "ids": ["1 OR 1"]}, "'ids' must be up to 1000 ids"),
        ("purge", {"by": "x", "ids": [f"{2**64}-0"]}, "'ids' must be up to 1000 ids"),
        ("purge", {"by": "x"}, "either 'ids' or a 'where' that is not empty"),
        *(
            ("purge", {**ALL, "where": where}, "either 'ids' or a 'where' that is not empty")
            for where in ({"reason": ""}, {"message_ids": []}, {"fields": {}, "error": ""})
        ),
        ("replay", {"by": "x", "where": {"reason": "a"}}, "takes 'most'"),
        ("replay", {"by": "x", "where": {"SQL": "a"}}, "'where' must be an object with some of"),
        ("replay", {"by": "x", "where": {"fields": {"a": 1}}}, "'where' must be an object"),
        ("letter", {"id": LETTER, "extra": 1}, "letter takes id, not 'extra'"),
        ("letters", {"limit": 10**9}, "'limit' must be a whole number from 1 to 200"),
        ("find", {"message_id": "\ud800"}, "'message_id' must be the id of a message"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_with_the_reason(
    serve: Serve, actions: Recorded, name: str, body: object, problem: str
) -> None:
    code, answer, _ = act(serve(token=TOKEN, actions=actions), name, body)
    assert code == 400
    assert problem in answer["error"]
    assert actions.calls == []


FIELDS = ("by", "ids", "where", "most", "up_to", "after", "id", "limit", "message_id", "reason")
ODD = (
    *(
        None,
        True,
        -1,
        10**400,
        float("nan"),
        float("inf"),
        "",
        LETTER,
        f"{LETTER}\n",
        "\ud800",
        "a\nb",
    ),
    *(
        [],
        [LETTER],
        [[LETTER]],
        ["", None],
        {},
        {"fields": {"a": None}},
        {"reason": "\x00"},
        "x" * 3000,
    ),
    *({"older_than_seconds": float("nan")}, {"message_ids": ["1-1"] * 2000}, {"where": {}}),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(METHODS),
    st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(ODD), max_size=5),
)
@example("letter", {"id": LETTER + "\n"})
@example("causes", {"after": "[" * 30_000})
def test_whatever_a_body_says_it_is_understood_or_refused(name: str, body: Any) -> None:
    texts = [json.dumps(body).encode(), str(body.get("after", "")).encode(errors="replace")]
    for text in texts:
        try:
            parsed = requests.parse(name, text)
        except requests.BadRequest:
            continue
        assert parsed.name == name
        assert "\n" not in parsed.by


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DeadLetterMissing(LETTER, "{jobs}:workers:dead"), 404, LETTER),
        (RedisUnavailable("no connection to redis://u:hunter2@db"), 503, "redis://***@db"),
        (KeyError("secret"), 500, "the action failed (KeyError); the log says why"),
    ],
)
def test_a_failure_is_told_and_logged(
    serve: Serve,
    actions: Recorded,
    error: Exception,
    code: int,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise error

    actions.behave = fail
    answered, answer, _ = act(serve(token=TOKEN, actions=actions), "letter", {"id": LETTER})
    assert answered == code
    assert text in answer["error"]
    assert "Traceback" not in answer["error"]
    assert f"action letter from 127.0.0.1: id '{LETTER}': failed" in caplog.text
    assert ("Traceback" in caplog.text) is (code == 500)


def test_a_server_acts_after_a_restart_and_in_a_fork(serve: Serve, actions: Recorded) -> None:
    server = serve(token=TOKEN, actions=actions)
    assert server.stop_server()
    server.start_server()
    assert act(server, "purge", PURGE)[0] == 200

    def act_in_the_fork() -> int:
        with server:
            return act(server, "purge", PURGE)[0]

    assert in_a_fork(act_in_the_fork) == 200
    assert act(server, "purge", PURGE)[0] == 200


def test_an_action_that_takes_too_long_is_not_called_undone_and_blocks_no_probe(
    serve: Serve, actions: Recorded, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ActionRunner.__init__, "__defaults__", (0.3,))
    hold = Gate()
    actions.behave = lambda: hold() or {"done": 1, "missing": 0, "next": None}
    server = serve(token=TOKEN, actions=actions)
    try:
        answers: list[tuple[int, dict[str, Any]]] = []
        askers = [
            threading.Thread(
                target=lambda: answers.append(act(server, "purge", PURGE)[:2]), daemon=True
            )
            for _ in range(8)
        ]
        for asker in askers:
            asker.start()
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as client:
            client.request("GET", "/health/live")
            assert client.getresponse().status == 200
        for asker in askers:
            asker.join(10)
    finally:
        hold.opened.set()
    unfinished = [answer["error"] for code, answer in answers if code == 504]
    assert unfinished == ["no result within 0.3 s; the action may still be carried out"]
    refused = [answer["error"] for code, answer in answers if code == 503]
    assert len(refused) == 7
    assert all("nothing was done" in error for error in refused)
    # Those that were refused are never carried out; the one that was begun is, and the log says so.
    eventually(lambda: "1 done" in caplog.text)
    assert [name for name, _ in actions.calls] == ["purge"]
    assert "takes too long, and may still be carried out" in caplog.text
