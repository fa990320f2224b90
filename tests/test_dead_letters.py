"""Looking after dead letters, from Python and from the command line."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from helpers import eventually

from shared_sync import DeadLetters, RedisStreamConsumer, RedisStreamProducer, Reject, RetryPolicy
from shared_sync.__main__ import main
from shared_sync.errors import ConfigurationError, DeadLetterMissing, RedisRefused

STREAM, GROUP = "jobs", "workers"
DEAD = "{jobs}:workers:dead"


def bury(redis_url: str, *messages: dict[str, object], error: Exception | None = None) -> list[str]:
    """Have messages given up on; returns their ids in the stream."""

    def processor(*_: object) -> None:
        raise error or Reject("no use")

    with RedisStreamProducer(redis_url, STREAM) as producer:
        ids = producer.publish_many(messages)
    consumer = RedisStreamConsumer(
        redis_url,
        STREAM,
        GROUP,
        "c1",
        None,
        processor,
        binary_fields=("audio",),
        retry=RetryPolicy(max_attempts=2, base_seconds=0.01),
    )
    with consumer, redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.xlen(STREAM) == 0)
    return ids


@pytest.fixture
def letters(redis_url: str) -> Iterator[DeadLetters]:
    with DeadLetters(redis_url, STREAM, GROUP) as found:
        yield found


@pytest.fixture
def where(redis_url: str) -> tuple[str, ...]:
    """What every command begins with."""
    return ("dead-letters", "--redis-url", redis_url, "--stream", STREAM, "--group", GROUP)


@pytest.fixture
def command(where: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that goes well; what it prints."""

    def run(*arguments: str) -> str:
        assert main([*where, *arguments]) == 0
        return capsys.readouterr().out

    return run


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


def test_the_command_lists_shows_replays_and_purges(
    redis_url: str,
    command: Callable[..., str],
    letters: DeadLetters,
    client: redis.Redis,
) -> None:
    bury(redis_url, {"name": "a", "audio": b"\xff" * 1000}, {"name": "b"}, {"name": "c"})
    first, second, _ = letters
    listed = command("list").splitlines()
    assert len(listed) == 3
    assert listed[0].startswith(first.id)
    assert "rejected: no use" in listed[0]
    shown = command("show", first.id)
    assert "name = a" in shown
    assert "(1000 bytes)" in shown
    assert f"{first.id} replayed as" in command("replay", first.id)
    assert client.xlen(STREAM) == 1
    assert command("purge", second.id) == "1 removed\n"
    command("replay", "--all")
    assert len(letters) == 0
    assert client.xlen(STREAM) == 2


def test_the_command_tells_a_mistake_in_a_line(where: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shared_sync", *where, "show", "1-1"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("shared_sync: there is no dead letter '1-1'")
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(SystemExit, match=r"^2$"):
        main([*where, "replay"])
