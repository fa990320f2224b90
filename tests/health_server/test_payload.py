"""What health data mean, and what of them strangers may see."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_sync.health_server import payload
from shared_sync.health_server.payload import HealthData, parse, public

CRITICAL = ("redis_connected", "model_loaded")


def data_of(returned: object, *, details: bool = False) -> HealthData:
    return parse(returned, CRITICAL, details=details)


@pytest.mark.parametrize("returned", [None, True, {}, {"status": "healthy", "jobs": 1}])
def test_nothing_said_is_healthy(returned: object) -> None:
    data = data_of(returned)
    assert (data.status, data.reasons) == ("healthy", ())
    assert (data.live, data.ready, data.started) == (None, True, True)


def test_false_is_unhealthy() -> None:
    assert data_of(False).status == "unhealthy"


@pytest.mark.parametrize("status", ["healthy", "degraded", "unhealthy"])
def test_a_critical_key_that_is_false_wins_over_the_status(status: str) -> None:
    data = data_of({"status": status, "redis_connected": False, "reasons": ["cable cut"]})
    assert (data.status, data.reasons) == ("unhealthy", ("redis_connected is false", "cable cut"))


@pytest.mark.parametrize("value", [None, 0, "", "False", True])
def test_only_false_itself_counts(value: object) -> None:
    data = data_of({"redis_connected": value, "live": value, "ready": value, "started": value})
    assert (data.status, data.live) == ("healthy", True)
    assert data.ready
    assert data.started


def test_each_probe_has_its_key() -> None:
    assert data_of({"live": False}).live is False
    assert not data_of({"ready": False}).ready
    assert not data_of({"started": False}).started
    assert not data_of({"model_loaded": False}).started
    assert data_of({"redis_connected": False}).started


@pytest.mark.parametrize("status", ["fine", "", 0, None, ["healthy"], {"a": 1}])
def test_another_word_for_the_status_is_degraded_and_told(status: object) -> None:
    data = data_of({"status": status})
    assert data.status == "degraded"
    assert data.reasons == (f"unknown status {status!r}",)


@pytest.mark.parametrize("reasons", ["one text", 5, None, {"a": 1}])
def test_reasons_that_are_no_list_are_left_as_values(reasons: object) -> None:
    data = data_of({"status": "degraded", "reasons": reasons})
    assert data.reasons == ()
    assert data.values["reasons"] == reasons


@pytest.mark.parametrize("returned", [1, 1.5, "healthy", b"x", ["a"], object()])
def test_what_is_no_health_data_is_refused_with_the_remedy(returned: object) -> None:
    with pytest.raises(TypeError, match="a mapping with the key 'status'"):
        data_of(returned)


def test_details_are_shown_only_where_that_was_asked_for_at_any_depth() -> None:
    data = {"details": "x", "rows": [{"a": 1, "details": {"path": "/secret"}}], "b": {"details": 1}}
    assert data_of(data).values == {"rows": [{"a": 1}], "b": {}}
    assert data_of(data, details=True).values == data


@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:s3cret@host:6379/0", "redis://***@host:6379/0"),
        ("redis://me:s3cret@host", "redis://***@host"),
        ("Error at rediss://me:p@s3cret@h/1, again", "Error at rediss://***@h/1, again"),
        ("redis+sentinel://u:s3cret@a:1,b:2/main/0", "redis+sentinel://***@a:1,b:2/main/0"),
        ("two: a://s3cret@x b://s3cret@y", "two: a://***@x b://***@y"),
        ("mail me@host, see http://host/a@b", "mail me@host, see http://host/a@b"),
        ("://@", "://***@"),
    ],
)
def test_passwords_in_urls_are_never_shown(text: str, shown: str, details: bool) -> None:
    assert public(text, details=details) == shown
    assert public({"a": [text]}, details=details) == {"a": [shown]}
    assert data_of({"status": "degraded", "reasons": [text]}).reasons == (shown,)


@pytest.mark.parametrize("details", [False, True])
def test_secrets_in_texts_and_under_their_names_are_never_shown(details: bool) -> None:
    data = {
        "status": "degraded",
        "reasons": ["login failed: password=s3cret"],
        "db": {"password": "s3cret", "api_key": "s3cret", "token": "", "tokens": 5},
        "error": "sent Authorization: Bearer s3cret, got 401",
    }
    parsed = data_of(data, details=details)
    assert parsed.reasons == ("login failed: password=***",)
    assert parsed.values["db"] == {"password": "***", "api_key": "***", "token": "", "tokens": 5}
    assert parsed.values["error"] == "sent Authorization: ***, got 401"


def test_numbers_that_json_has_not_become_null() -> None:
    assert public([math.nan, math.inf, -math.inf, 1.5, 10**400], details=False) == [
        None,
        None,
        None,
        1.5,
        None,
    ]
    assert public(2**1023 - 1, details=False) == 2**1023 - 1


@pytest.mark.parametrize("value", [b"x", {1, 2}, object(), {("a", 1): 1}, {b"a": 1}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        public({"a": value}, details=False)


def test_a_password_in_a_key_is_not_shown_either() -> None:
    assert public({"redis://me:s3cret@host": 1}, details=True) == {"redis://***@host": 1}


def test_moments_decimals_and_uuids_become_text() -> None:
    moment, name = datetime(2026, 1, 2, tzinfo=timezone.utc), UUID(int=7)
    shown = public([moment, moment.date(), Decimal("1.50"), name], details=False)
    assert shown == [str(moment), "2026-01-02", "1.50", str(name)]


def test_keys_become_text_as_json_has_them() -> None:
    assert public({1: "a", None: "b", False: "c", "d": "e"}, details=False) == {
        "1": "a",
        "null": "b",
        "false": "c",
        "d": "e",
    }


JSONABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(JSONABLE)
def test_whatever_is_presentable_is_json_and_stays_as_it_is(value: Any) -> None:
    shown = public(value, details=False)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert public(shown, details=False) == shown


def test_the_worst_of_several_counts() -> None:
    assert payload.worst([]) == "healthy"
    assert payload.worst(["healthy", "degraded"]) == "degraded"
    assert payload.worst(["degraded", "unhealthy", "healthy"]) == "unhealthy"
