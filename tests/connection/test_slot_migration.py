"""While a slot of a cluster moves to another node, nothing of its stream is lost or refused."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest
import redis
from consumers import LOGGER
from helpers import eventually
from protocol_client import make_connection
from redis.crc import key_slot
from servers import Cluster, SlotMove

from shared_sync import DeadLetters, RedisStreamConsumer, RedisStreamProducer, Reject
from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisUnavailable

GROUP = "workers"
SECRET = "s3cr3t"


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> str:
    """A stream of the test's own, in a slot of its own."""
    return f"moving-{request.node.name}"


@pytest.fixture
def move(cluster: Cluster, stream: str) -> Iterator[SlotMove]:
    made = SlotMove(cluster, stream)
    yield made
    made.end()


@pytest.fixture
def connection(cluster: Cluster, stream: str) -> Iterator[Connection]:
    connect = discovery.connector(cluster.url, key=stream, reply_timeout_seconds=5)
    with closing(Connection(connect)) as made:
        yield made


def has(client: redis.Redis, stream: str, count: int) -> bool:
    return int(client.xlen(stream)) == count


def numbers(client: redis.Redis, stream: str) -> list[int]:
    return [int(fields[b"n"]) for _, fields in client.xrange(stream)]


# --- publishing -----------------------------------------------------------------------------------


def test_publishing_follows_a_stream_through_every_step_of_its_move(
    cluster: Cluster, move: SlotMove, stream: str
) -> None:
    with RedisStreamProducer(cluster.url, stream) as producer:
        producer.publish({"n": 0})
        move.begin()
        producer.publish({"n": 1})
        move.move_key(stream)
        producer.publish({"n": 2})
        producer.publish_many([{"n": 3}, {"n": 4}])
        move.end()
        producer.publish({"n": 5})
        producer.publish_many([{"n": 6}])
    assert numbers(move.target, stream) == list(range(7))


def test_a_stream_that_is_new_while_its_slot_moves_is_made_at_the_new_place(
    cluster: Cluster, move: SlotMove, stream: str
) -> None:
    move.begin()
    with RedisStreamProducer(cluster.url, stream, max_queue_depth=10) as producer:
        producer.publish({"n": 0})
        producer.publish_many({"n": n} for n in range(1, 3))
    move.end()
    assert numbers(move.target, stream) == [0, 1, 2]


def test_threads_that_publish_while_the_slot_moves_to_and_fro_notice_nothing(
    cluster: Cluster, stream: str
) -> None:
    stop = threading.Event()
    returned: list[list[str]] = [[] for _ in range(4)]
    errors: list[BaseException] = []

    def publish(thread: int) -> None:
        try:
            while not stop.is_set():
                returned[thread].append(producer.publish({"thread": thread}))
                returned[thread] += producer.publish_many([{"thread": thread}] * 3)
        except BaseException as error:
            errors.append(error)

    with RedisStreamProducer(cluster.url, stream) as producer:
        threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            move = SlotMove(cluster, stream)
            eventually(move.left)
            move.begin()
            move.move_key(stream)
            enough = min(map(len, returned)) + 8
            eventually(lambda enough=enough: min(map(len, returned)) > enough or errors)
            move.end()
        stop.set()
        for thread in threads:
            thread.join(30)
    assert errors == []
    assert [entry_id.decode() for entry_id, _ in move.target.xrange(stream)] == sorted(
        (one for ids in returned for one in ids),
        key=lambda one: tuple(map(int, one.split("-"))),
    )


def test_dead_letters_are_read_while_their_slot_moves(
    cluster: Cluster, move: SlotMove, stream: str
) -> None:
    def processor(*_: object) -> None:
        raise Reject("no use")

    with RedisStreamProducer(cluster.url, stream) as producer:
        producer.publish({"n": 0})
    with (
        DeadLetters(cluster.url, stream, GROUP) as letters,
        RedisStreamConsumer(cluster.url, stream, GROUP, "c1", LOGGER, processor),
    ):
        eventually(lambda: len(letters) == 1)
    with DeadLetters(cluster.url, stream, GROUP) as letters:
        move.begin()
        for key in move.left():
            move.move_key(key)
        assert [letter.reason for letter in letters] == ["rejected: no use"]


# --- consuming ------------------------------------------------------------------------------------


def test_a_group_loses_and_repeats_nothing_while_its_slot_moves_to_and_fro(
    cluster: Cluster, stream: str
) -> None:
    runs: Counter[int] = Counter()
    results = f"{{{stream}}}:results"

    def processor(_: str, job: dict[str, str | bytes]) -> dict[str, str]:
        runs[int(job["n"])] += 1
        return {"n": str(job["n"])}

    published = 0
    with (
        RedisStreamProducer(cluster.url, stream) as producer,
        RedisStreamConsumer(
            cluster.url, stream, GROUP, "c1", LOGGER, processor, threads=2, result_stream=results
        ) as consumer,
    ):
        for _ in range(3):
            move = SlotMove(cluster, stream)
            move.begin()
            # Key after key, in an order that leaves the stream in the middle.
            keys = sorted(move.left(), key=lambda key: key.endswith(("presence", "holders")))
            for key in keys:
                for _ in range(5):
                    producer.publish({"n": published})
                    published += 1
                move.move_key(key)
            eventually(lambda: not consumer.redis_connected)
            move.end()
            for _ in range(5):
                producer.publish({"n": published})
                published += 1
            owner = move.target
            eventually(partial(has, owner, results, published), within=60)
            eventually(lambda: consumer.ready)
    assert sorted(int(fields[b"n"]) for _, fields in owner.xrange(results)) == [*range(published)]
    assert sorted(runs) == [*range(published)]
    assert owner.xlen(stream) == 0


def test_a_group_is_not_taken_for_lost_because_its_stream_is_at_the_new_place_already(
    cluster: Cluster, move: SlotMove, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    def processor(*_: object) -> None: ...

    with RedisStreamConsumer(cluster.url, stream, GROUP, "c1", LOGGER, processor) as consumer:
        eventually(lambda: consumer.ready)
        move.begin()
        with caplog.at_level(logging.INFO):
            move.move_key(stream)
            eventually(lambda: not consumer.redis_connected)
            assert stream not in move.left()
            move.end()
            eventually(lambda: consumer.ready)
    assert "created anew" not in caplog.text
    assert move.target.xinfo_groups(stream)[0]["name"] == GROUP.encode()


# --- one connection -------------------------------------------------------------------------------


def test_a_key_at_its_old_place_is_not_looked_for_at_the_new_one(
    connection: Connection, move: SlotMove, stream: str
) -> None:
    """Each command is followed by itself: what is written at the new place too soon is lost."""
    other = f"{{{stream}}}:other"
    for key in (stream, other):
        connection.call("SET", key, "old")
    move.begin()
    move.move_key(stream)
    assert connection.call("GET", stream) == b"old"
    connection.call("SET", other, "new")
    assert move.left() == [other]
    assert move.source.get(other) == b"new"


def test_a_moved_slot_is_found_at_once_at_the_node_that_the_old_one_names(
    connection: Connection, move: SlotMove, stream: str
) -> None:
    assert connection.call("XLEN", stream) == 0
    move.begin()
    move.end()
    assert connection.call("XLEN", stream) == 0
    assert int(connection.call("CONFIG", "GET", "port")[1]) == move.target_port


def test_a_command_about_a_foreign_key_goes_to_the_node_that_has_it(cluster: Cluster) -> None:
    other = next(f"key-{n}" for n in range(100) if is_elsewhere(f"key-{n}"))
    with closing(make_connection(cluster.url)) as connection:
        assert connection.call("XLEN", other) == 0
        assert connection.call("XLEN", "jobs") == 0


def is_elsewhere(key: str) -> bool:
    """Whether another third of the slots has the key."""
    return key_slot(key.encode()) * 3 // 16384 != key_slot(b"jobs") * 3 // 16384


def test_a_node_that_is_addressed_alone_names_the_address_to_write(cluster: Cluster) -> None:
    other = next(f"key-{n}" for n in range(100) if is_elsewhere(f"key-{n}"))
    url = f"redis://127.0.0.1:{cluster.master().port}"
    with (
        closing(make_connection(url)) as connection,
        pytest.raises(RedisUnavailable, match=r"MOVED.*redis\+cluster://"),
    ):
        connection.call("XLEN", other)


def test_keys_that_are_at_two_places_are_waited_for(
    connection: Connection, move: SlotMove, stream: str
) -> None:
    other = f"{{{stream}}}:other"
    for key in (stream, other):
        connection.call("SET", key, "old")
    move.begin()
    move.move_key(stream)
    with pytest.raises(RedisUnavailable, match="the slot of these keys is being moved"):
        connection.call("MGET", stream, other)


def test_a_user_without_the_right_to_follow_is_told_which_it_is(
    cluster: Cluster, move: SlotMove, stream: str
) -> None:
    clients = [cluster.admin(server) for server in cluster.servers]
    for client in clients:
        rights = ("~*", "+@all", "-asking")
        client.execute_command("ACL", "SETUSER", "lacking", "on", f">{SECRET}", *rights)
    url = cluster.url.replace("://", f"://lacking:{SECRET}@")
    with RedisStreamProducer(url, stream) as producer:
        move.begin()
        with pytest.raises(RedisUnavailable, match=r"ASK.*\+asking"):
            producer.publish({"n": 0})
        move.end()
        producer.publish({"n": 1})
    assert numbers(move.target, stream) == [1]
    for client in clients:
        client.execute_command("ACL", "DELUSER", "lacking")
