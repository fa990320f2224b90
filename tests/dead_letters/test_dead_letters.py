"""A dead letter is listed with its reason, replayed once, and purged for good."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import takewhile

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, bury
from helpers import eventually
from protocol_client import KEYS

from shared_sync import DeadLetters, RedisStreamConsumer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    ConfigurationError,
    DeadLetterMissing,
    RedisAccessDenied,
    RedisRefused,
)

DEAD_INDEX = KEYS.dead_index


@pytest.fixture
def letters(redis_url: str) -> Iterator[DeadLetters]:
    with DeadLetters(redis_url, STREAM, GROUP) as found:
        yield found


def test_a_dead_letter_tells_what_it_was_and_why_it_died(
    redis_url: str, letters: DeadLetters, client: redis.Redis
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
    (items,) = client.xrange(DEAD)
    assert letter.size == sum(len(name) + len(value) for name, value in items[1].items())
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


def bury_published(
    redis_url: str, client: redis.Redis, *messages: dict[str, str]
) -> dict[bytes, dict[bytes, bytes]]:
    """Have messages given up on that another program has published; returns them by id."""
    for message in messages:
        client.xadd(STREAM, message)
    published = dict(client.xrange(STREAM))
    bury(redis_url, {"n": 1})
    return published


@pytest.mark.parametrize("count", [1990, 2500, 3600, 5000, 40_000])
def test_one_of_very_many_fields_is_seen_and_replayed_whole(
    redis_url: str, letters: DeadLetters, client: redis.Redis, count: int
) -> None:
    many = {f"field-{n}": f"value,{n}:" for n in range(count)}
    (message,) = bury_published(redis_url, client, many).values()
    (letter,) = (each for each in letters if len(each.fields) == count)
    assert letter.fields == {name: value.encode() for name, value in many.items()}
    (message_id,) = letters.replay([letter.id])
    assert client.xrange(STREAM) == [(message_id.encode(), message)]
    assert len(letters) == 1
    with pytest.raises(DeadLetterMissing):
        letters.replay([letter.id])
    assert client.xlen(STREAM) == 1


OWN_NAMES = (
    {"dead.fields": "hello"},
    {"dead.fields": "hello", "n": "2"},
    {"dead.reason": "mine", "dead.attempts": "many", "dead.time": "nan", "n": "3"},
    {"n": "4", "dead.id": "5-5", "dead.history": "[", "dead.crashes": "inf"},
    {"n": "5", "dead.letter": "office"},
)


def test_fields_of_the_message_that_are_named_as_ours_are_kept_apart(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    published = bury_published(redis_url, client, *OWN_NAMES)
    # Earlier releases understand such fields in a field of ours only.
    first = [next(iter(fields)) for _, fields in client.xrange(DEAD)]
    assert first == [b"dead.fields"] * len(OWN_NAMES) + [b"n"]
    seen = {letter.message_id.encode(): letter for letter in letters}
    for message_id, fields in published.items():
        letter = seen[message_id]
        assert letter == letters.show(letter.id)
        assert {name.encode(): value for name, value in letter.fields.items()} == fields
        assert (letter.reason, letter.attempts, letter.crashes) == ("rejected: no use", 1, 0)
        assert abs(letter.time - time.time()) < 60
        assert [failure["error"] for failure in letter.history] == ["no use"]
    letters.replay(letter.id for letter in seen.values())
    replayed = [fields for _, fields in client.xrange(STREAM)]
    assert replayed == [*published.values(), {b"n": b"1"}]
    assert len(letters) == 0


def test_workers_of_earlier_releases_wrote_such_fields_as_they_were(
    letters: DeadLetters, client: redis.Redis
) -> None:
    metadata = {"id": "1-1", "reason": "failed 5 times", "attempts": "5", "time": "1.5"}
    for fields in OWN_NAMES:
        items = [*fields.items(), *((f"dead.{name}", text) for name, text in metadata.items())]
        client.execute_command("XADD", DEAD, "*", *(each for item in items for each in item))
    expected = [{name: text.encode() for name, text in each.items()} for each in OWN_NAMES]
    assert [dict(letter.fields) for letter in letters] == expected
    assert {(each.message_id, each.reason, each.attempts, each.time) for each in letters} == {
        ("1-1", "failed 5 times", 5, 1.5)
    }
    letters.replay([letter.id for letter in letters])
    replayed = [
        {name.decode(): text for name, text in fields.items()}
        for _, fields in client.xrange(STREAM)
    ]
    assert replayed == expected


def test_what_cannot_be_published_stays_a_dead_letter(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    bury_published(redis_url, client, {"dead.fields": "hello"})
    client.set(STREAM, "something that is not a stream")
    for letter in letters:
        with pytest.raises(RedisRefused, match="WRONGTYPE"):
            letters.replay([letter.id])
    assert len(letters) == 2


@pytest.mark.parametrize(
    "fields", [{"text": "hello"}, {"dead.fields": "hello"}], ids=["small", "packed"]
)
def test_whoever_replays_one_at_the_same_time_publishes_it_once(
    redis_url: str, letters: DeadLetters, client: redis.Redis, fields: dict[str, str]
) -> None:
    (message,) = bury_published(redis_url, client, fields).values()
    (letter,) = (each for each in letters if each.fields.keys() == fields.keys())
    together = threading.Barrier(6)

    def replay() -> int:
        with DeadLetters(redis_url, STREAM, GROUP) as own:
            own.show(letter.id)
            together.wait(20)
            try:
                return len(own.replay([letter.id]))
            except DeadLetterMissing:
                return 0

    with ThreadPoolExecutor(6) as pool:
        replayed = [pool.submit(replay) for _ in range(6)]
        assert sum(each.result(30) for each in replayed) == 1
    assert [fields for _, fields in client.xrange(STREAM)] == [message]


def test_a_full_server_lets_a_letter_move_or_keeps_it(own_server: EmbeddedRedis) -> None:
    with (
        redis.Redis.from_url(own_server.url) as client,
        DeadLetters(own_server.url, STREAM, GROUP) as letters,
    ):
        bury_published(own_server.url, client, {"dead.fields": "hello"})
        packed, small = sorted(letters, key=lambda letter: "n" in letter.fields)
        client.config_set("maxmemory", 1)
        letters.replay([small.id])
        assert client.xlen(STREAM) == 1
        with pytest.raises(RedisRefused, match="OOM"):
            letters.replay([packed.id])
        assert [letter.id for letter in letters] == [packed.id]
        client.config_set("maxmemory", 0)
        letters.replay([packed.id])
        assert client.xlen(STREAM) == 2


LARGE = 1_000_000


def test_large_ones_are_read_a_few_at_a_time(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    bury(redis_url, *({"audio": b"x" * LARGE, "n": n} for n in range(12)))
    with client.monitor() as monitor:
        whole = letters.list()
        client.delete(DEAD_INDEX)
        without = letters.list(with_fields=False)
        client.ping()
        lines = takewhile(lambda line: line["command"] != "PING", iter(monitor.next_command, None))
        # Of a command with many arguments the driver makes nothing at times.
        words = [(line["command"].split() or [""])[0] for line in lines]
        commands = [word for word in words if word in ("EVALSHA", "XRANGE")]
    assert len(whole) == len(without) == 12
    assert {len(letter.fields["audio"]) for letter in whole} == {LARGE}
    assert [replace(letter, fields={}) for letter in whole] == without
    # Four of them make 4 MB, and there are three times four.
    calls = "".join("s" if command == "EVALSHA" else "." for command in commands)
    assert max(map(len, re.findall(r"\.+", calls))) <= 5, commands


def test_large_letters_in_the_index_are_listed_without_being_read(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    bury(redis_url, *({"audio": b"x" * LARGE, "n": n} for n in range(12)))
    whole = letters.list()
    # The bodies are not what they were; the list does not see that.
    client.delete(DEAD)
    for letter in whole:
        client.xadd(DEAD, {"n": "small"}, id=letter.id)
    without = letters.list(with_fields=False)
    assert without == [replace(letter, fields={}) for letter in whole]
    assert min(letter.size for letter in without) > LARGE


def test_a_user_who_may_run_no_scripts_lists_them_one_at_a_time(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    bury(redis_url, *({"n": n} for n in range(5)))
    client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+xrange", "+xlen")
    url = redis_url.replace("://", "://reader:pw@")
    with DeadLetters(url, STREAM, GROUP) as as_reader:
        assert list(as_reader) == list(letters)
        assert as_reader.list(limit=2, with_fields=False) == letters.list(
            limit=2, with_fields=False
        )


def test_a_user_who_may_not_remove_them_publishes_nothing(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    bury_published(redis_url, client, {"dead.fields": "hello"})
    rights = ("+xrange", "+xrevrange", "+evalsha", "+script|load", "+xadd", "+multi", "+exec")
    client.execute_command("ACL", "SETUSER", "adder", "on", ">pw", "~*", *rights)
    with DeadLetters(redis_url.replace("://", "://adder:pw@"), STREAM, GROUP) as as_adder:
        for letter in letters:
            with pytest.raises(RedisAccessDenied, match=r"(?i)xdel|script"):
                as_adder.replay([letter.id])
    assert client.xlen(STREAM) == 0
    assert len(letters) == 2


def test_hundreds_are_purged_at_once(redis_url: str, letters: DeadLetters) -> None:
    bury(redis_url, *({"n": n} for n in range(250)))
    ids = [letter.id for letter in letters.iterate(with_fields=False)]
    assert letters.purge(ids) == 250
    assert len(letters) == 0


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


def test_ids_and_filters_of_another_kind_are_refused(letters: DeadLetters) -> None:
    calls: dict[str, Callable[[], object]] = {
        "after must be": lambda: letters.list(after="yesterday"),
        "^ids must be": lambda: letters.replay("1-1"),
        "letter_ids must be": lambda: letters.purge("1-1"),
        "where must be": lambda: letters.iterate(where="CUDA"),  # type: ignore[arg-type]
    }
    for text, call in calls.items():
        with pytest.raises(ConfigurationError, match=text):
            call()


@pytest.mark.parametrize("letter_id", ["yesterday", "", "-", "5", None])
def test_what_is_no_id_is_the_id_of_no_dead_letter(letters: DeadLetters, letter_id: str) -> None:
    for call in (lambda: letters.show(letter_id), lambda: letters.replay([letter_id])):
        with pytest.raises(DeadLetterMissing, match="no dead letter"):
            call()
    assert letters.purge([letter_id]) == 0
