"""Finishing messages, with and without results, once and again.

A script whose reply was lost is sent again, so sending it a second time must change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import redis
from protocol_client import GroupAdmin, Worker, result

from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisRefused
from shared_sync.protocol import groups
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Answer, Finish


@pytest.fixture(params=[True, False], ids=["XDELEX", "XDEL"])
def either_way(request: pytest.FixtureRequest, connection: Connection) -> Iterator[None]:
    """Delete entries as on a server that has XDELEX, and as on others."""
    (known,) = connection.call("COMMAND", "INFO", "XDELEX")
    if request.param and not known:
        pytest.skip("this server does not have XDELEX")
    if known and not request.param:
        connection.call("ACL", "SETUSER", "default", "-xdelex")
    yield
    if known:
        connection.call("ACL", "SETUSER", "default", "+xdelex")


def test_a_finished_message_leaves_its_result_and_nothing_else(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    assert worker.finish(taken[0], result("A")) == 1
    assert admin.results() == [{b"text": b"A"}]
    assert admin.bodies() == taken[1:]
    assert list(admin.pending()) == taken[1:]


@pytest.mark.usefixtures("either_way")
def test_of_two_workers_that_finish_the_same_message_one_publishes_its_result(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    listener = admin.client.pubsub(ignore_subscribe_messages=True)
    with closing(listener):
        listener.subscribe("channel")
        answer = Answer(items=[b"text", b"A"], channel="channel", payload=b"A")
        assert listener.get_message(timeout=5) is None
        assert other.finish(taken[0], answer) == 1
        assert worker.finish(taken[0], answer) == 0
        admin.client.publish("channel", "end")
        heard = [listener.get_message(timeout=5) for _ in range(2)]
    assert [message and message["data"] for message in heard] == [b"A", b"end"]
    assert admin.results() == [{b"text": b"A"}]


@pytest.mark.usefixtures("either_way")
def test_finishing_again_changes_nothing(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.finish(taken[0], result("A"))
    before = admin.everything()
    assert worker.finish(taken[0], result("A")) == 0
    assert admin.everything() == before


@pytest.mark.usefixtures("either_way")
def test_finishing_deletes_the_history_and_the_due_time(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    assert worker.recover_id() == taken[0]
    assert worker.finish(taken[0]) == 1
    assert admin.history() == {}
    assert admin.due() == {}


@pytest.mark.usefixtures("either_way")
def test_finishing_without_results_returns_how_many_messages_it_ended(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    assert other.done(taken[1]) == 1
    assert worker.done(*taken, "1-1") == 2
    assert admin.bodies() == []
    assert admin.pending() == {}
    before = admin.everything()
    assert worker.done(*taken) == 0
    assert admin.everything() == before


@pytest.mark.usefixtures("either_way")
def test_a_message_that_is_named_twice_is_finished_once(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    assert worker.done(taken[0], taken[0]) == 1
    assert worker.settle(*[Finish(taken[1], *result("B")[:3])] * 2) == [1, 0]
    assert admin.bodies() == taken[2:]
    assert admin.results() == [{b"text": b"B"}]


@pytest.mark.usefixtures("either_way")
def test_what_is_to_be_read_again_after_the_group_was_lost_is_not_deleted(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.xgroup_destroy("jobs", "workers")
    groups.ensure_group(worker.connection, worker.commands)
    assert worker.done(*taken) == 0
    assert admin.bodies() == taken
    assert [entry.id for entry in other.read(1)] == taken[:1]
    assert worker.done(*taken) == 1, "a late success ends a message, whoever runs it again"
    assert admin.bodies() == taken[1:]
    assert [entry.id for entry in other.read()] == taken[1:]


def test_what_a_lost_group_was_to_finish_is_kept_for_it_beside_another_group_that_has_finished_it(
    worker: Worker, connection: Connection, client: redis.Redis, admin: GroupAdmin
) -> None:
    """When the group is created again, it begins with everything that is there."""
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    (message_id,) = worker.publish([b"text", b"a"])
    worker.read()
    second.read()
    assert second.done(message_id) == 1
    client.xgroup_destroy("jobs", "workers")
    assert worker.done(message_id) == 0
    assert admin.bodies() == [message_id]


@pytest.mark.usefixtures("either_way")
def test_of_messages_finished_together_each_stays_while_another_group_needs_it(
    worker: Worker, connection: Connection, admin: GroupAdmin, taken: list[str]
) -> None:
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    second.read(2)
    assert worker.done(taken[1]) == 1
    assert worker.done(*taken) == 2
    assert admin.bodies() == taken, "one group has finished all, the other none"
    assert second.done(taken[0]) == 1
    assert admin.bodies() == taken[1:]
    second.read()
    assert second.done(*taken) == 2
    assert admin.bodies() == []


def test_the_history_is_deleted_also_if_a_worker_that_was_taken_for_dead_finishes_the_message(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.end_lease("w1")
    assert other.recover_id() == taken[0]
    assert other.park(taken[0], delay_ms=0) == 1
    assert other.recover_id() == taken[0]
    assert worker.finish(taken[0], result("late, but first")) == 1
    assert other.finish(taken[0], result("second")) == 0
    assert admin.results() == [{b"text": b"late, but first"}]
    assert admin.history() == {}
    assert admin.due() == {}


def test_the_history_is_deleted_also_if_the_stream_was_deleted_meanwhile(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    assert worker.recover_id() == taken[0]
    client.delete("jobs")
    groups.ensure_group(worker.connection, worker.commands)
    assert worker.finish(taken[0], result("of a message that is gone")) == 0
    assert admin.history() == {}
    assert admin.results() == []


@pytest.mark.usefixtures("either_way")
def test_an_entry_is_kept_while_another_group_has_not_read_it(
    worker: Worker, connection: Connection, admin: GroupAdmin, taken: list[str]
) -> None:
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    assert worker.finish(taken[0]) == 1
    assert admin.bodies() == taken
    assert [entry.id for entry in second.read()] == taken


@pytest.mark.usefixtures("either_way")
def test_an_entry_is_kept_while_another_group_has_it_pending_and_deleted_by_the_last_group(
    worker: Worker, connection: Connection, admin: GroupAdmin, taken: list[str]
) -> None:
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    third = Worker(connection, "y1", keys=Keys.of("jobs", "third"))
    second.read()
    third.read()
    assert worker.finish(taken[1]) == 1
    assert admin.bodies() == taken
    assert third.finish(taken[1]) == 1
    assert admin.bodies() == taken
    assert second.finish(taken[1]) == 1
    assert admin.bodies() == [taken[0], taken[2]]


def test_ids_that_a_double_cannot_represent_are_compared_exactly(
    connection: Connection, client: redis.Redis
) -> None:
    low, high = "9007199254740993-18446744073709551614", "9007199254740993-18446744073709551615"
    client.xadd("jobs", {"a": "1"}, id=low)
    first = Worker(connection, "w1")
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    assert [entry.id for entry in second.read()] == [low]
    assert second.finish(low) == 1
    client.xadd("jobs", {"a": "2"}, id=high)
    first.read()
    assert first.finish(low) == 1
    assert first.finish(high) == 1
    assert GroupAdmin(client).bodies() == [high]


@pytest.mark.usefixtures("either_way")
def test_many_messages_are_finished_in_one_command(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    other.finish(taken[1], result("stolen"))
    outcomes = [Finish(entry_id, *result(entry_id)[:3]) for entry_id in (*taken, "1-1")]
    assert worker.settle(*outcomes) == [1, 0, 1, 0]
    texts = [fields[b"text"].decode() for fields in admin.results()]
    assert texts == ["stolen", taken[0], taken[2]]
    assert admin.bodies() == []


@pytest.mark.usefixtures("either_way")
def test_the_usual_fields_are_put_in_front_of_a_result_that_comes_without_them(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """Some results have a header already, or a channel, or nothing but the header."""
    outcomes = [
        Finish(taken[0], *result("A")[:3], adds_header=True),
        Finish(taken[1], *result("B")._replace(channel="nobody", payload=b"B")[:3]),
        Finish(taken[2], adds_header=True),
    ]
    assert worker.settle(*outcomes) == [1, 1, 1]
    first, second, third = [list(fields.items()) for fields in admin.results()]
    header = [(b"message_id", taken[0].encode()), (b"status", b"done")]
    assert first == [*header, (b"text", b"A")]
    assert second == [(b"text", b"B")]
    assert third == [(b"message_id", taken[2].encode()), (b"status", b"done")]


@pytest.mark.parametrize("channel", ["", "nobody"])
@pytest.mark.parametrize("numbers", [(2, 2, 2), (2, 1, 3)], ids=["equal", "different"])
@pytest.mark.parametrize("headers", [(True, True, True), (True, False, True)])
def test_results_have_their_own_fields_whether_or_not_they_have_equally_many(
    worker: Worker,
    admin: GroupAdmin,
    taken: list[str],
    channel: str,
    numbers: tuple[int, ...],
    headers: tuple[bool, ...],
) -> None:
    texts = [
        [b"%s-%d" % (one.encode(), n) for n in range(2 * k)]
        for one, k in zip(taken, numbers, strict=True)
    ]
    outcomes = [
        Finish(one, text, channel, b"payload", adds_header)
        for one, text, adds_header in zip(taken, texts, headers, strict=True)
    ]
    assert worker.settle(*outcomes) == [1, 1, 1]
    for one, text, adds_header, fields in zip(taken, texts, headers, admin.results(), strict=True):
        header = [b"message_id", one.encode(), b"status", b"done"] if adds_header else []
        assert [part for field in fields.items() for part in field] == [*header, *text]


def test_of_results_that_go_to_channels_each_reaches_its_own(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    with closing(admin.client.pubsub(ignore_subscribe_messages=True)) as listener:
        listener.subscribe("first", "third")
        for _ in range(2):
            assert listener.get_message(timeout=5) is None
        outcomes = [
            Finish(taken[0], *result("A")._replace(channel="first", payload=b"A")[:3]),
            Finish(taken[1], *result("B")[:3]),
            Finish(taken[2], channel="third", payload=b"C"),
        ]
        assert worker.settle(*outcomes) == [1, 1, 1]
        messages = [listener.get_message(timeout=5) for _ in range(2)]
    heard = [message and (message["channel"], message["data"]) for message in messages]
    assert heard == [(b"first", b"A"), (b"third", b"C")]
    assert admin.results() == [{b"text": b"A"}, {b"text": b"B"}]


def test_a_batch_of_a_thousand_messages_with_results_is_finished(
    worker: Worker, admin: GroupAdmin
) -> None:
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(1000)))
    worker.read(1000)
    ended = worker.settle(*(Finish(entry_id, *result(entry_id)[:3]) for entry_id in ids))
    assert ended == [1] * 1000
    assert len(admin.results()) == 1000
    assert admin.bodies() == []


def test_a_result_stream_of_the_wrong_type_loses_neither_message_nor_result(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.set("results", "not a stream")
    before = admin.pending()
    for _ in range(2):
        with pytest.raises(RedisRefused) as caught:
            worker.finish(taken[0], result("A"))
        assert caught.value.code == "WRONGTYPE"
    assert admin.pending() == before
    assert admin.bodies() == taken
    client.delete("results")
    assert worker.finish(taken[0], result("A")) == 1
    assert admin.results() == [{b"text": b"A"}]


def test_if_a_batch_is_refused_midway_each_message_still_gets_one_result(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.set("results", "not a stream")
    outcomes = [Finish(taken[0]), Finish(taken[1], *result("B")[:3])]
    with pytest.raises(RedisRefused):
        worker.settle(*outcomes)
    assert list(admin.pending()) == taken[1:]
    assert admin.bodies() == taken[1:]
    client.delete("results")
    assert worker.settle(*outcomes) == [0, 1]
    assert admin.results() == [{b"text": b"B"}]


def test_a_channel_without_subscribers_does_not_delay_a_message(
    worker: Worker, taken: list[str]
) -> None:
    assert worker.finish(taken[0], Answer(channel="nobody", payload=b"\x00\xff")) == 1


@pytest.mark.usefixtures("either_way")
def test_finishing_ends_a_message_whose_entry_was_deleted_by_others(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.xdel("jobs", taken[0])
    assert worker.finish(taken[0], result("A")) == 1
    assert taken[0] not in admin.pending()
