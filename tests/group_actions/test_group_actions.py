"""What the page asks for, done to a real group: only to what was confirmed, and told as it is."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, Make, bury
from helpers import Gate, eventually

from shared_sync import DeadLetters, RedisStreamProducer, RetryPolicy, current_message
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.dead_letters import DeadLetterFilter
from shared_sync.errors import (
    ConfigurationError,
    DeadLetterMissing,
    GroupMissing,
    RedisAccessDenied,
    RedisUnavailable,
)
from shared_sync.group_actions import GroupActions
from shared_sync.protocol.keys import Keys

REDIS_PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def actions(redis_url: str) -> Iterator[GroupActions]:
    with GroupActions(redis_url, STREAM, GROUP) as made:
        yield made


def add(client: redis.Redis, error_type: str, number: int, error: str = "no") -> list[str]:
    """Dead letters as workers write them; returns their ids."""
    with client.pipeline() as pipeline:
        for n in range(number):
            fields = {"n": n, "client": "ab"[n % 2], "dead.id": f"1-{n + 1}"}
            metadata = {"reason": "failed 2 times", "error_type": error_type, "error": error}
            pipeline.xadd(DEAD, {**fields, **{f"dead.{key}": of for key, of in metadata.items()}})
        return [letter_id.decode() for letter_id in pipeline.execute()]


def all_steps(step: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of an action, one for each step."""
    answers, after = [], ""
    while after is not None:
        answers.append(step(after))
        after = answers[-1]["next"]
    return answers


def slow_clock() -> Callable[[], float]:
    """A clock by which each step ends at its first letter."""
    return itertools.count(0.0, 10.0).__next__


def causes(actions: GroupActions) -> dict[str, dict[str, Any]]:
    return {cause["error_type"]: cause for cause in actions.causes()["causes"]}


def test_causes_are_counted_over_all_letters_also_in_steps(
    redis_url: str, actions: GroupActions, client: redis.Redis
) -> None:
    add(client, "ValueError", 40, "chunk 17 of 'a.wav' is bad")
    add(client, "OSError", 3)
    counted = actions.causes()
    assert (counted["counted"], counted["total"], counted["next"]) == (43, 43, None)
    assert [(c["error_type"], c["letters"]) for c in counted["causes"]] == [
        ("OSError", 3),
        ("ValueError", 40),
    ]
    slow = GroupActions(redis_url, STREAM, GROUP, clock=slow_clock())
    steps = all_steps(lambda after: slow.causes(after=after))
    slow.close()
    assert len(steps) > 40
    assert sum(step["counted"] for step in steps) == 43
    # The same fingerprints as everywhere else.
    view = DeadLetterFilter(fingerprint=counted["causes"][0]["fingerprint"])
    with DeadLetters(redis_url, STREAM, GROUP) as letters:
        assert {letter.error_type for letter in letters.iterate(where=view)} == {"OSError"}


@pytest.mark.parametrize("kind", ["replay", "purge"])
def test_of_a_cause_only_the_letters_that_were_confirmed_are_touched(
    actions: GroupActions, client: redis.Redis, kind: str
) -> None:
    old = add(client, "ValueError", 150)
    others = add(client, "OSError", 2)
    cause = causes(actions)["ValueError"]
    new = add(client, "ValueError", 5)  # while the operator reads the question
    act = getattr(actions, kind)
    gone = actions.purge(by="Ben", ids=[old[3], "1-1"])
    assert (gone["done"], gone["missing"]) == (1, 1)
    chosen = {"where": {"fingerprint": cause["fingerprint"]}, "up_to": cause["newest_id"]}
    answer = act(by="Anna", most=150, **chosen)
    assert answer == {"done": 149, "missing": 0, "next": None, "stopped": None}
    left = [letter_id.decode() for letter_id, _ in client.xrange(DEAD)]
    assert left == others + new
    assert client.xlen(STREAM) == (149 if kind == "replay" else 0)
    events = client.xrange(Keys.of(STREAM, GROUP).events)
    assert events[-1][1][b"who"] == b"Anna"
    assert b"149 dead letters were" in events[-1][1][b"text"]


def test_large_numbers_go_on_step_by_step(redis_url: str, client: redis.Redis) -> None:
    add(client, "OSError", 3)
    ids = add(client, "ValueError", 4)
    with GroupActions(redis_url, STREAM, GROUP, clock=slow_clock()) as slow:
        left = 3

        def step(after: str) -> dict[str, Any]:
            nonlocal left
            where = {"error": "ValueError"}
            done = slow.replay(by="x", where=where, most=left, up_to=ids[-1], after=after)
            left -= done["done"]
            return done

        steps = all_steps(step)
        assert [answer["done"] for answer in steps] == [0, 0, 0, 1, 1, 1]
        assert slow.purge(by="x", ids=ids)["next"] is not None or client.xlen(DEAD) == 3
    assert client.xlen(STREAM) == 3


def test_one_letter_is_shown_as_a_whole_and_safely(
    redis_url: str, actions: GroupActions, client: redis.Redis
) -> None:
    audio = b"RIFF\xff\x00" * 1000
    fields = {"text": HOSTILE, "audio": audio, "api_key": "hunter2", "long": "é" * 3000}
    (message_id,) = bury(redis_url, fields, error=ValueError(HOSTILE))
    (row,) = actions.letters()["letters"]
    letter = actions.letter(id=row["id"])
    assert (letter["message_id"], letter["error"], letter["worker"]) == (message_id, HOSTILE, "c1")
    assert "Traceback" in letter["traceback"]
    assert [failure["attempt"] for failure in letter["history"]] == [1, 2]
    shown = {field.pop("name"): field for field in letter["fields"]}
    assert shown["text"] == {"text": HOSTILE, "size": len(HOSTILE), "cut": False}
    assert shown["audio"] == {"sha256": hashlib.sha256(audio).hexdigest(), "size": len(audio)}
    assert shown["api_key"]["text"] == "***"
    assert (shown["long"]["cut"], len(shown["long"]["text"])) == (True, 2000)
    with pytest.raises(DeadLetterMissing):
        actions.letter(id="1-1")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"fields": {"client": "b", "n": "3"}}, ["1-4"]),
        ({"message_ids": ["1-2"]}, ["1-2"]),
        ({"error": "value", "fields": {"client": "a"}}, ["1-1", "1-3"]),
        ({"reason": "nothing of that kind"}, []),
    ],
)
def test_letters_are_found_by_what_is_known_about_them(
    actions: GroupActions, client: redis.Redis, where: dict[str, Any], expected: Sequence[str]
) -> None:
    add(client, "ValueError", 4)
    found = actions.letters(where=where)["letters"]
    assert [letter["message_id"] for letter in found] == expected
    with pytest.raises(ConfigurationError):
        actions.letters(where={"older_than_seconds": -1})


def test_a_message_is_found_wherever_it_is(
    redis_url: str, actions: GroupActions, make: Make
) -> None:
    hold = Gate()

    def process(message_id: str, fields: dict[str, Any]) -> None:
        if fields["do"] == "fail":
            raise ValueError
        if fields["do"] == "run":
            current_message().report_progress(0.4)
            hold()

    with RedisStreamProducer(redis_url, STREAM) as producer:
        later = producer.publish({"do": "later"}, delay_seconds=600)
        ended, failing, running, waiting = producer.publish_many(
            {"do": kind} for kind in ("end", "fail", "run", "wait")
        )
    retry = RetryPolicy(max_attempts=5, base_seconds=600, max_seconds=600)
    make(process, retry=retry, prefetch=1).start()
    try:
        assert hold.entered.wait(20)

        def state(message_id: str) -> dict[str, Any]:
            return actions.find(message_id=message_id)

        assert [state(i)["state"] for i in (later, ended, failing, waiting, running)] == [
            *("scheduled", "ended", "parked", "waiting", "running")
        ]
        assert state(later)["fields"][0] == {"name": "do", "size": 5, "text": "later", "cut": False}
        assert 500 < state(later)["due_in_seconds"] <= 600
        parked = state(failing)
        assert (parked["failures"], parked["consumer"], parked["attempt"]) == (1, "", 1)
        assert 200 < parked["due_in_seconds"] <= 600
        assert (state(running)["consumer"], state(running)["attempt"]) == ("consumer-1", 1)
        eventually(lambda: state(running)["progress"] == 0.4)
        for unknown in ("scheduled-1-1", "nonsense"):
            assert state(unknown)["state"] == "unknown"
    finally:
        hold.opened.set()


def test_a_group_is_paused_once_and_resumed(
    redis_url: str, actions: GroupActions, client: redis.Redis
) -> None:
    with pytest.raises(GroupMissing):
        actions.pause(by="Anna", reason="deploy")
    client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    first = actions.pause(by="Anna", reason="deploy")
    assert (first["paused"]["by"], first["paused"]["reason"]) == ("Anna", "deploy")
    assert first["was_paused"] is False
    second = actions.pause(by="Ben", reason="another")
    assert (second["paused"]["by"], second["was_paused"]) == ("Anna", True)
    assert actions.resume(by="Ben") == {"paused": None, "was_paused": True}
    assert actions.resume(by="Ben")["was_paused"] is False


def test_the_documented_rights_are_enough_and_a_missing_one_is_named(
    own_server: EmbeddedRedis,
) -> None:
    (listed,) = re.findall(r"\[Acting from the page\].*?:\*\* ((?:`[^`]*`))", REDIS_PAGE, re.DOTALL)
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        first, second = add(admin, "ValueError", 2)
        admin.execute_command(
            *("ACL", "SETUSER", "operator", "on", ">pw", "~jobs", "~{jobs}:*"),
            *listed.strip("`").split(),
        )
        url = own_server.url.replace("redis://", "redis://operator:pw@")
        with GroupActions(url, STREAM, GROUP) as actions:
            assert actions.causes()["counted"] == 2
            assert len(actions.letters(where={"fields": {"n": "1"}})["letters"]) == 1
            assert actions.letter(id=first)["fields_total"] == 2
            assert actions.replay(by="x", ids=[first])["done"] == 1
            assert actions.purge(by="x", ids=[second])["done"] == 1
            ((message_id, _),) = admin.xrange(STREAM)
            assert actions.find(message_id=message_id.decode())["state"] == "waiting"
            assert actions.pause(by="x", reason="y")["paused"]
            assert actions.resume(by="x")["was_paused"]
            admin.execute_command("ACL", "SETUSER", "operator", "-hsetnx")
            with pytest.raises(RedisAccessDenied, match="hsetnx"):
                actions.pause(by="x", reason="y")


def test_what_was_done_before_redis_went_away_is_told(own_server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        ids = add(client, "ValueError", 3)
    readings = itertools.count()

    def clock() -> float:  # it is read at the begin, and before the second letter
        if next(readings) == 2:
            own_server.kill()
        return 0.0

    with GroupActions(own_server.url, STREAM, GROUP, clock=clock) as actions:
        answer = actions.replay(by="x", ids=ids)
        assert (answer["done"], answer["next"]) == (2, None)
        assert answer["stopped"]
        with pytest.raises(RedisUnavailable):
            actions.replay(by="x", ids=ids)
