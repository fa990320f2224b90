"""Dead letters are listed and filtered, whichever release wrote, removed or trimmed them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, bury
from protocol_client import KEYS, Worker

from shared_sync import DeadLetters
from shared_sync.connection.connection import Connection
from shared_sync.dead_letters import DeadLetter, DeadLetterFilter
from shared_sync.errors import ConfigurationError
from shared_sync.protocol.dead_letter_commands import Row
from shared_sync.protocol.retention import Limits

LARGE = b"x" * 70_000


@pytest.fixture
def letters(redis_url: str) -> Iterator[DeadLetters]:
    with DeadLetters(redis_url, STREAM, GROUP) as found:
        yield found


def write(client: redis.Redis, *, audio: bytes = b"", **metadata: Any) -> str:
    """Write a dead letter as a worker of an earlier release does, which knows no index."""
    about = {"id": "1-1", "reason": "rejected: no use", "time": time.time(), **metadata}
    fields = {"audio": audio, **{f"dead.{name}": value for name, value in about.items()}}
    written = client.xadd(DEAD, fields)
    assert isinstance(written, bytes)
    return written.decode()


def rows(letters: DeadLetters, where: DeadLetterFilter | None = None) -> list[DeadLetter]:
    return list(letters.iterate(with_fields=False, where=where))


def ids(letters: DeadLetters, where: DeadLetterFilter | None = None) -> list[str]:
    return [letter.id for letter in rows(letters, where)]


def stored_ids(client: redis.Redis) -> list[str]:
    return [letter_id.decode() for letter_id, _ in client.xrange(DEAD)]


# --- the index ----------------------------------------------------------------------------------


def test_letters_of_earlier_releases_are_listed_and_join_the_index(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    write(client, audio=LARGE)
    bury(redis_url, {"audio": LARGE}, {"audio": b""})
    write(client)
    expected = stored_ids(client)
    assert client.zcard(KEYS.dead_index) == 2
    first = rows(letters)
    assert [letter.id for letter in first] == expected
    assert client.zcard(KEYS.dead_index) == 4
    assert rows(letters) == first
    assert [letter.size > len(LARGE) for letter in first] == [True, True, False, False]


def test_letters_that_others_removed_are_not_listed_and_leave_the_index(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    bury(redis_url, *({"audio": LARGE, "n": n} for n in range(6)))
    gone = [stored_ids(client)[place] for place in (0, 3, 5)]
    client.xdel(DEAD, *gone)
    assert ids(letters) == stored_ids(client)
    assert client.zcard(KEYS.dead_index) == 3
    client.delete(DEAD)
    assert ids(letters) == []
    assert client.exists(KEYS.dead_index) == 0


def test_what_is_replayed_or_purged_leaves_the_index(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    client.xadd(STREAM, {"dead.letter": "kept packed"})
    bury(redis_url, {"audio": LARGE}, {"n": 2}, {"n": 3})
    packed, large, small, other = stored_ids(client)
    letters.replay([packed, large])
    assert letters.purge([small]) == 1
    (left,) = client.zrange(KEYS.dead_index, 0, -1)
    assert other.partition("-")[0].encode() in left


def test_an_index_that_cannot_be_used_changes_nothing(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    bury(redis_url, {"audio": LARGE}, {"audio": b""})
    expected = rows(letters)
    client.zadd(KEYS.dead_index, {"a": 0, "1-2-3": 0, "zzz": 0})
    assert rows(letters) == expected
    client.delete(KEYS.dead_index)
    rights = ("+xlen", "+xrange", "+evalsha", "+script|load")
    client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", *rights)
    with DeadLetters(redis_url.replace("://", "://reader:pw@"), STREAM, GROUP) as as_reader:
        assert rows(as_reader) == expected
    client.set(KEYS.dead_index, "something else")
    assert rows(letters) == expected
    assert letters.purge([expected[0].id]) == 1
    letters.replay([expected[1].id])
    assert rows(letters) == []


@pytest.mark.parametrize("seed", range(4))
def test_in_random_histories_the_list_has_what_is_there(
    letters: DeadLetters, client: redis.Redis, connection: Connection, seed: int
) -> None:
    """Workers and tools of this release, and of those before it, share the dead letters."""
    chance = random.Random(seed)
    worker = Worker(connection, "w1")
    for _ in range(40):
        act = chance.choice(["bury", "bury", "write", "purge", "replay", "delete", "trim", "lose"])
        audio = chance.choice([b"", LARGE])
        there = stored_ids(client)
        some = chance.sample(there, min(len(there), chance.randint(1, 3)))
        if act == "bury":
            worker.publish([b"audio", audio])
            worker.bury(worker.read(1)[0].id)
        elif act == "write":
            write(client, audio=audio)
        elif act == "purge":
            assert letters.purge(some) == len(some)
        elif act == "replay":
            letters.replay(some)
            client.delete(STREAM)
            worker = Worker(connection, "w1")
        elif act == "delete" and some:
            client.xdel(DEAD, *some)
        elif act == "trim":
            limits = Limits(max_entries=max(1, len(there) - 2))
            connection.call(*limits.trim(KEYS.dead, KEYS.dead_index, step=10))
        elif act == "lose" and chance.random() < 0.2:
            client.delete(KEYS.dead_index)
        if chance.random() < 0.5:
            rows(letters)  # adds to the index whatever is not in it ...
            assert ids(letters) == stored_ids(client)  # ... and so notices what is too much
    assert [letter.id for letter in letters] == stored_ids(client)


def test_a_page_begins_behind_any_id(redis_url: str, letters: DeadLetters) -> None:
    bury(redis_url, *({"n": n} for n in range(5)))
    everything = ids(letters)
    listed = letters.list(after=everything[1], limit=2, with_fields=False)
    assert [letter.id for letter in listed] == everything[2:4]
    milliseconds = everything[0].partition("-")[0]
    assert [one.id for one in letters.list(after="1", with_fields=False)] == everything
    assert milliseconds not in [one.id for one in letters.list(after=milliseconds)]


# --- filters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (DeadLetterFilter(), "abc"),
        (DeadLetterFilter(reason="BAD input"), "a"),
        (DeadLetterFilter(error="valueerror"), "b"),
        (DeadLetterFilter(error="too loud"), "b"),
        (DeadLetterFilter(older_than_seconds=3000), "ab"),
        (DeadLetterFilter(newer_than_seconds=3000), "c"),
        (DeadLetterFilter(older_than_seconds=3000, newer_than_seconds=5000), "b"),
        (DeadLetterFilter(message_ids=["1-3", "1-1", "9-9"]), "ac"),
        (DeadLetterFilter(reason="failed", error="CUDA"), "c"),
        (DeadLetterFilter(reason="failed", message_ids=["1-1"]), ""),
    ],
)
def test_a_filter_selects_letters_that_meet_every_condition(
    letters: DeadLetters, client: redis.Redis, where: DeadLetterFilter, found: str
) -> None:
    now, failed = time.time(), "failed 5 times"
    write(client, id="1-1", reason="bad input: no audio", time=now - 7200)
    write(
        client, id="1-2", reason=failed, time=now - 4000, error_type="ValueError", error="Too loud"
    )
    write(client, id="1-3", reason=failed, time=now, error_type="RuntimeError", error="CUDA error")
    names = dict(zip(stored_ids(client), "abc", strict=True))
    assert "".join(names[letter_id] for letter_id in ids(letters, where)) == found
    assert [letter.id for letter in letters.iterate(where=where)] == ids(letters, where)
    assert [one.id for one in letters.list(where=where, limit=1)] == ids(letters, where)[:1]


def test_a_letter_without_a_time_is_as_old_as_its_id_says(
    letters: DeadLetters, client: redis.Redis
) -> None:
    client.xadd(DEAD, {"dead.reason": "of another program"}, id="1700000000000-0")
    new = client.xadd(DEAD, {"dead.reason": "of another program"})
    assert ids(letters, DeadLetterFilter(older_than_seconds=3600)) == ["1700000000000-0"]
    assert ids(letters, DeadLetterFilter(newer_than_seconds=3600)) == [new.decode()]


FIELDS: list[dict[str, Any]] = [
    {"client": "42", "n": 1},
    {"client": "42", "n": 2, "audio": LARGE},
    {"client": "7", "n": 3, "audio": LARGE},
    {"n": 4, "text": "y" * 1000, "audio": LARGE},
    {"n": 5, **{f"f{n}": "z" * 50 for n in range(200)}, "audio": LARGE, "client": "42"},
]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"client": "42"}, [1, 2, 5]),
        ({"client": b"42", "n": "2"}, [2]),
        ({"client": "4"}, []),
        ({"text": "y" * 1000}, [4]),
        ({"text": "y" * 999}, []),
        ({"audio": LARGE}, [2, 3, 4, 5]),
        ({"client": "42", "f199": "z" * 50}, [5]),
        ({"nobody": "has"}, []),
    ],
)
def test_fields_are_found_whether_their_letter_is_small_or_large(
    redis_url: str,
    letters: DeadLetters,
    client: redis.Redis,
    fields: dict[str, str | bytes],
    found: list[int],
) -> None:
    bury(redis_url, *FIELDS)
    client.xadd(DEAD, {"dead.reason": "a key of another program"})
    numbers = {letter.id: int(letter.fields.get("n", b"0")) for letter in letters}
    where = DeadLetterFilter(fields=fields)
    assert [numbers[letter_id] for letter_id in ids(letters, where)] == found


def test_only_a_field_that_may_have_been_left_out_needs_its_message() -> None:
    row = [b"client", b"42", b"dead.id", b"1-1"]

    def decide(left_out: int, **fields: str) -> bool | None:
        return DeadLetterFilter(fields=fields).matches_fields(Row("1-0", 100_000, left_out, row))

    assert [decide(left_out, client="42") for left_out in range(3)] == [True, True, True]
    assert [decide(left_out, client="43") for left_out in range(3)] == [False, False, False]
    assert [decide(left_out, other="x") for left_out in range(3)] == [False, False, None]
    assert [decide(left_out, other="x" * 252) for left_out in range(3)] == [False, None, None]
    assert decide(2, client="43", other="x") is False


def test_a_field_of_a_message_that_is_kept_packed_is_found(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    client.xadd(STREAM, {"dead.letter": "office", "audio": LARGE})
    client.xadd(STREAM, {"dead.letter": "home"})
    bury(redis_url, {"n": 1})
    for value in ("office", "home"):
        (letter,) = letters.iterate(where=DeadLetterFilter(fields={"dead.letter": value}))
        assert letter.fields["dead.letter"] == value.encode()


@pytest.mark.parametrize(
    "arguments",
    [
        {"older_than_seconds": -1},
        {"newer_than_seconds": "1h"},
        {"message_ids": "1-1"},
        {"reason": 5},
        {"error": None},
        {"fields": ["client"]},
        {"fields": {"client": 42}},
    ],
)
def test_a_filter_that_cannot_work_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        DeadLetterFilter(**arguments)
