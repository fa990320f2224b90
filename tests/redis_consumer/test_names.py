"""One name belongs to one process of a group at a time."""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import replace

import pytest
import redis
from consumers import STREAM, Make
from helpers import eventually, in_a_fork

from shared_sync import RedisStreamProducer
from shared_sync.errors import ConsumerBroken, ConsumerIdInUse, ConsumerStateError
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.redis_consumer import identity


def test_a_second_consumer_of_the_same_name_is_refused_and_the_first_goes_on(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "POLL_SECONDS", 0.05)
    first = make(lambda *_: None, consumer_id="twin", lease_seconds=3)
    first.start()
    second = make(lambda *_: None, consumer_id="twin", lease_seconds=3)
    with pytest.raises(ConsumerIdInUse, match="'twin'") as caught:
        second.start()
    assert (caught.value.host, caught.value.pid) == (socket.gethostname(), os.getpid())
    producer.publish({"n": 1})
    eventually(lambda: client.xlen(STREAM) == 0)
    assert first.live
    assert first.stop() is True
    second.start()
    producer.publish({"n": 2})
    eventually(lambda: client.xlen(STREAM) == 0)


def test_a_consumer_whose_name_was_taken_ends_itself_and_says_who_has_it(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    consumer = make(lambda *_: None, consumer_id="twin", lease_seconds=1)
    raised: list[BaseException] = []

    def consume() -> None:
        try:
            consumer.start_consuming()
        except ConsumerBroken as error:
            raised.append(error)

    runner = threading.Thread(target=consume, daemon=True)
    runner.start()
    eventually(lambda: consumer.state == "running")
    other = replace(ProcessIdentity.here(), host="gpu-7", pid=4711)
    client.hset("{jobs}:workers:holders", "twin", other.text())
    runner.join(20)
    assert isinstance(raised[0], ConsumerIdInUse)
    assert "process 4711 on gpu-7" in str(raised[0])
    health = consumer.get_health_data()
    assert (health["live"], health["status"]) == (False, "unhealthy")
    assert client.hget("{jobs}:workers:holders", "twin") == other.text().encode()


def test_a_start_that_waits_for_a_name_can_be_stopped(make: Make, client: redis.Redis) -> None:
    client.hset("{jobs}:workers:holders", "twin", "an identity that cannot be read")
    now_ms = int(client.time()[0]) * 1000
    client.zadd("{jobs}:workers:presence", {"twin": now_ms + 600_000})
    consumer = make(lambda *_: None, consumer_id="twin", lease_seconds=600)
    starter = threading.Thread(target=consumer.start)
    starter.start()
    eventually(lambda: consumer.state == "starting")
    assert consumer.stop() is True
    starter.join(20)
    assert not starter.is_alive()
    assert client.hget("{jobs}:workers:holders", "twin") == b"an identity that cannot be read"
    assert client.zscore("{jobs}:workers:presence", "twin") == now_ms + 600_000


def test_a_consumer_that_was_only_connected_gives_its_name_back_when_it_is_stopped(
    make: Make, client: redis.Redis
) -> None:
    first = make(lambda *_: None, consumer_id="twin", prefetch=7)
    first.connect()
    identity = client.hget("{jobs}:workers:holders", "twin")
    assert json.loads(identity)["prefetch"] == 7, "by which others judge what it leaves behind"
    assert first.stop() is True
    assert client.hget("{jobs}:workers:holders", "twin") is None
    with pytest.raises(ConsumerStateError):
        first.connect()
    make(lambda *_: None, consumer_id="twin").start()


def test_without_a_consumer_id_each_consumer_has_a_name_of_its_own(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    first, second = (make(lambda *_: None, consumer_id=None) for _ in range(2))
    assert first.consumer_id != second.consumer_id
    assert first.consumer_id.startswith(f"workers-{socket.gethostname()}-")
    with first, second:
        names = client.hkeys("{jobs}:workers:holders")
        assert {name.decode() for name in names} == {first.consumer_id, second.consumer_id}
    assert client.hkeys("{jobs}:workers:holders") == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_each_forked_process_has_a_name_of_its_own(make: Make, client: redis.Redis) -> None:
    """As where a server loads the program once and forks its workers."""
    consumer = make(lambda *_: None, consumer_id=None)

    def process_one_message() -> tuple[str, str, list[str]]:
        with consumer:
            holders = [name.decode() for name in client.hkeys("{jobs}:workers:holders")]
            return consumer.consumer_id, consumer.state, holders

    forked = [in_a_fork(process_one_message) for _ in range(2)]
    with consumer:
        assert [state for _, state, _ in forked] == ["running", "running"]
        assert [holders for _, _, holders in forked] == [[name] for name, _, _ in forked]
        assert len({consumer.consumer_id, *(name for name, _, _ in forked)}) == 3
        same_copy = in_a_fork(lambda: (consumer.consumer_id, consumer.stop()))
        assert same_copy == [consumer.consumer_id, False], "a copy of one that runs does nothing"


def test_an_id_that_is_made_of_the_process_id_is_named_as_the_cause() -> None:
    for consumer_id, pid, is_the_cause in (
        (f"stt-{os.getpid()}", os.getpid(), True),
        (f"stt-{os.getpid()}", os.getpid() + 1, False),
        ("stt", os.getpid(), False),
    ):
        error = ConsumerIdInUse(consumer_id, host="pod-2", pid=pid)
        assert f"process {pid} on pod-2" in str(error)
        assert ("os.getpid() is the same in every container" in str(error)) is is_the_cause
        assert "or None, which makes a unique one" in str(error)
