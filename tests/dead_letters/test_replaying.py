"""A replay that is cut off, or killed half way, neither loses a message nor publishes one twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, bury
from faults.proxy import Proxy
from helpers import ENVIRONMENT, eventually

from shared_sync import DeadLetters
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.dead_letters.replaying import MOST_TRIES
from shared_sync.errors import DeadLetterMissing, RedisUnavailable
from shared_sync.protocol.keys import Keys

REMOVED = b":1\r\n"
"""What the reply to the transaction has that replays a letter which is kept packed."""


@pytest.fixture
def proxy(redis_server: EmbeddedRedis) -> Iterator[Proxy]:
    """A way to the same Redis that can be disturbed."""
    with closing(Proxy(redis_server.port)) as made:
        yield made


@pytest.fixture
def letters(redis_url: str, proxy: Proxy) -> Iterator[DeadLetters]:
    """The dead letters, over the proxy."""
    with DeadLetters(proxy.url, STREAM, GROUP) as found:
        yield found


def write(client: redis.Redis, count: int) -> list[str]:
    """Write so many dead letters, of which every tenth is kept packed; return their ids."""
    with client.pipeline(transaction=False) as many:
        for n in range(count):
            own = {"dead.fields": b"1:n,%d:%d," % (len(str(n)), n)} if n % 10 == 0 else {"n": n}
            many.xadd(DEAD, {**own, "dead.id": f"{n + 1}-0", "dead.reason": "failed 5 times"})
        return [letter_id.decode() for letter_id in many.execute()]


def numbers(client: redis.Redis) -> list[int]:
    return [int(fields[b"n"]) for _, fields in client.xrange(STREAM)]


def test_a_message_is_replayed_by_the_id_that_it_had(
    redis_url: str, letters: DeadLetters, client: redis.Redis
) -> None:
    first, second, third = bury(redis_url, {"n": 1}, {"n": 2}, {"n": 3})
    replayed = letters.replay([third, first], by_message_id=True)
    assert [entry_id.decode() for entry_id, _ in client.xrange(STREAM)] == list(replayed)
    assert numbers(client) == [3, 1]
    with pytest.raises(DeadLetterMissing, match=first):
        letters.replay([second, first], by_message_id=True)
    assert [letter.message_id for letter in letters] == [second], "nothing of that is replayed"
    assert letters.replay([], by_message_id=True) == []


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_replay_whose_reply_is_lost_returns_the_id_when_repeated(
    letters: DeadLetters, proxy: Proxy, client: redis.Redis, is_packed: bool
) -> None:
    packed, small = write(client, 2)
    if is_packed:
        fault = proxy.lose_reply("", carrying=REMOVED)
    else:
        fault = proxy.lose_reply("replay", times=MOST_TRIES - 1)
    (message_id,) = letters.replay([packed if is_packed else small])
    assert fault.happened.is_set()
    assert [entry_id.decode() for entry_id, _ in client.xrange(STREAM)] == [message_id]
    (record,) = client.keys(Keys.of(STREAM, GROUP).replayed("*"))
    assert client.pttl(record) > 0
    with pytest.raises(DeadLetterMissing):
        letters.replay([packed if is_packed else small])


def test_without_the_right_to_record_a_replay_a_lost_reply_is_an_error_and_nothing_is_doubled(
    redis_url: str, proxy: Proxy, client: redis.Redis
) -> None:
    write(client, 3)
    rights = ("+xlen", "+xrange", "+xadd", "+xdel", "+evalsha", "+script|load")
    client.execute_command("ACL", "SETUSER", "replayer", "on", ">pw", "~*", *rights)
    with DeadLetters(proxy.url.replace("://", "://replayer:pw@"), STREAM, GROUP) as letters:
        ids = [letter.id for letter in letters]
        letters.replay(ids[1:2])
        proxy.lose_reply("replay")
        with pytest.raises(RedisUnavailable):
            letters.replay(ids[2:])
        assert [letter.id for letter in letters] == ids[:1]
    assert numbers(client) == [1, 2]


def test_with_cuts_at_random_each_message_is_published_once(
    letters: DeadLetters, proxy: Proxy, client: redis.Redis
) -> None:
    chance = random.Random(7)
    ids = write(client, 300)
    for script in ("replay", "replay_large"):
        proxy.lose_reply(script, times=1000, chance=lambda: chance.random() < 0.15)
        proxy.cut_before(script, times=1000, chance=lambda: chance.random() < 0.15)
    proxy.lose_reply("", times=1000, carrying=REMOVED, chance=lambda: chance.random() < 0.3)
    replayed: list[str] = []
    while ids:
        try:
            replayed += letters.replay(ids[:1])
        except RedisUnavailable:  # all tries were cut
            continue
        except DeadLetterMissing:  # and one of those before was not
            pass
        del ids[0]
    assert sorted(numbers(client)) == list(range(300))
    assert set(replayed) <= {entry_id.decode() for entry_id, _ in client.xrange(STREAM)}
    assert len(replayed) > 280
    assert len(letters) == 0


def test_a_replay_that_is_killed_half_way_is_simply_made_again(
    redis_url: str, client: redis.Redis
) -> None:
    write(client, 2000)
    where = ("--redis-url", redis_url, "--stream", STREAM, "--group", GROUP)
    command = [sys.executable, "-m", "shared_sync", "dead-letters", *where, "replay", "--all"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    try:
        eventually(lambda: client.xlen(STREAM) >= 100)
    finally:
        process.kill()
        process.wait()
    half_way = client.xlen(STREAM)
    assert 100 <= half_way < 2000
    assert half_way + client.xlen(DEAD) == 2000
    with DeadLetters(redis_url, STREAM, GROUP) as letters:
        letters.replay([letter.id for letter in letters.iterate(with_fields=False)])
    assert sorted(numbers(client)) == list(range(2000))
    assert client.xlen(DEAD) == 0
