"""A listener receives each result once, through outages and losses of Redis."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

import pytest
import redis
from faults.proxy import Proxy
from helpers import Figures, Gate, eventually, in_a_fork
from plain_workers import PlainWorker, double
from producers import other_connections

from shared_sync import RedisStreamProducer, Result, ResultListener
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    ConfigurationError,
    ConsumerStateError,
    RedisUnavailable,
    ResultTimeout,
)
from shared_sync.result_listener import listening

STREAM = "results"


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "BLOCK_SECONDS", 0.2)
    monkeypatch.setattr(listening, "LONGEST_PAUSE_SECONDS", 0.1)


def answer(client: redis.Redis, *ids: str, stream: str = STREAM, **fields: Any) -> list[str]:
    """Write results as workers do, without creating the stream; return the ids of the entries."""
    is_reply = ":replies:" in stream
    entries = [
        client.xadd(stream, {"message_id": one, "status": "done", **fields}, nomkstream=is_reply)
        for one in ids
    ]
    return [entry.decode() for entry in entries if entry is not None]


class Received:
    """A handler that remembers what it was given."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def __call__(self, result: Result) -> None:
        self.results.append(result)

    @property
    def ids(self) -> list[str]:
        return [result.id for result in self.results]

    def wait_for(self, *ids: str) -> None:
        eventually(lambda: len(self.results) >= len(ids))
        assert self.ids == list(ids)


@pytest.fixture
def received() -> Received:
    return Received()


@pytest.fixture
def replies(redis_url: str, received: Received) -> Iterator[ResultListener]:
    with ResultListener(redis_url, "jobs", received, replies=True) as made:
        yield made


# --- receiving --------------------------------------------------------------------------------


def test_an_iteration_has_what_is_written_after_the_start_until_the_listener_is_stopped(
    redis_url: str, client: redis.Redis
) -> None:
    answer(client, "1-0")
    with ResultListener(redis_url, STREAM) as results:
        answer(client, "2-0", "3-0", text="hello")
        iteration = iter(results)
        assert [(one.id, one.fields) for one in islice(iteration, 2)] == [
            ("2-0", {"text": "hello"}),
            ("3-0", {"text": "hello"}),
        ]
        threading.Timer(0.05, results.stop).start()
        assert list(iteration) == []
    with pytest.raises(ConsumerStateError, match="was stopped"):
        iter(results)


def test_waiting_returns_a_result_that_came_before_or_comes_later(
    redis_url: str, client: redis.Redis
) -> None:
    with ResultListener(redis_url, STREAM) as results:
        answer(client, "1-0", "2-0", "3-0")
        assert results.wait("2-0", timeout=10).id == "2-0"
        with pytest.raises(ResultTimeout, match="'4-0' has not arrived within 0 s"):
            results.wait("4-0", timeout=0)
        threading.Timer(0.05, answer, (client, "4-0")).start()
        assert results.wait("4-0", timeout=10).id == "4-0"
        assert results.wait("1-0", timeout=0).id == "1-0"
        threading.Timer(0.05, results.stop).start()
        with pytest.raises(ConsumerStateError, match="was stopped"):
            results.wait("5-0")


def test_an_error_of_the_handler_is_counted_and_the_next_result_follows(
    redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    figures, received = Figures(), Received()

    def handler(result: Result) -> None:
        received(result)
        if result.id == "1-0":
            raise SystemExit("no such client")

    with ResultListener(redis_url, STREAM, handler, metrics=figures) as results:
        answer(client, "1-0", "2-0")
        received.wait_for("1-0", "2-0")
        for call in (lambda: iter(results), lambda: results.wait("3-0")):
            with pytest.raises(ConsumerStateError, match="has a handler"):
                call()
    assert figures.counters == {"results_received": 2, "errors.SystemExit": 1}
    assert "result of message 1-0" in caplog.text
    assert "SystemExit: no such client" in caplog.text


def test_a_later_process_goes_on_after_the_last_id_of_an_earlier_one(
    redis_url: str, client: redis.Redis, received: Received
) -> None:
    with ResultListener(redis_url, STREAM, received) as first:
        assert first.last_id == "0-0"
        (entry_id,) = answer(client, "1-0")
        received.wait_for("1-0")
        eventually(lambda: first.last_id == entry_id)
    answer(client, "2-0")
    with ResultListener(redis_url, STREAM, received, after=first.last_id):
        received.wait_for("1-0", "2-0")


def test_received_results_are_removed_if_remove_is_set(
    redis_url: str, client: redis.Redis, received: Received
) -> None:
    answer(client, "1-0")
    with ResultListener(redis_url, STREAM, received, remove=True):
        answer(client, "2-0")
        received.wait_for("1-0", "2-0")
        eventually(lambda: client.xlen(STREAM) == 0)
        answer(client, "3-0")
    assert client.exists(STREAM), "a stream that others make is left alone"
    assert client.xlen(STREAM) == ("3-0" not in received.ids)


def test_results_that_are_iterated_over_slowly_stay_in_redis(
    redis_url: str, client: redis.Redis
) -> None:
    with ResultListener(redis_url, STREAM, max_kept=2) as results:
        iteration = iter(results)
        ids = [f"{number}-0" for number in range(1, 21)]
        answer(client, *ids)
        eventually(lambda: len(results._listenings.get().inbox) == 2)
        assert [result.id for result in islice(iteration, 20)] == ids


def test_a_listener_that_is_stopped_in_its_handler_stops(
    redis_url: str, client: redis.Redis
) -> None:
    stopped: list[bool] = []
    with ResultListener(redis_url, STREAM, lambda _: stopped.append(results.stop())) as results:
        answer(client, "1-0", "2-0")
        eventually(lambda: stopped)
        assert results.stop(timeout=10)
    assert stopped == [False], "it cannot wait for itself"


def test_stopping_reports_a_handler_that_does_not_return(
    redis_url: str, client: redis.Redis
) -> None:
    gate = Gate()
    results = ResultListener(redis_url, STREAM, gate)
    results.start()
    answer(client, "1-0")
    assert gate.entered.wait(10)
    assert not results.stop(timeout=0)
    gate.opened.set()
    assert results.stop(timeout=10)


# --- a reply stream ---------------------------------------------------------------------------


def test_replies_are_received_removed_and_their_stream_expires_unless_it_is_renewed(
    replies: ResultListener, client: redis.Redis, received: Received
) -> None:
    assert replies.reply_to.startswith("{jobs}:replies:")
    assert 0 < client.pttl(replies.reply_to) <= 60_000
    answer(client, "1-0", "2-0", stream=replies.reply_to)
    received.wait_for("1-0", "2-0")
    eventually(lambda: client.xlen(replies.reply_to) == 0)
    replies.stop()
    assert client.keys("*") == []


def test_a_reply_stream_is_renewed(redis_url: str, client: redis.Redis) -> None:
    with ResultListener(redis_url, "jobs", replies=True, reply_ttl_seconds=1) as results:
        address = results.reply_to
        client.persist(address)
        eventually(lambda: client.pttl(address) > 0)


def test_a_second_final_result_of_a_message_is_dropped_where_nobody_else_listens(
    replies: ResultListener, client: redis.Redis, received: Received
) -> None:
    address = replies.reply_to
    answer(client, "1-0", stream=address, status="progress")
    answer(client, "1-0", stream=address, status="progress")
    answer(client, "1-0", "1-0", "2-0", stream=address)
    received.wait_for("1-0", "1-0", "1-0", "2-0")


def test_replies_are_received_whatever_their_ids_are(
    replies: ResultListener, client: redis.Redis, received: Received
) -> None:
    """As written by a replica that took over and whose clock is behind."""
    address = replies.reply_to
    answer(client, "1-0", stream=address)
    received.wait_for("1-0")
    eventually(lambda: client.xlen(address) == 0)
    with client.pipeline() as pipe:  # a stream whose ids are smaller, in one step
        pipe.delete(address)
        pipe.xadd(address, {"message_id": "2-0", "status": "done"}, id="5-0")
        pipe.execute()
    received.wait_for("1-0", "2-0")


def test_a_reply_stream_that_is_gone_is_created_again_and_logged(
    redis_url: str, client: redis.Redis, received: Received, caplog: pytest.LogCaptureFixture
) -> None:
    with ResultListener(redis_url, "jobs", received, replies=True, reply_ttl_seconds=1) as results:
        address = results.reply_to
        client.flushall()
        eventually(lambda: client.exists(address))
        answer(client, "1-0", stream=results.reply_to)
        received.wait_for("1-0")
    assert "is created again" in caplog.text


def test_a_fork_has_its_own_reply_stream(
    replies: ResultListener, client: redis.Redis, redis_url: str
) -> None:
    def listen() -> tuple[str, str]:
        with redis.Redis.from_url(redis_url) as own:
            address = replies.reply_to
            exists = own.exists(address)
            replies.stop()
            return address, f"{exists}{own.exists(address)}"

    address, existed = in_a_fork(listen)
    assert address != replies.reply_to
    assert existed == "10"
    assert client.exists(replies.reply_to)


def test_a_listener_without_replies_has_no_reply_to(redis_url: str) -> None:
    with pytest.raises(ConsumerStateError, match="replies=True"):
        _ = ResultListener(redis_url, STREAM).reply_to


# --- outages ----------------------------------------------------------------------------------


def test_a_start_while_redis_is_away_fails_and_a_later_one_works(
    own_server: EmbeddedRedis, received: Received
) -> None:
    own_server.kill()
    results = ResultListener(own_server.url, STREAM, received)
    with pytest.raises(RedisUnavailable):
        results.start()
    own_server.start()
    with results, redis.Redis.from_url(own_server.url) as client:
        answer(client, "1-0")
        received.wait_for("1-0")


@pytest.mark.parametrize("replies", [False, True])
def test_what_is_written_while_the_listener_is_cut_off_is_received_afterwards(
    redis_server: EmbeddedRedis, client: redis.Redis, received: Received, replies: bool
) -> None:
    with ExitStack() as stack:
        proxy = Proxy(redis_server.port)
        stack.callback(proxy.close)
        results = ResultListener(
            proxy.url, "jobs" if replies else STREAM, received, replies=replies
        )
        stack.enter_context(results)
        stream = results.reply_to if replies else STREAM
        ids = []
        for number in range(0, 30, 3):
            ids += [f"{number + more}-0" for more in range(3)]
            answer(client, ids[-3], stream=stream)
            with proxy.refusal():
                answer(client, ids[-2], stream=stream)
            answer(client, ids[-1], stream=stream)
        received.wait_for(*ids)


@pytest.mark.parametrize("replies", [False, True])
def test_a_server_that_restarts_with_its_data_costs_and_doubles_no_result(
    own_server: EmbeddedRedis,
    received: Received,
    caplog: pytest.LogCaptureFixture,
    replies: bool,
) -> None:
    caplog.set_level(logging.INFO)
    with (
        ResultListener(
            own_server.url, "jobs" if replies else STREAM, received, replies=replies
        ) as results,
        redis.Redis.from_url(own_server.url) as client,
    ):
        stream = results.reply_to if replies else STREAM
        answer(client, "1-0", "2-0", stream=stream)
        received.wait_for("1-0", "2-0")
        own_server.kill()
        own_server.start()
        answer(client, "3-0", stream=stream)
        received.wait_for("1-0", "2-0", "3-0")
    assert "answers again after" in caplog.text


@pytest.mark.parametrize("new_ids", [["15-0"], ["15-0", "30-0"]])
def test_after_a_loss_of_the_last_entries_new_entries_are_received(
    redis_url: str,
    client: redis.Redis,
    received: Received,
    caplog: pytest.LogCaptureFixture,
    new_ids: list[str],
) -> None:
    """As after a failover to a server that had not received the last entries, and whose clock is
    behind."""
    with ResultListener(redis_url, STREAM, received, after="0-0"):
        client.xadd(STREAM, {"message_id": "kept", "status": "done"}, id="10-0")
        client.xadd(STREAM, {"message_id": "lost", "status": "done"}, id="20-0")
        received.wait_for("kept", "lost")
        with client.pipeline() as pipe:
            pipe.delete(STREAM)
            pipe.xadd(STREAM, {"message_id": "kept", "status": "done"}, id="10-0")
            for entry_id in new_ids:
                pipe.xadd(STREAM, {"message_id": entry_id, "status": "done"}, id=entry_id)
            pipe.execute()
        for one in other_connections(client):
            client.client_kill_filter(_id=one)
        eventually(lambda: len(received.ids) >= 2 + len(new_ids))
        assert sorted(received.ids) == sorted(["kept", "lost", *new_ids])
    assert ("ends at 15-0" in caplog.text) == (len(new_ids) == 1)


def test_a_stream_that_is_gone_is_read_from_its_new_beginning(
    redis_url: str, client: redis.Redis, received: Received, caplog: pytest.LogCaptureFixture
) -> None:
    with ResultListener(redis_url, STREAM, received):
        answer(client, "1-0")
        received.wait_for("1-0")
        client.delete(STREAM)
        for one in other_connections(client):
            client.client_kill_filter(_id=one)
        eventually(lambda: "is gone" in caplog.text)
        client.xadd(STREAM, {"message_id": "2-0", "status": "done"}, id="5-0")
        received.wait_for("1-0", "2-0")


def test_a_silently_dropped_connection_is_replaced(
    redis_server: EmbeddedRedis,
    client: redis.Redis,
    received: Received,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "REPLY_TIMEOUT_SECONDS", 0.7)
    with ExitStack() as stack:
        proxy = Proxy(redis_server.port)
        stack.callback(proxy.close)
        stack.enter_context(ResultListener(proxy.url, STREAM, received))
        proxy.drop_links()
        answer(client, "1-0")
        received.wait_for("1-0")


# --- rights and arguments -----------------------------------------------------------------------


def test_listeners_and_requests_need_few_rights(
    own_server: EmbeddedRedis, received: Received, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(own_server.url) as admin:
        rights = "+xread +xrevrange +evalsha +script|load +pexpire +xadd +xdel +del"
        admin.execute_command(
            "ACL", "SETUSER", "gateway", "on", ">pw", "~{jobs}:replies:*", "~results", "~jobs",
            *rights.split(),
        )  # fmt: skip
        url = own_server.url.replace("redis://", "redis://gateway:pw@")
        with ResultListener(url, "jobs", received, replies=True) as replies:
            answer(admin, "1-0", stream=replies.reply_to)
            received.wait_for("1-0")
        with ResultListener(url, STREAM, received):
            answer(admin, "2-0")
            received.wait_for("1-0", "2-0")
            for one in other_connections(admin):
                admin.client_kill_filter(_id=one)
            answer(admin, "3-0")
            received.wait_for("1-0", "2-0", "3-0")
        with RedisStreamProducer(url, "jobs") as producer:
            with PlainWorker(own_server.url, double):
                assert producer.request({"n": 1}, timeout=10).ok
                assert producer.submit({"n": 1}).result(timeout=10).ok
            for _ in range(2):
                with pytest.raises(ResultTimeout):
                    producer.request({"n": 1}, timeout=0.05)
    assert caplog.text.count("this user may not cancel it") == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"stream": ""}, "stream must be text"),
        ({"stream": "jobs{", "replies": True}, "has a brace"),
        ({"handler": "print"}, "handler must be a function"),
        ({"after": "now"}, "after must be the id"),
        ({"after": "0-0", "remove": True}, "leave out after"),
        ({"reply_ttl_seconds": 0}, "reply_ttl_seconds must be"),
        ({"max_kept": 0}, "max_kept must be"),
        ({"metrics": 7}, "metrics must be"),
        ({"redis_url": "http://x"}, "redis_url"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], text: str) -> None:
    arguments = {"redis_url": "redis://localhost", "stream": STREAM, **options}
    with pytest.raises(ConfigurationError, match=text):
        ResultListener(**arguments)
