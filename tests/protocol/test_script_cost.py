"""A step of a script visits some 200 entries at most, whatever waits in the group.

The group is one whose fleet was preempted: 1,000 dead consumers left 50 messages each, 100,000
messages are parked for later, and 1,000 other consumers live.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from protocol_client import HOUR_MS, KEYS, GroupAdmin, Worker

from shared_sync.connection import discovery, scripts
from shared_sync.connection.connection import Connect, Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.protocol.messages import Read
from shared_sync.protocol.replies import parse_heartbeat
from shared_sync.protocol.scan import Position

DEAD = [f"dead-{n:04}" for n in range(1000)]
LIVE = [f"live-{n:04}" for n in range(1000)]
MESSAGES_OF_EACH = 50
PARKED_MESSAGES = 100_000
STEPS = 40
MOST_VISITED = 230

FILL = """
local stream, due = KEYS[1], KEYS[2]
local group, parked, due_ms, count_of_each = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function read(name, count)
  for _ = 1, count do redis.call('XADD', stream, '*', 'n', '1') end
  local reply = redis.call(
    'XREADGROUP', 'GROUP', group, name, 'COUNT', count, 'STREAMS', stream, '>')
  return reply[1][2]
end

for i = 5, #ARGV do read(ARGV[i], count_of_each) end
for first = 1, parked, 1000 do
  for i, entry in ipairs(read('~parked', 1000)) do
    redis.call('ZADD', due, due_ms + first + i, entry[1])
  end
end
"""

COUNT_VISITS = """
local server = redis

local function count(reply, command, ...)
  if command == 'ZRANGE' or command == 'XPENDING' then
    local last_argument = select(select('#', ...), ...)
    local has_scores = last_argument == 'WITHSCORES'
    server.call('INCRBY', 'visited', has_scores and #reply / 2 or #reply)
  end
  return reply
end

local redis = {
  call = function(...) return count(server.call(...), ...) end,
  pcall = server.pcall,
  error_reply = server.error_reply,
}
"""
"""To be put in front of a script: counts the entries of its sorted sets and pending lists."""


class CountingConnection(Connection):
    """Runs scripts as they are and notes how many entries each of them visited."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect)
        self.visits: list[int] = []

    def call(self, *command: Any) -> Any:
        if command[0] != "EVALSHA":
            return super().call(*command)
        super().call("SET", "visited", 0)
        reply = super().call("EVAL", COUNT_VISITS + scripts.text_of(command[1]), *command[2:])
        self.visits.append(int(super().call("GET", "visited")))
        return reply


@pytest.fixture(scope="module")
def server_with_fleet(redis_server: EmbeddedRedis) -> Iterator[EmbeddedRedis]:
    with (
        EmbeddedRedis(redis_server.binary) as server,
        redis.Redis.from_url(server.url, protocol=2) as client,
    ):
        client.xgroup_create(KEYS.stream, KEYS.group, "0", mkstream=True)
        due_ms = GroupAdmin(client).now_ms() + HOUR_MS
        arguments = [KEYS.group, PARKED_MESSAGES, due_ms, MESSAGES_OF_EACH, *DEAD]
        client.eval(FILL, 2, KEYS.stream, KEYS.due, *arguments)
        yield server


@pytest.fixture
def fleet(server_with_fleet: EmbeddedRedis) -> Iterator[GroupAdmin]:
    """Access to the group; all tests of this module share its messages."""
    with redis.Redis.from_url(server_with_fleet.url, protocol=2) as client:
        admin = GroupAdmin(client)
        now_ms = admin.now_ms()
        client.zadd(KEYS.presence, {name: now_ms - HOUR_MS + n for n, name in enumerate(DEAD)})
        client.zadd(KEYS.presence, {name: now_ms + HOUR_MS + n for n, name in enumerate(LIVE)})
        client.hset(KEYS.holders, "w1", "the identity of w1")
        yield admin


@pytest.fixture
def connection(server_with_fleet: EmbeddedRedis) -> Iterator[CountingConnection]:
    connect = discovery.connector(server_with_fleet.url, key=KEYS.stream, reply_timeout_seconds=10)
    with closing(CountingConnection(connect)) as made:
        yield made


@pytest.fixture
def worker(fleet: GroupAdmin, connection: CountingConnection) -> Worker:
    return Worker(connection, "w1", sends_heartbeat=False)


def reads_of(fleet: GroupAdmin, names: list[str]) -> list[Read]:
    """Return the read of each consumer, all of whose messages came in one."""
    now_ms = fleet.now_ms()
    with fleet.client.pipeline(transaction=False) as asked:
        for name in names:
            asked.xpending_range(KEYS.stream, KEYS.group, "-", "+", 1, name)
        rows = asked.execute()
    return [
        Read(name.encode(), now_ms - row["time_since_delivered"])
        for name, (row,) in zip(names, rows, strict=True)
    ]


def test_a_step_that_may_take_a_suspect_finds_one(
    worker: Worker, connection: CountingConnection
) -> None:
    found = list(worker.steps(STEPS, foreign=()))
    assert [len(one.entries) for one in found] == [1] * STEPS
    assert max(connection.visits) <= MOST_VISITED


def test_steps_that_may_take_no_suspect_go_on_in_bounded_steps(
    worker: Worker, connection: CountingConnection
) -> None:
    found = list(worker.steps(STEPS, foreign=(), startable_crashes=0))
    assert not any(one.entries for one in found)
    assert found[-1].position.dead_rank >= STEPS
    assert max(connection.visits) <= MOST_VISITED


def test_steps_that_must_keep_all_messages_apart_go_on_in_bounded_steps(
    worker: Worker, connection: CountingConnection, fleet: GroupAdmin
) -> None:
    found = list(worker.steps(STEPS, foreign=(), apart=reads_of(fleet, DEAD)))
    assert not any(one.entries for one in found)
    assert found[-1].position.dead_rank >= STEPS
    assert max(connection.visits) <= MOST_VISITED


def test_steps_through_foreign_consumers_go_on_in_bounded_steps(
    worker: Worker, connection: CountingConnection, fleet: GroupAdmin
) -> None:
    """None of their messages is idle for a lease yet."""
    fleet.client.zrem(KEYS.presence, *DEAD)
    position, done = Position(), 0
    for _ in range(STEPS):
        found = worker.scan(foreign=DEAD[done : done + 50], position=position)
        assert found.entries == []
        position, done = found.position, done + found.foreign_done
    assert done >= STEPS
    assert max(connection.visits) <= MOST_VISITED


def test_heartbeats_tidy_up_in_bounded_steps(
    worker: Worker, connection: CountingConnection
) -> None:
    ranks, rank = [], 0
    for _ in range(5):
        reply = connection.call(*worker.commands.heartbeat(ended_from=rank, restore_from=""))
        rank = parse_heartbeat(reply).ended_from
        ranks.append(rank)
    assert ranks == [100, 200, 300, 400, 500]
    assert max(connection.visits) <= MOST_VISITED
