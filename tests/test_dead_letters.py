"""A dead letter is listed with its reason, replayed once, and purged for good."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from consumers import GROUP, STREAM, bury
from helpers import eventually

from shared_sync import DeadLetters, RedisStreamConsumer
from shared_sync.errors import ConfigurationError, DeadLetterMissing, RedisRefused


@pytest.fixture
def letters(redis_url: str) -> Iterator[DeadLetters]:
    with DeadLetters(redis_url, STREAM, GROUP) as found:
        yield found


def test_a_dead_letter_tells_what_it_was_and_why_it_died(
    redis_url: str, letters: DeadLetters
) -> None:
    fields: dict[str, object] = {"name": "größer", "audio": b"\xff\x00"}
    (message_id,) = bury(redis_url, fields, error=ValueError("too loud"))
    (letter,) = letters
    assert letter == letters.show(letter.id)
    assert letter.message_id == message_id
    assert letter.fields == {"name": "größer".encode(), "audio": b"\xff\x00"}
    assert letter.reason == "failed 2 times"
    assert (letter.error_type, letter.error) == ("ValueError", "too loud")
    assert "too loud" in letter.traceback
    assert (letter.attempts, letter.crashes, letter.worker) == (2, 0, "c1")
    assert abs(letter.time - time.time()) < 60
    assert [failure["error"] for failure in letter.history] == ["too loud", "too loud"]


def test_without_any_there_is_nothing(letters: DeadLetters) -> None:
    assert len(letters) == 0
    assert list(letters) == []
    assert letters.purge([]) == 0


def test_they_are_listed_oldest_first_and_page_by_page(
    redis_url: str, letters: DeadLetters
) -> None:
    ids = bury(redis_url, *({"n": n} for n in range(250)))
    assert len(letters) == 250
    assert sorted(letter.message_id for letter in letters) == sorted(ids)
    first = letters.list(limit=2)
    second = letters.list(limit=2, after=first[-1].id)
    assert [letter.id for letter in (*first, *second)] == [letter.id for letter in letters][:4]


def test_a_replayed_one_is_a_new_message_with_the_old_fields_and_no_history(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    bury(redis_url, {"name": "a", "audio": b"\xff"}, error=ValueError("x"))
    (letter,) = letters
    (message_id,) = letters.replay([letter.id])
    assert client.xrange(STREAM) == [(message_id.encode(), {b"name": b"a", b"audio": b"\xff"})]
    assert len(letters) == 0
    attempts: list[str] = []
    with RedisStreamConsumer(
        redis_url,
        STREAM,
        GROUP,
        "c2",
        None,
        lambda found, _: attempts.append(found),
        binary_fields=("audio",),
    ):
        eventually(lambda: attempts == [message_id])


def test_what_is_not_there_is_an_error_that_names_it_and_nothing_is_doubled(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    bury(redis_url, {"n": 1})
    (letter,) = letters
    for act in (letters.show, lambda missing: letters.replay([letter.id, missing])):
        with pytest.raises(DeadLetterMissing, match="1-1"):
            act("1-1")
    assert client.xlen(STREAM) == 1
    with pytest.raises(DeadLetterMissing):
        letters.replay([letter.id])
    assert client.xlen(STREAM) == 1


def test_purged_ones_are_gone(redis_url: str, letters: DeadLetters, client: redis.Redis) -> None:
    bury(redis_url, {"n": 1}, {"n": 2})
    first, second = letters
    assert letters.purge([first.id, "1-1"]) == 1
    assert [letter.id for letter in letters] == [second.id]
    assert client.xlen(STREAM) == 0


def test_one_of_very_many_fields_can_be_seen_and_says_why_it_is_not_replayed(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    many = {f"field-{n}": f"value,{n}:" for n in range(5000)}
    client.xadd(STREAM, many)
    bury(redis_url, {"n": 1})
    seen = {len(letter.fields): letter for letter in letters}
    assert seen[5000].fields == {name: value.encode() for name, value in many.items()}
    with pytest.raises(RedisRefused, match="too many fields"):
        letters.replay([seen[5000].id])
    assert len(letters) == 2


def test_arguments_that_cannot_work_are_refused(redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match="consumer_group"):
        DeadLetters(redis_url, STREAM, "")
    with pytest.raises(ConfigurationError, match="redis_url"):
        DeadLetters("nonsense", STREAM, GROUP)
    with (
        DeadLetters(redis_url, STREAM, GROUP) as letters,
        pytest.raises(ConfigurationError, match="limit"),
    ):
        letters.list(limit=0)
