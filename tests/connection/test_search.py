"""Which node is asked for the server, and which answer is believed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
import redis
from protocol_client import make_connection

from shared_sync.connection import discovery
from shared_sync.connection import search as connection_search
from shared_sync.connection.search import Ask, MasterSearch, OwnerSearch
from shared_sync.connection.url import Node
from shared_sync.errors import RedisAccessDenied, RedisUnavailable

STREAM = "jobs"

A, B, C, M, N = (Node(name, 1) for name in "ABCMN")


class Answers:
    """Nodes that give the replies in `said`; any other node hangs."""

    def __init__(self, **said: Any) -> None:
        self.said = said
        self.asked: list[str] = []

    def __call__(self, node: Node, *_: str) -> Any:
        self.asked.append(node.host)
        if node.host not in self.said:
            raise redis.TimeoutError("Timeout reading from socket")
        return self.said[node.host]


def master_search(ask_node: Ask, nodes: Sequence[Node] = (A, B, C)) -> MasterSearch:
    return MasterSearch(nodes, ask_node, 5.0, "main")


def owner_search(ask_node: Ask, key: str | None = STREAM) -> OwnerSearch:
    return OwnerSearch((A, B), ask_node, 5.0, key)


def slots(*rows: tuple[bytes | None, int]) -> list[Any]:
    """A CLUSTER SLOTS reply, the slots shared evenly among the rows' hosts."""
    share = 16384 // len(rows)
    return [
        [n * share, 16383 if n == len(rows) - 1 else (n + 1) * share - 1, [host, port, b"id"]]
        for n, (host, port) in enumerate(rows)
    ]


def test_each_search_begins_with_another_node_the_first_with_the_first() -> None:
    reply = [b"M", b"1"]
    answers = Answers(A=reply, B=reply, C=reply)
    search = master_search(answers)
    for _ in range(4):
        assert search.find()[0] == M
    assert answers.asked == ["A", "B", "C", "A"]


def test_what_each_node_said_is_reported_and_access_denied_is_the_kind_of_the_error() -> None:
    def refuse(node: Node, *_: str) -> Any:
        if node == B:
            raise redis.AuthenticationError("invalid username-password pair")
        return None

    with pytest.raises(RedisAccessDenied) as caught:
        master_search(refuse).find()
    assert "A:1: does not know it; B:1: WRONGPASS invalid username" in str(caught.value)


def test_no_further_node_is_asked_once_the_time_is_over() -> None:
    answers = Answers()
    with pytest.raises(RedisUnavailable):
        MasterSearch((A, B, C), answers, 0.0, "main").find()
    assert answers.asked == ["A"]


def test_nodes_that_were_learned_are_asked_when_the_listed_ones_are_gone() -> None:
    answers = Answers(A=slots((b"M", 1), (b"N", 1)))
    search = owner_search(answers)
    assert search.find()[0] == N  # slot 9631 is in the second half
    answers.said = {"M": slots((b"N", 1), (b"M", 1))}
    assert search.find()[0] == M


@pytest.mark.parametrize("host", [None, b""])
def test_no_host_means_the_node_that_was_asked(host: bytes | None) -> None:
    assert owner_search(Answers(A=slots((b"M", 1), (host, 7)))).find()[0] == Node("A", 7)


def test_without_a_key_any_node_of_the_cluster_will_do() -> None:
    assert owner_search(Answers(B=slots((b"M", 1))), key=None).find()[0] == B


def test_a_slot_that_nobody_owns_is_reported() -> None:
    with pytest.raises(RedisUnavailable, match=r"slot 9631.*every slot of the cluster needs"):
        owner_search(Answers(A=[], B=slots((b"M", 1))[:0])).find()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentinels are asked each time that there is something to send."""
    monkeypatch.setattr(connection_search, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(connection_search, "RECHECK_SECONDS", 0.0)


@pytest.mark.usefixtures("hasty")
def test_a_sentinel_that_changes_its_mind_ends_the_connections_made_before() -> None:
    answers = Answers(A=[b"M", b"1"])
    search = master_search(answers, [A])
    _, before = search.find()
    search.check(before)
    answers.said["A"] = [b"N", b"1"]
    with pytest.raises(redis.ConnectionError, match="'main' is another server now"):
        search.check(before)
    found, after = search.find()
    assert found == N
    search.check(after)


@pytest.mark.usefixtures("hasty")
def test_a_search_that_brings_the_news_itself_keeps_its_own_connection() -> None:
    answers = Answers(A=[b"M", b"1"])
    search = master_search(answers, [A])
    _, before = search.find()
    answers.said["A"] = [b"N", b"1"]
    _, after = search.find()
    search.check(after)
    with pytest.raises(redis.ConnectionError):
        search.check(before)


@pytest.mark.usefixtures("hasty")
def test_sentinels_that_write_the_master_in_two_ways_end_no_connection() -> None:
    search = master_search(Answers(A=[b"M", b"1"], B=[b"10.0.0.1", b"1"], C=[b"M", b"1"]))
    found = [search.find()[1] for _ in range(3)]
    for _ in range(6):
        for changes in found:
            search.check(changes)


@pytest.mark.usefixtures("hasty")
def test_sentinels_that_are_away_end_no_connection_and_are_left_out() -> None:
    answers = Answers(A=[b"M", b"1"], B=[b"M", b"1"], C=[b"M", b"1"])
    search = master_search(answers)
    found = [search.find()[1] for _ in range(3)]
    del answers.said["B"]
    for _ in range(3):
        search.check(found[0])
    answers.asked.clear()
    for _ in range(4):
        search.check(found[0])
    assert "B" not in answers.asked
    answers.said.clear()
    for _ in range(6):
        search.check(found[0])


@pytest.mark.usefixtures("hasty")
def test_an_idle_connection_notices_without_sending_that_the_master_was_replaced(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a producer loses no message on it."""
    port = redis_url.removesuffix("/0").rpartition(":")[2].encode()
    answers = Answers(a=[b"127.0.0.1", port])
    monkeypatch.setattr(discovery, "make_ask", lambda *_: answers)
    with closing(make_connection("redis+sentinel://a:1/main")) as connection:
        assert connection.call("PING") == b"PONG"
        assert not connection.is_stale()
        answers.said["a"] = [b"localhost", port]
        assert connection.is_stale()
        connection.close()
        assert connection.call("PING") == b"PONG"
        assert not connection.is_stale()


def test_sentinels_are_asked_once_a_second_and_no_thread_waits_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking, answer = threading.Event(), threading.Event()
    asked: list[float] = []

    def ask_node(*_: object) -> Any:
        asked.append(time.monotonic())
        if len(asked) > 1:
            asking.set()
            assert answer.wait(10)
        return [b"M", b"1"]

    search = master_search(ask_node)
    monkeypatch.setattr(connection_search, "CHECK_SECONDS", 0.0)
    _, changes = search.find()
    monkeypatch.undo()
    thread = threading.Thread(target=search.check, args=(changes,))
    thread.start()
    assert asking.wait(10)
    for _ in range(1000):
        search.check(changes)
    answer.set()
    thread.join(10)
    assert len(asked) == 2
