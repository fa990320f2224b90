"""A script that ends messages is carried out as a whole or not at all, whatever is refused in it.

If it broke off midway, finished entries would stay in the stream for ever, or each further try
would publish a result again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis
from protocol_client import KEYS, GroupAdmin, Worker, make_connection, result

from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisAccessDenied, RedisRefused
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Finish, Output

OUTCOMES: dict[str, Callable[[Worker, str], int]] = {
    "done": lambda worker, one: worker.done(one),
    "with a result": lambda worker, one: worker.finish(one, result("A")),
    "with a header": lambda worker, one: worker.settle(Finish(one, adds_header=True))[0],
    "with outputs": lambda worker, one: worker.settle(
        Finish(one, result("A").items, outputs=[Output("next", [b"text", b"B"])])
    )[0],
    "expired": lambda worker, one: worker.settle(Finish(one, result("A").items, status="expired"))[
        0
    ],
    "buried": lambda worker, one: worker.bury(one, answer=result("dead")),
    "parked": lambda worker, one: worker.park(one, delay_ms=0, delivery=1),
    "at a fault": lambda worker, one: worker.fault(one),
}
"""Each returns 1 if it has settled the message."""

RIGHTS = ["xack", "xdel", "xinfo", "xlen", "xpending", "xclaim", "xadd", "hlen", "hdel", "hget"]
RIGHTS += ["hset", "zrem", "zadd"]


@pytest.fixture
def limited(own_server: EmbeddedRedis) -> Iterator[tuple[Worker, GroupAdmin]]:
    """A worker whose user may lose rights, and access for an administrator."""
    with redis.Redis.from_url(own_server.url, protocol=2) as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", "&*", "+@all")
        url = own_server.url.replace("redis://", "redis://worker:pw@")
        with closing(make_connection(url)) as connection:
            yield Worker(connection, "w1"), GroupAdmin(client)


@pytest.mark.parametrize(
    ("has_history", "has_second_group"),
    [(False, False), (True, False), (True, True)],
    ids=["", "history", "two groups"],
)
@pytest.mark.parametrize("settle", OUTCOMES.values(), ids=OUTCOMES)
def test_whichever_right_is_taken_away_an_outcome_is_settled_once(
    limited: tuple[Worker, GroupAdmin],
    settle: Callable[[Worker, str], int],
    has_history: bool,
    has_second_group: bool,
) -> None:
    worker, admin = limited
    user = ("ACL", "SETUSER", "worker")
    for right in RIGHTS:
        admin.client.flushall()
        Worker(worker.connection, "w1")
        if has_second_group:
            second = Worker(worker.connection, "x1", keys=Keys.of("jobs", "second"))
        one, other = worker.publish([b"n", b"1"], [b"n", b"2"])
        worker.read()
        if has_history:
            worker.park(other)
        admin.client.execute_command(*user, f"-{right}")
        worked = 0
        for _ in range(2):
            try:
                worked += settle(worker, one)
            except RedisAccessDenied:
                if worked:
                    continue  # a repetition, which finds nothing to do
                assert admin.pending()[one] == ("w1", 1), right
                assert admin.bodies() == [one, other], right
                assert (admin.results(), admin.dead()) == ([], []), right
                assert admin.client.xlen("next") == 0, right
        admin.client.execute_command(*user, f"+{right}")
        worked += settle(worker, one)
        assert worked == 1, right
        if has_second_group and one not in admin.pending():
            second.read()
            second.done(one)
        assert_settled_once(admin, one, other)


def assert_settled_once(admin: GroupAdmin, one: str, other: str) -> None:
    """Nothing of the message is left but one result or dead letter, or its record as parked."""
    assert other in admin.pending()
    if one in admin.pending():  # parked
        assert admin.pending()[one][0] == "~parked"
        assert one in admin.due()
        notes = admin.history()[one]
        assert notes.count("\n") == 1 or notes.strip("\t") == ""  # a failure, or faults
        return
    assert one not in admin.bodies()
    assert one not in admin.history()
    assert one not in admin.due()
    assert len(admin.results()) <= 1
    assert len(admin.dead()) <= 1
    assert admin.client.xlen("next") <= 1


@pytest.mark.parametrize("key", [KEYS.history, KEYS.due, KEYS.dead, "results"])
@pytest.mark.parametrize("settle", OUTCOMES.values(), ids=OUTCOMES)
def test_whichever_key_has_another_type_an_outcome_is_settled_once(
    worker: Worker,
    admin: GroupAdmin,
    client: redis.Redis,
    taken: list[str],
    settle: Callable[[Worker, str], int],
    key: str,
) -> None:
    client.set(key, "in the way")
    worked = 0
    for _ in range(2):
        try:
            worked += settle(worker, taken[0])
        except RedisRefused as refusal:
            assert refusal.code == "WRONGTYPE"  # noqa: PT017 - not each outcome uses each key
            assert admin.pending()[taken[0]] == ("w1", 1)
            assert admin.bodies() == taken
    for written in {KEYS.dead, "results", "next"} - {key}:
        assert client.xlen(written) <= worked
    client.delete(key)
    worked += settle(worker, taken[0])
    assert worked == 1
    assert_settled_once(admin, taken[0], taken[1])
