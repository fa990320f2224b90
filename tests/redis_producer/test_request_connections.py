"""A request reads its result itself, over a connection of its own, through outages."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
import redis
from helpers import eventually
from plain_workers import PlainWorker, double, reply_streams
from producers import STREAM, close_all_others, other_connections

from shared_sync import RedisStreamProducer, Result
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConsumerStateError, InvalidMessage, RedisRefused, ResultTimeout
from shared_sync.protocol.result_streams import ExclusiveStream
from shared_sync.redis_producer import request_connections


class Asked:
    """A request in a thread of its own."""

    def __init__(self, ask: Callable[[], Result]) -> None:
        self._ask = ask
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self._ask()
        except BaseException as error:
            self.error = error

    def end(self) -> Asked:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self


def is_published(client: redis.Redis) -> bool:
    return bool(client.xlen(STREAM))


def test_a_request_needs_one_connection_and_no_thread(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    with PlainWorker(redis_url, double):
        producer.request({"n": 0}, timeout=10)
        before = set(other_connections(client))
        for n in range(5):
            assert producer.request({"n": n}, timeout=10).fields == {"twice": 2 * n}
        assert set(other_connections(client)) == before
    assert len(reply_streams(client)) == 1
    assert "results" not in [thread.name for thread in threading.enumerate()]


def test_a_request_goes_on_over_a_new_connection_if_its_own_breaks(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    asked = Asked(lambda: producer.request({"n": 4}, timeout=20))
    eventually(lambda: is_published(client))
    close_all_others(client)  # the server has sent the id by now
    with PlainWorker(redis_url, double):
        result = asked.end().result
    assert result is not None
    assert result.fields == {"twice": 8}


def test_a_late_result_is_not_taken_for_that_of_the_next_request(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    with pytest.raises(ResultTimeout):
        producer.request({"n": 1}, timeout=0.05)
    with PlainWorker(redis_url, double):
        eventually(lambda: sum(map(client.xlen, reply_streams(client))))
        for n in (2, 3):
            assert producer.request({"n": n}, timeout=10).fields == {"twice": 2 * n}
    (stream,) = reply_streams(client)
    assert client.xlen(stream) == 1, "those before the last were removed"


def test_closing_the_producer_ends_a_request(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    asked = Asked(lambda: producer.request({"n": 1}, timeout=20))
    eventually(lambda: is_published(client))
    producer.close()
    assert isinstance(asked.end().error, ConsumerStateError)
    eventually(lambda: reply_streams(client) == [])


def test_closing_asks_a_redis_that_is_away_only_once(
    own_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not answer keeps each of up to 8 connections waiting for seconds."""
    asked_for: list[str] = []
    leave = ExclusiveStream.leave

    def note_and_leave(source: ExclusiveStream, connection: Connection) -> None:
        asked_for.append(source.key)
        leave(source, connection)

    with (
        RedisStreamProducer(own_server.url, STREAM) as producer,
        redis.Redis.from_url(own_server.url) as client,
    ):
        asked = [Asked(lambda: producer.request({"n": 6}, timeout=20)) for _ in range(3)]
        eventually(lambda: client.xlen(STREAM) == 3)
        with PlainWorker(own_server.url, double):
            assert all(one.end().result for one in asked)
        own_server.kill()
        monkeypatch.setattr(ExclusiveStream, "leave", note_and_leave)
        producer.close()
    assert len(asked_for) == 1


def test_what_cannot_be_published_is_an_error_and_the_next_request_works(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    with PlainWorker(redis_url, double):
        assert producer.request({"n": 1}, timeout=10).ok
    with pytest.raises(InvalidMessage):
        producer.request({"n": object()}, timeout=10)
    client.rename(STREAM, "elsewhere")
    client.set(STREAM, "no stream")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        producer.request({"n": 1}, timeout=10)
    client.rename("elsewhere", STREAM)
    with PlainWorker(redis_url, double):
        assert producer.request({"n": 2}, timeout=10).ok


def test_requests_wait_for_the_thread_that_listens_while_all_connections_are_in_use(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, client: redis.Redis
) -> None:
    monkeypatch.setattr(request_connections, "MOST_REQUESTS", 1)
    with RedisStreamProducer(redis_url, STREAM) as producer:
        asked = [Asked(lambda: producer.request({"n": 6}, timeout=20)) for _ in range(3)]
        eventually(lambda: client.xlen(STREAM) == 3)
        with PlainWorker(redis_url, double):
            assert [one.end().result.fields for one in asked] == [{"twice": 12}] * 3
        assert len(reply_streams(client)) == 2


def test_requests_to_a_limited_queue_wait_for_the_thread_that_listens(
    redis_url: str, client: redis.Redis
) -> None:
    with (
        PlainWorker(redis_url, double),
        RedisStreamProducer(redis_url, STREAM, max_queue_depth=10) as producer,
    ):
        assert producer.request({"n": 6}, timeout=10).fields == {"twice": 12}
        assert "results" in [thread.name for thread in threading.enumerate()]
    ((_, fields),) = client.xrange(STREAM)
    assert json.loads(fields[b"shared_sync.options"])["expires_seconds"] == 10
