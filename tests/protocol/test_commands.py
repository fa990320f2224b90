"""Keys and every script, each against a real server and sent twice.

A script whose reply was lost is sent again, so whatever a script did, sending it once more
must change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import fakeredis
import pytest
import redis
from protocol_client import (
    HOUR_MS,
    KEYS,
    LEASE_MS,
    NOTHING,
    Looker,
    Recovered,
    Worker,
    make_connection,
    result,
)
from redis.crc import key_slot

from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    ConfigurationError,
    GroupMissing,
    RedisAccessDenied,
    RedisRefused,
    SharedSyncError,
)
from shared_sync.protocol import groups, publishing
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.groups import Ensured
from shared_sync.protocol.keys import PARKED, Keys
from shared_sync.protocol.messages import Answer, Finish, Read, parse_read
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.protocol.replies import (
    NameClaimed,
    QueueMetrics,
    parse_claim,
    parse_heartbeat,
)
from shared_sync.protocol.scan import START

# --- names of keys ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stream", ["jobs", "audio:jobs", "jobs:{eu}", "{a}{b}", "{}{b}", "a}{b}c", "{{a}}", "größe"]
)
@pytest.mark.parametrize("group", ["workers", "{group}", "gr{oup"])
def test_all_keys_of_a_stream_share_its_cluster_slot_or_the_stream_is_refused(
    stream: str, group: str
) -> None:
    try:
        keys = Keys.of(stream, group)
    except ConfigurationError:
        assert "{}" in stream
        return
    names = (keys.stream, keys.presence, keys.due, keys.history, keys.dead)
    assert len(set(names)) == 5
    assert len({key_slot(name.encode()) for name in names}) == 1


def test_keys_are_named_after_the_stream_and_the_group() -> None:
    assert Keys.of("jobs", "g").due == "{jobs}:g:due"
    assert Keys.of("jobs:{eu}", "g").due == "jobs:{eu}:g:due"


@pytest.mark.parametrize("stream", ["jobs{", "jobs}", "{}", "a{}b", "}a{"])
def test_a_brace_without_a_whole_hash_tag_is_refused_with_the_remedy(stream: str) -> None:
    with pytest.raises(ConfigurationError, match="hash tag"):
        Keys.of(stream, "workers")


@pytest.mark.parametrize(("stream", "group"), [("", "g"), ("s", "")])
def test_empty_names_are_refused(stream: str, group: str) -> None:
    with pytest.raises(ConfigurationError):
        Keys.of(stream, group)


# --- groups -----------------------------------------------------------------------------------


def test_a_new_group_begins_with_what_was_published_before_it(
    connection: Connection, client: redis.Redis
) -> None:
    client.xadd("jobs", {"text": "early"})
    commands = GroupCommands(KEYS, "w1", LEASE_MS)
    assert groups.ensure_group(connection, commands) is Ensured.CREATED
    assert groups.ensure_group(connection, commands) is Ensured.EXISTED
    (entry,) = parse_read(connection.call(*commands.read(10, 1)))
    assert entry.items == [b"text", b"early"]


def test_a_key_that_is_no_stream_is_a_configuration_error(
    connection: Connection, client: redis.Redis
) -> None:
    client.set("jobs", "a string")
    with pytest.raises(ConfigurationError, match="'jobs'"):
        groups.ensure_group(connection, GroupCommands(KEYS, "w1", LEASE_MS))
    with pytest.raises(ConfigurationError, match="result_stream"):
        groups.check_is_stream(connection, "jobs", "result_stream")
    groups.check_is_stream(connection, "not-there", "result_stream")


def test_a_read_without_messages_is_an_empty_list(worker: Worker) -> None:
    assert worker.read() == []


@pytest.mark.parametrize("act", ["heartbeat", "leave", "recover", "read"])
def test_without_its_group_every_act_says_so(worker: Worker, client: redis.Redis, act: str) -> None:
    client.delete("jobs")
    with pytest.raises(GroupMissing):
        getattr(worker, act)()


# --- finish -----------------------------------------------------------------------------------


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
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    assert worker.finish(taken[0], result("A")) == 1
    assert look.results() == [{b"text": b"A"}]
    assert look.bodies() == taken[1:]
    assert list(look.pending()) == taken[1:]


@pytest.mark.usefixtures("either_way")
def test_of_two_workers_that_finish_the_same_message_one_publishes(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    listener = look.client.pubsub(ignore_subscribe_messages=True)
    with closing(listener):
        listener.subscribe("channel")
        answer = Answer(items=[b"text", b"A"], channel="channel", payload=b"A")
        assert listener.get_message(timeout=5) is None
        assert other.finish(taken[0], answer) == 1
        assert worker.finish(taken[0], answer) == 0
        look.client.publish("channel", "end")
        heard = [listener.get_message(timeout=5) for _ in range(2)]
    assert [message and message["data"] for message in heard] == [b"A", b"end"]
    assert look.results() == [{b"text": b"A"}]


@pytest.mark.usefixtures("either_way")
def test_finishing_again_changes_nothing(worker: Worker, look: Looker, taken: list[str]) -> None:
    worker.finish(taken[0], result("A"))
    before = look.everything()
    assert worker.finish(taken[0], result("A")) == 0
    assert look.everything() == before


@pytest.mark.usefixtures("either_way")
def test_a_finished_message_forgets_its_failures_and_its_due_time(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    assert worker.recover_id() == taken[0]
    assert worker.finish(taken[0]) == 1
    assert look.history() == {}
    assert look.due() == {}


def test_a_message_forgets_its_failures_also_when_a_worker_thought_dead_finishes_it(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    look.end_lease("w1")
    assert other.recover_id() == taken[0]
    assert other.park(taken[0], delay_ms=0) == 1
    assert other.recover_id() == taken[0]
    assert worker.finish(taken[0], result("late, but first")) == 1
    assert other.finish(taken[0], result("second")) == 0
    assert look.results() == [{b"text": b"late, but first"}]
    assert look.history() == {}
    assert look.due() == {}


def test_a_message_forgets_its_failures_also_when_its_stream_was_deleted_meanwhile(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    assert worker.recover_id() == taken[0]
    client.delete("jobs")
    groups.ensure_group(worker.connection, worker.commands)
    assert worker.finish(taken[0], result("of a message that is gone")) == 0
    assert look.history() == {}
    assert look.results() == []


@pytest.mark.usefixtures("either_way")
def test_an_entry_is_kept_while_another_group_has_not_read_it(
    worker: Worker, connection: Connection, look: Looker, taken: list[str]
) -> None:
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    assert worker.finish(taken[0]) == 1
    assert look.bodies() == taken
    assert [entry.id for entry in second.read()] == taken


@pytest.mark.usefixtures("either_way")
def test_an_entry_is_kept_while_another_group_works_on_it_and_deleted_by_the_last(
    worker: Worker, connection: Connection, look: Looker, taken: list[str]
) -> None:
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    third = Worker(connection, "y1", keys=Keys.of("jobs", "third"))
    second.read()
    third.read()
    assert worker.finish(taken[1]) == 1
    assert look.bodies() == taken
    assert third.finish(taken[1]) == 1
    assert look.bodies() == taken
    assert second.finish(taken[1]) == 1
    assert look.bodies() == [taken[0], taken[2]]


def test_ids_beyond_the_exactness_of_doubles_are_compared_exactly(
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
    assert Looker(client).bodies() == [high]


@pytest.mark.usefixtures("either_way")
def test_many_messages_are_finished_in_one_command(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    other.finish(taken[1], result("stolen"))
    outcomes = [Finish(entry_id, result(entry_id)) for entry_id in (*taken, "1-1")]
    assert worker.settle(*outcomes) == [1, 0, 1, 0]
    texts = [fields[b"text"].decode() for fields in look.results()]
    assert texts == ["stolen", taken[0], taken[2]]
    assert look.bodies() == []


def test_a_batch_of_a_thousand_messages_with_results_is_finished(
    worker: Worker, look: Looker
) -> None:
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(1000)))
    worker.read(1000)
    ended = worker.settle(*(Finish(entry_id, result(entry_id)) for entry_id in ids))
    assert ended == [1] * 1000
    assert len(look.results()) == 1000
    assert look.bodies() == []


def test_a_result_stream_of_the_wrong_type_loses_neither_message_nor_result(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    client.set("results", "not a stream")
    before = look.pending()
    for _ in range(2):
        with pytest.raises(RedisRefused) as caught:
            worker.finish(taken[0], result("A"))
        assert caught.value.code == "WRONGTYPE"
    assert look.pending() == before
    assert look.bodies() == taken
    client.delete("results")
    assert worker.finish(taken[0], result("A")) == 1
    assert look.results() == [{b"text": b"A"}]


def test_of_a_batch_that_is_refused_midway_each_message_still_gets_one_result(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    client.set("results", "not a stream")
    outcomes = [Finish(taken[0], NOTHING), Finish(taken[1], result("B"))]
    with pytest.raises(RedisRefused):
        worker.settle(*outcomes)
    assert list(look.pending()) == taken[1:]
    assert look.bodies() == taken[1:]
    client.delete("results")
    assert worker.settle(*outcomes) == [0, 1]
    assert look.results() == [{b"text": b"B"}]


def test_a_channel_that_nobody_hears_does_not_hold_a_message_up(
    worker: Worker, taken: list[str]
) -> None:
    assert worker.finish(taken[0], Answer(channel="nobody", payload=b"\x00\xff")) == 1


@pytest.mark.usefixtures("either_way")
def test_finishing_what_was_deleted_by_others_ends_it(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    client.xdel("jobs", taken[0])
    assert worker.finish(taken[0], result("A")) == 1
    assert taken[0] not in look.pending()


# --- park -------------------------------------------------------------------------------------


def test_a_parked_message_is_held_by_no_worker_until_its_time(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    before = look.now_ms()
    assert worker.park(taken[0], delay_ms=60_000, failure='{"error":"x"}') == 1
    assert look.pending()[taken[0]] == (PARKED, 1)
    assert before + 60_000 <= look.due()[taken[0]] <= look.now_ms() + 60_000
    assert look.history() == {taken[0]: '{"error":"x"}\n'}
    assert taken[0] in look.bodies()


def test_each_failure_is_added_to_the_history_and_no_delivery_is_charged_for_parking(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    for attempt in (1, 2, 3):
        assert worker.park(taken[0], delay_ms=0, failure=f'{{"n":{attempt}}}') == 1
        entry = worker.recover().entry
        assert entry is not None
        assert (entry.deliveries, entry.failures, entry.crashes) == (attempt + 1, attempt, 0)
    assert look.history()[taken[0]] == '{"n":1}\n{"n":2}\n{"n":3}\n'


def test_an_absurdly_distant_attempt_disturbs_nothing_else(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    assert worker.park(taken[0], delay_ms=10**300) == 1
    assert worker.park(taken[1], delay_ms=0) == 1
    assert worker.recover_id() == taken[1]
    found = worker.recover()
    assert found.entry is None
    assert found.next_due_seconds is None or found.next_due_seconds > 0
    assert worker.heartbeat().parked == 1


def test_parking_again_changes_nothing(worker: Worker, look: Looker, taken: list[str]) -> None:
    worker.park(taken[0])
    before = look.everything()
    assert worker.park(taken[0]) == 0
    assert look.everything() == before


def test_parking_that_arrives_after_the_next_delivery_changes_nothing(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    assert worker.park(taken[0], delay_ms=0) == 1
    assert worker.recover_id() == taken[0]
    before = look.everything()
    assert worker.park(taken[0], delay_ms=0, delivery=1) == 0
    assert look.everything() == before
    assert worker.park(taken[0], delay_ms=0, delivery=2) == 1


def test_a_failure_that_is_told_again_after_the_group_was_lost_is_noted_once(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    client.xgroup_destroy("jobs", "workers")
    groups.ensure_group(worker.connection, worker.commands)
    worker.read()
    assert worker.park(taken[0], delay_ms=0) == 1
    assert look.history()[taken[0]].count("\n") == 1


def test_only_the_owner_can_park(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    before = look.everything()
    assert other.park(taken[0]) == 0
    assert other.park("1-1") == 0
    assert look.everything() == before


# --- bury -------------------------------------------------------------------------------------


def test_a_dead_letter_has_the_fields_the_reason_and_the_history(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0, failure='{"n":1}')
    worker.recover()
    error = Answer(items=[b"status", b"dead"], channel="c", payload=b"{}")
    assert worker.bury(taken[0], failure='{"n":2}', answer=error) == 1
    (letter,) = look.dead()
    assert list(letter.items()) == [
        (b"text", b"a"),
        (b"dead.id", b"?"),
        (b"dead.reason", b"rejected: no"),
        (b"dead.history", b'{"n":1}\n{"n":2}\n'),
    ]
    assert look.results() == [{b"status": b"dead"}]
    assert look.history() == {}
    assert look.due() == {}
    assert look.bodies() == taken[1:]
    assert list(look.pending()) == taken[1:]


def test_a_death_without_a_failure_adds_nothing_to_the_history(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    worker.bury(taken[0], failure="")
    assert look.dead()[0][b"dead.history"] == b""


def test_burying_again_changes_nothing(worker: Worker, look: Looker, taken: list[str]) -> None:
    worker.bury(taken[0], answer=result("dead"))
    before = look.everything()
    assert worker.bury(taken[0], answer=result("dead")) == 0
    assert look.everything() == before


def test_only_the_owner_can_bury(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    before = look.everything()
    assert other.bury(taken[0]) == 0
    assert other.bury("1-1") == 0
    assert look.everything() == before


def test_dead_letters_stand_in_the_order_they_died(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    for entry_id in reversed(taken):
        worker.bury(entry_id)
    assert [letter[b"text"] for letter in look.dead()] == [b"c", b"b", b"a"]


def test_a_dead_message_stays_for_the_groups_that_still_need_it(
    worker: Worker, connection: Connection, look: Looker, taken: list[str]
) -> None:
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    worker.bury(taken[0])
    assert look.bodies() == taken
    assert second.read()[0].id == taken[0]


def netstrings(packed: bytes) -> list[bytes]:
    items = []
    while packed:
        length, _, rest = packed.partition(b":")
        items.append(rest[: int(length)])
        assert rest[int(length) : int(length) + 1] == b","
        packed = rest[int(length) + 1 :]
    return items


@pytest.mark.parametrize("fields", [2000, 2001, 6000])
def test_even_a_message_of_very_many_fields_becomes_a_dead_letter_with_all_of_them(
    worker: Worker, look: Looker, client: redis.Redis, fields: int
) -> None:
    items = [part for n in range(fields) for part in (b"f%d" % n, b"1:\xff,%d" % n)]
    client.execute_command("XADD", "jobs", "*", *items)
    (entry,) = worker.read()
    assert entry.items == items
    assert worker.bury(entry.id) == 1
    (letter,) = look.dead()
    assert letter[b"dead.reason"] == b"rejected: no"
    if fields > 2000:
        assert netstrings(letter[b"dead.fields"]) == items
        assert len(letter) == 4
    else:
        assert all(letter[b"f%d" % n] == b"1:\xff,%d" % n for n in range(fields))


def test_a_death_that_cannot_be_announced_leaves_one_dead_letter_however_often_it_is_tried(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    client.set("results", "not a stream")
    for _ in range(3):
        with pytest.raises(RedisRefused):
            worker.bury(taken[0], answer=result("dead"))
    client.delete("results")
    worker.bury(taken[0], answer=result("dead"))
    assert len(look.dead()) == 1
    assert look.results() == [{b"text": b"dead"}]


def test_a_dead_stream_of_the_wrong_type_leaves_the_message_pending_and_unannounced(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    client.set(KEYS.dead, "not a stream")
    for _ in range(2):
        with pytest.raises(RedisRefused) as caught:
            worker.bury(taken[0], answer=result("dead"))
        assert caught.value.code == "WRONGTYPE"
    assert taken[0] in look.pending()
    assert taken[0] in look.bodies()
    assert look.results() == []
    client.delete(KEYS.dead)
    assert worker.bury(taken[0], answer=result("dead")) == 1
    assert look.results() == [{b"text": b"dead"}]


def test_burying_what_was_deleted_by_others_ends_it_without_a_dead_letter(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    client.xdel("jobs", taken[0])
    assert worker.bury(taken[0], answer=result("dead")) == -1
    assert taken[0] not in look.pending()
    assert look.dead() == []
    assert look.history() == {}


# --- hand back --------------------------------------------------------------------------------


def test_what_is_handed_back_may_be_taken_at_once_by_anyone_and_is_not_charged(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    assert worker.hand_back(*taken[:2]) == [2, 0]
    assert look.pending()[taken[0]] == (PARKED, 0)
    entry = other.recover().entry
    assert entry is not None
    assert (entry.id, entry.deliveries, entry.crashes) == (taken[0], 1, 0)
    assert entry.left_by is None
    assert look.history() == {}


def test_only_the_owner_can_hand_back(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    before = look.everything()
    assert other.hand_back(*taken, "1-1") == [0, 0]
    assert look.everything() == before


def test_handing_back_again_changes_nothing(worker: Worker, look: Looker, taken: list[str]) -> None:
    worker.hand_back(*taken)
    before = look.everything()
    assert worker.hand_back(*taken) == [0, 0]
    assert look.everything() == before


def test_a_message_that_failed_before_keeps_its_history_when_it_is_handed_back(
    worker: Worker, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    worker.recover()
    worker.hand_back(taken[0])
    entry = worker.recover().entry
    assert entry is not None
    assert (entry.deliveries, entry.failures, entry.crashes) == (2, 1, 0)


# --- recover ----------------------------------------------------------------------------------


def test_with_nothing_to_recover_nothing_is_found(worker: Worker) -> None:
    assert worker.recover() == Recovered(entry=None, lost_bodies=0, next_due_seconds=None)


def test_a_parked_message_is_not_taken_before_its_time(worker: Worker, taken: list[str]) -> None:
    worker.park(taken[0], delay_ms=60_000)
    found = worker.recover()
    assert found.entry is None
    assert found.next_due_seconds == pytest.approx(60, abs=5)


def test_parked_messages_are_taken_one_at_a_time_in_the_order_of_their_time(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    for entry_id in taken:
        worker.park(entry_id)
    now = look.now_ms()
    times = {taken[2]: now - 2000, taken[0]: now - 1000, taken[1]: now + HOUR_MS}
    look.client.zadd(KEYS.due, times)
    assert worker.recover_id() == taken[2]
    assert worker.recover_id() == taken[0]
    found = worker.recover()
    assert found.entry is None
    assert found.next_due_seconds == pytest.approx(3600, abs=5)


def test_after_a_taken_message_the_next_due_time_is_told(worker: Worker, taken: list[str]) -> None:
    worker.park(taken[0], delay_ms=0)
    worker.park(taken[1], delay_ms=60_000)
    worker.park(taken[2], delay_ms=HOUR_MS)
    found = worker.recover()
    assert found.entry is not None
    assert found.next_due_seconds == pytest.approx(60, abs=5)


def test_what_is_due_comes_before_what_a_dead_consumer_left(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    worker.park(taken[2], delay_ms=0)
    look.end_lease("w1")
    assert [other.recover_id() for _ in range(4)] == [taken[2], taken[0], taken[1], None]


def test_a_due_time_of_a_message_that_is_not_parked_any_more_is_swept(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    look.client.zadd(KEYS.due, {taken[0]: 1, "1-1": 1})
    look.client.hset(KEYS.history, mapping={taken[0]: "{}\n", "1-1": "{}\n"})
    look.keep_alive("w1")
    assert worker.recover() == Recovered(None, 0, None)
    assert look.due() == {}
    assert look.history() == {taken[0]: "{}\n"}
    assert look.pending()[taken[0]] == ("w1", 1)


def test_many_stale_due_times_do_not_hide_a_message_for_long(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    look.client.zadd(KEYS.due, {f"1-{number}": 1 for number in range(1, 251)})
    worker.park(taken[0], delay_ms=0)
    found = [worker.scan() for _ in range(3)]
    assert [[entry.id for entry in one.entries] for one in found] == [[], [], [taken[0]]]
    assert [one.more for one in found[:2]] == [True, True]
    assert look.due() == {}


def test_a_live_consumers_messages_are_left_alone_however_long_they_take(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    look.keep_alive("w1")
    for entry_id in taken:
        look.set_idle(entry_id, "w1", 24 * HOUR_MS)
    assert other.recover().entry is None


def test_a_dead_consumers_messages_are_taken_one_at_a_time_and_charged(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    worker.heartbeat()
    assert other.recover().entry is None
    look.end_lease("w1")
    entry = other.recover().entry
    assert entry is not None
    assert (entry.id, entry.items) == (taken[0], [b"text", b"a"])
    assert entry.left_by is not None
    assert entry.left_by.consumer == b"w1"
    assert (entry.deliveries, entry.crashes) == (2, 1)
    assert look.pending()[taken[0]] == ("w2", 2)
    assert look.pending()[taken[1]] == ("w1", 1)


def test_a_consumer_without_presence_is_dead_only_past_the_lease_by_idle_time(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    look.remove_presence("w1")
    look.set_idle(taken[1], "w1", LEASE_MS - 10_000)
    assert other.recover().entry is None
    look.set_idle(taken[1], "w1", LEASE_MS)
    assert other.recover_id() == taken[1]
    assert other.recover().entry is None


def test_own_messages_that_no_reader_holds_come_back_only_after_the_reply_had_its_time(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    look.keep_alive("w1")
    assert worker.recover(own_idle_ms=7000).entry is None
    look.set_idle(taken[1], "w1", 8000)
    entry = worker.recover(own_idle_ms=7000).entry
    assert entry is not None
    assert (entry.id, entry.deliveries, entry.crashes) == (taken[1], 1, 0)
    assert look.pending()[taken[1]] == ("w1", 1)


def test_what_the_predecessor_of_the_same_name_had_is_taken_at_once_and_charged(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    """Its death is sure, and no reply on its way to us can have it."""
    since_ms = look.now_ms()
    look.set_idle(taken[0], "w1", 100)
    entry = worker.recover(own_idle_ms=7000, since_ms=since_ms).entry
    assert entry is not None
    assert (entry.id, entry.deliveries, entry.crashes) == (taken[0], 2, 1)
    assert look.pending()[taken[0]] == ("w1", 2)


def test_what_was_delivered_since_the_name_is_held_may_still_be_on_its_way(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    """Also in the first moments, and when the server's clock has been set back."""
    since_ms = look.now_ms()
    look.set_idle(taken[0], "w1", 0)
    for _ in range(20):
        assert (
            worker.recover(own_idle_ms=7000, since_ms=since_ms, in_flight=tuple(taken[1:])).entry
            is None
        )
    later = since_ms + HOUR_MS
    assert (
        worker.recover(own_idle_ms=7000, since_ms=later, in_flight=tuple(taken[1:])).entry is None
    )


def test_what_is_on_its_way_is_not_a_predecessors_because_the_script_that_asks_takes_its_time(
    worker: Worker, look: Looker
) -> None:
    """As here, where it forgives very many that their leases ended while Redis was away."""
    look.client.zadd(look.keys.presence, {f"w{n}": 1 for n in range(30_000)})
    (message_id,) = worker.publish([b"text", b"a"])
    since_ms = look.now_ms()
    assert [entry.id for entry in worker.read()] == [message_id]
    assert worker.recover(own_idle_ms=7000, since_ms=since_ms).entry is None


def test_own_messages_that_a_reader_holds_are_left_alone(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    for entry_id in taken:
        look.set_idle(entry_id, "w1", HOUR_MS)
    assert worker.recover(own_idle_ms=7000, in_flight=tuple(taken)).entry is None
    held = (taken[0], taken[1], "1-1")
    assert worker.recover_id(own_idle_ms=7000, in_flight=held) == taken[2]


def test_a_message_is_recovered_by_one_consumer_only(
    worker: Worker, other: Worker, connection: Connection, look: Looker, taken: list[str]
) -> None:
    third = Worker(connection, "w3")
    look.end_lease("w1")
    other.heartbeat()
    third.heartbeat()
    found = [one.recover_id() for one in (other, third, other, third)]
    assert found == [*taken, None]


def test_a_recovery_whose_reply_was_lost_is_made_good_later_and_not_charged(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    look.end_lease("w1")
    other.heartbeat()
    assert other.recover_id() == taken[0]
    for entry_id in taken[1:]:
        other.recover()
        look.set_idle(entry_id, "w2", 100)
    assert other.recover(own_idle_ms=7000).entry is None
    look.set_idle(taken[0], "w2", 8000)
    entry = other.recover(own_idle_ms=7000).entry
    assert entry is not None
    assert (entry.id, entry.deliveries) == (taken[0], 2)


def test_pending_messages_whose_bodies_were_deleted_end_and_are_counted(
    worker: Worker, other: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    client.hset(KEYS.history, taken[0], "{}\n")
    client.xdel("jobs", taken[0], taken[1])
    look.end_lease("w1")
    found = other.recover()
    assert found.lost_bodies == 2
    assert found.entry is not None
    assert found.entry.id == taken[2]
    assert list(look.pending()) == [taken[2]]
    assert look.history() == {}
    assert other.recover().lost_bodies == 0


def test_many_deleted_bodies_do_not_hold_up_the_message_behind_them(
    worker: Worker, other: Worker, look: Looker, client: redis.Redis
) -> None:
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(60)))
    worker.read(60)
    client.xdel("jobs", *ids[:-1])
    look.end_lease("w1")
    first, second = other.recover(), other.recover()  # what two seconds allow
    assert first.lost_bodies + second.lost_bodies == 59
    assert ids[-1] in {one.entry.id for one in (first, second) if one.entry}


def test_a_message_that_may_crash_waits_until_it_can_start_without_company(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    look.end_lease("w1")
    look.client.xclaim("jobs", "workers", "w1", 0, [taken[0]], retrycount=2, justid=True)
    found = [other.recover(startable_crashes=1).entry for _ in range(3)]
    assert [entry and entry.id for entry in found] == [taken[1], taken[2], None]
    entry = other.recover(startable_crashes=2).entry
    assert entry is not None
    assert (entry.id, entry.deliveries, entry.crashes) == (taken[0], 3, 2)


def test_a_parked_message_that_may_crash_waits_too_and_others_that_are_due_go_first(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    look.client.xclaim("jobs", "workers", "w1", 0, [taken[0]], retrycount=3, justid=True)
    worker.park(taken[0], delay_ms=0)
    worker.park(taken[1], delay_ms=0)
    look.client.zadd(KEYS.due, {taken[0]: 1})
    assert worker.recover_id(startable_crashes=0) == taken[1]
    assert worker.recover_id(startable_crashes=0) is None
    assert set(look.due()) == {taken[0]}
    assert worker.recover_id(startable_crashes=2) == taken[0]


def test_a_message_that_is_to_be_given_up_on_need_not_wait(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    look.end_lease("w1")
    look.client.xclaim("jobs", "workers", "w1", 0, [taken[0]], retrycount=3, justid=True)
    entry = other.recover(startable_crashes=0).entry
    assert entry is not None
    assert (entry.id, entry.crashes) == (taken[0], 3)


def test_of_what_a_dead_consumer_had_read_at_once_one_message_at_a_time_runs_here(
    worker: Worker, other: Worker, connection: Connection, look: Looker, taken: list[str]
) -> None:
    """Whichever of them took the process down, it shall not take the same neighbours again."""
    for entry_id in taken:
        look.set_idle(entry_id, "w1", 1000)
    (alone,) = worker.publish([b"text", b"d"])
    worker.read()
    look.end_lease("w1")
    first = other.recover().entry
    assert first is not None
    assert (first.id, first.left_by is not None) == (taken[0], True)
    apart = (first.left_by,) if first.left_by else ()
    assert other.recover_id(apart=apart) == alone, "another read's messages need not wait"
    assert other.recover_id(apart=apart) is None
    assert Worker(connection, "w3").recover_id() == taken[1], "nor does another process"
    assert other.recover_id() == taken[2]


def test_messages_of_one_read_are_known_for_that_though_the_server_took_its_time_to_deliver_them(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    """As servers up to 7.0 do with long ones, which note for each when it was delivered."""
    for number, entry_id in enumerate(taken):
        look.set_idle(entry_id, "w1", 1000 - 63 * number)
    look.end_lease("w1")
    first = other.recover().entry
    assert first is not None
    assert first.left_by is not None
    assert other.recover_id(apart=(first.left_by,)) is None


@pytest.mark.parametrize(
    ("told", "apart"),
    [
        pytest.param(ProcessIdentity.here(prefetch=1).text(), False, id="1"),
        pytest.param(ProcessIdentity.here(prefetch=10).text(), True, id="10"),
        pytest.param('{"host": "gpu-7"}', True, id="nothing of it"),
        pytest.param("[1]", True, id="no object"),
        pytest.param("the identity of w1", True, id="no JSON"),
        pytest.param(None, True, id="no holder"),
    ],
)
def test_messages_of_a_dead_consumer_need_not_wait_for_each_other_if_it_told_that_it_read_singly(
    worker: Worker, other: Worker, look: Looker, taken: list[str], told: str | None, apart: bool
) -> None:
    """How its own reads were counts, as the next version may read otherwise."""
    look.client.hdel(look.keys.holders, "w1")
    if told is not None:
        look.client.hset(look.keys.holders, "w1", told)
    look.end_lease("w1")
    other.heartbeat()  # which forgets the holders that have left nothing behind
    first = other.recover().entry
    assert first is not None
    assert first.left_by is not None
    assert other.recover_id(apart=(first.left_by,)) == (None if apart else taken[1])


@pytest.mark.parametrize("singly", [True, False])
def test_what_its_name_had_before_is_judged_by_how_its_predecessor_read(
    connection: Connection, worker: Worker, look: Looker, taken: list[str], singly: bool
) -> None:
    look.end_lease("w1")
    look.pass_ms(5)
    successor = Worker(
        connection, "w1", identity=ProcessIdentity.here(prefetch=1).text(), sends_heartbeat=False
    )
    assert successor.claim() is None
    before = {"since_ms": look.now_ms(), "predecessor_read_singly": singly}
    first = successor.recover(**before).entry
    assert first is not None
    assert first.left_by is not None
    assert (first.id, first.deliveries) == (taken[0], 2)
    found = successor.recover_id(**before, apart=(first.left_by,))
    assert found == (taken[1] if singly else None)


def test_reads_of_other_consumers_and_other_times_are_not_kept_apart(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    look.end_lease("w1")
    delivered_ms = look.now_ms()
    apart = (Read(b"w9", delivered_ms), Read(b"w1", delivered_ms - 60_000))
    assert other.recover_id(apart=apart, in_flight=(taken[1],)) == taken[0]
    assert other.recover_id(apart=apart, in_flight=(taken[1],)) == taken[2]


def test_failures_do_not_make_a_message_one_that_may_crash(
    worker: Worker, taken: list[str]
) -> None:
    for number in range(3):
        worker.park(taken[0], delay_ms=0, failure=f'{{"n":{number}}}')
        assert worker.recover_id(startable_crashes=0) == taken[0]


def test_a_parked_message_whose_body_was_deleted_ends_and_is_counted(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    client.xdel("jobs", taken[0])
    found = worker.recover()
    assert (found.entry, found.lost_bodies) == (None, 1)
    assert taken[0] not in look.pending()
    assert look.due() == {}
    assert look.history() == {}


@pytest.mark.parametrize("act", ["park", "hand_back", "leave"])
def test_putting_aside_a_message_whose_body_was_deleted_ends_it_at_once_or_at_its_time(
    worker: Worker, other: Worker, look: Looker, client: redis.Redis, taken: list[str], act: str
) -> None:
    client.hset(KEYS.history, taken[0], "{}\n")
    client.xdel("jobs", taken[0])
    returned = {
        "park": lambda: worker.park(taken[0], delay_ms=0),
        "hand_back": lambda: worker.hand_back(taken[0]),
        "leave": worker.leave,
    }[act]()
    left = {"park": 0, "hand_back": 0, "leave": 2}[act]
    if look.drops_deleted_bodies_on_claim():
        assert returned == {"park": -1, "hand_back": [0, 1], "leave": [left, 1]}[act]
        lost = 1
    else:
        assert returned == {"park": 1, "hand_back": [1, 0], "leave": [left + 1, 0]}[act]
        lost = 0
    for _ in range(4):
        lost += other.recover().lost_bodies
    assert lost == 1
    assert taken[0] not in look.pending()
    assert look.history() == {}


def test_a_parked_message_survives_the_loss_of_every_hint(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    worker.park(taken[0])
    client.delete(KEYS.due, KEYS.history, KEYS.presence)
    assert worker.recover().entry is None
    worker.heartbeat()
    assert list(look.due()) == [taken[0]]
    assert worker.recover_id() == taken[0]


# --- beat -------------------------------------------------------------------------------------


def test_a_beat_renews_the_presence_and_reports_the_queue(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    worker.publish([b"text", b"d"], [b"text", b"e"])
    worker.park(taken[0])
    worker.bury(taken[1])
    figures = worker.heartbeat()
    assert figures == QueueMetrics(backlog=4, pending=2, parked=1, dead=1)
    assert figures.waiting == 2
    assert look.presence()["w1"] == pytest.approx(look.now_ms() + LEASE_MS, abs=5000)


def test_the_figures_of_an_empty_queue_are_zero(worker: Worker) -> None:
    assert worker.heartbeat() == QueueMetrics(backlog=0, pending=0, parked=0, dead=0)


def test_a_figure_that_the_server_does_not_say_is_unknown_and_not_zero(
    worker: Worker, client: redis.Redis
) -> None:
    client.set(KEYS.dead, "not a stream")
    assert worker.heartbeat().dead is None
    assert QueueMetrics(backlog=None, pending=1, parked=0, dead=None).waiting is None


def test_ended_consumers_are_removed_only_if_nothing_of_theirs_is_pending(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    look.client.xgroup_createconsumer("jobs", "workers", "w2")
    look.client.xgroup_createconsumer("jobs", "workers", "w3")
    worker.heartbeat()
    look.end_lease("w3")
    look.end_lease("w1")
    other.heartbeat()
    assert look.consumers() == {"w1", "w2"}
    assert set(look.presence()) == {"w1", "w2"}
    assert len(look.pending()) == 3


def test_a_consumer_without_presence_is_never_removed(worker: Worker, look: Looker) -> None:
    look.client.xgroup_createconsumer("jobs", "workers", "foreign")
    worker.heartbeat()
    assert "foreign" in look.consumers()


def test_the_names_of_dead_consumers_do_not_pile_up(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    worker.heartbeat()
    look.end_lease("w1")
    for entry_id in taken:
        assert other.recover_id() == entry_id
    other.heartbeat()
    assert set(look.presence()) == {"w2"}
    assert look.consumers() == {"w2"}


def test_due_times_that_were_lost_are_rebuilt_in_steps_also_when_there_are_many(
    worker: Worker, connection: Connection, look: Looker, client: redis.Redis
) -> None:
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(2300)))
    worker.read(2300)
    client.xclaim("jobs", "workers", PARKED, 0, ids, justid=True)
    client.zadd(KEYS.due, {ids[5]: look.now_ms() + HOUR_MS})
    restore_from, steps = START, 0
    while restore_from:
        reply = connection.call(*worker.commands.heartbeat(restore_from=restore_from))
        restore_from, steps = parse_heartbeat(reply).restore_from, steps + 1
    assert steps == 24
    due = look.due()
    assert set(due) == set(ids)
    assert due[ids[5]] > look.now_ms() + HOUR_MS / 2
    assert due[ids[6]] <= look.now_ms()


def test_a_beat_sent_again_only_renews_the_presence(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    worker.park(taken[0])
    figures = worker.heartbeat()
    before = look.everything()
    assert worker.heartbeat() == figures
    after = look.everything()
    presence = KEYS.presence.encode()
    before.pop(presence)
    after.pop(presence)
    assert after == before


# --- leave ------------------------------------------------------------------------------------


def test_leaving_hands_back_all_and_signs_off(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    worker.heartbeat()
    other.heartbeat()
    worker.park(taken[0])
    assert worker.leave() == [2, 0]
    assert look.pending() == {taken[0]: (PARKED, 1), taken[1]: (PARKED, 0), taken[2]: (PARKED, 0)}
    assert "w1" not in look.consumers()
    assert set(look.presence()) == {"w2"}
    assert [other.recover_id() for _ in range(3)] == [taken[1], taken[2], None]


def test_leaving_with_very_many_messages_loses_none(worker: Worker, look: Looker) -> None:
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(1050)))
    worker.read(1050)
    assert worker.leave() == [1050, 0]
    assert set(look.pending()) == set(ids)
    assert set(look.due()) == set(ids)


def test_leaving_again_changes_nothing(worker: Worker, look: Looker, taken: list[str]) -> None:
    worker.leave()
    before = look.everything()
    assert worker.leave() == [0, 0]
    assert look.everything() == before


def test_a_late_failure_of_a_consumer_that_left_does_not_count_but_a_late_result_does(
    worker: Worker, other: Worker, look: Looker, taken: list[str]
) -> None:
    worker.leave()
    assert worker.park(taken[0]) == 0
    assert worker.bury(taken[1]) == 0
    assert worker.finish(taken[2], result("C")) == 1
    assert [other.recover_id() for _ in range(3)] == [*taken[:2], None]
    assert look.history() == {}
    assert look.due() == {}
    assert look.results() == [{b"text": b"C"}]


# --- publish ----------------------------------------------------------------------------------


def publish(
    connection: Connection, count: int, limit: int | None
) -> tuple[list[str], SharedSyncError | None]:
    messages = [[b"n", b"%d" % number] for number in range(count)]
    reply = connection.call(*publishing.publish("jobs", messages, limit))
    return publishing.parse_published(reply)


def test_messages_are_added_in_order(connection: Connection, look: Looker) -> None:
    ids, error = publish(connection, 100, None)
    assert error is None
    assert look.bodies() == ids
    assert [fields for _, fields in look.client.xrange("jobs")] == [
        {b"n": b"%d" % number} for number in range(100)
    ]


def test_the_limit_is_exact(connection: Connection, look: Looker) -> None:
    assert len(publish(connection, 7, 10)[0]) == 7
    ids, error = publish(connection, 7, 10)
    assert (len(ids), error) == (3, None)
    assert publish(connection, 1, 10) == ([], None)
    assert publish(connection, 1, 5) == ([], None)
    assert look.client.xlen("jobs") == 10


def test_finished_messages_make_room(
    worker: Worker, connection: Connection, taken: list[str]
) -> None:
    assert publish(connection, 1, 3) == ([], None)
    worker.finish(taken[1])
    assert len(publish(connection, 2, 3)[0]) == 1


def test_publishing_to_what_is_no_stream_is_refused_and_says_why(
    connection: Connection, client: redis.Redis
) -> None:
    client.set("jobs", "a string")
    ids, error = publish(connection, 2, None)
    assert ids == []
    assert isinstance(error, RedisRefused)
    assert error.code == "WRONGTYPE"
    with pytest.raises(RedisRefused):
        publish(connection, 2, 10)


def test_a_server_without_memory_accepts_what_fits_and_says_why_it_stopped(
    redis_server: EmbeddedRedis,
) -> None:
    with (
        EmbeddedRedis(redis_server.binary) as server,
        redis.Redis.from_url(server.url) as admin,
        closing(make_connection(server.url)) as connection,
    ):
        connection.open()
        admin.config_set("maxmemory", 1)
        try:
            error: SharedSyncError | None = publish(connection, 1, None)[1]
        except SharedSyncError as raised:
            error = raised
        assert isinstance(error, RedisRefused)
        assert error.code == "OOM"
        admin.config_set("maxmemory", 0)
        assert publish(connection, 1, None)[1] is None


# --- who holds a name -------------------------------------------------------------------------


@pytest.fixture
def successor(connection: Connection, worker: Worker, look: Looker, taken: list[str]) -> Worker:
    """Has taken w1's name after w1, which holds three messages, was frozen past its lease."""
    look.end_lease("w1")
    made = Worker(connection, "w1", identity="successor", sends_heartbeat=False)
    assert made.claim() is None
    return made


def test_a_name_is_held_by_one_while_it_beats_and_free_when_its_lease_has_ended(
    connection: Connection, worker: Worker, look: Looker
) -> None:
    other = Worker(connection, "w1", identity="other", sends_heartbeat=False)
    held = other.claim()
    assert held is not None
    assert held.identity == b"the identity of w1"
    assert 0 < held.lease_end_ms - held.now_ms <= LEASE_MS
    look.end_lease("w1")
    assert other.claim() is None
    assert other.claim() is None
    assert worker.claim() is not None


def test_a_name_is_free_at_once_after_a_clean_end_and_from_a_holder_known_to_be_gone(
    connection: Connection, worker: Worker, look: Looker
) -> None:
    other = Worker(connection, "w1", identity="other", sends_heartbeat=False)
    gone = other.commands.claim(b"the identity of w1")
    assert isinstance(parse_claim(connection.call(*gone)), NameClaimed)
    assert worker.claim() is not None
    other.leave()
    assert worker.claim() is None


def test_who_lost_its_name_is_told_so_and_owns_nothing_any_more(
    worker: Worker, successor: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    before = look.everything()
    for act in (worker.heartbeat, worker.recover):
        with pytest.raises(RedisRefused, match="successor") as caught:
            act()
        assert caught.value.code == "HELD"
    assert worker.park(taken[0]) == 0
    assert worker.bury(taken[1]) == 0
    assert worker.hand_back(*taken) == [0, 0]
    assert worker.leave() == [0, 0]
    assert look.everything() == before
    assert successor.park(taken[0]) == 1


def test_who_lost_its_name_may_still_publish_a_result_if_nobody_was_quicker(
    worker: Worker, successor: Worker, look: Looker, taken: list[str]
) -> None:
    assert worker.finish(taken[0], result("late")) == 1
    assert successor.finish(taken[0], result("later")) == 0
    assert look.results() == [{b"text": b"late"}]


def test_a_name_whose_new_holder_has_died_too_goes_back_to_who_beats_first(
    worker: Worker, successor: Worker, look: Looker
) -> None:
    look.end_lease("w1")
    worker.heartbeat()
    with pytest.raises(RedisRefused, match="the identity of w1"):
        successor.heartbeat()


def test_who_lost_its_name_to_one_that_has_died_waits_for_its_next_beat_to_recover(
    worker: Worker, successor: Worker, look: Looker, taken: list[str]
) -> None:
    look.end_lease("w1")
    assert worker.recover(own_idle_ms=0).entry is None
    worker.heartbeat()
    assert worker.recover(own_idle_ms=0).entry is not None


def test_a_beat_brings_back_a_holder_that_was_lost(worker: Worker, look: Looker) -> None:
    look.client.delete(look.keys.holders)
    worker.heartbeat()
    assert look.client.hgetall(look.keys.holders) == {b"w1": b"the identity of w1"}


def test_holders_do_not_pile_up(connection: Connection, worker: Worker, look: Looker) -> None:
    Worker(connection, "w2")
    Worker(connection, "w3")
    look.end_lease("w2")
    look.remove_presence("w3")
    worker.heartbeat()
    assert set(look.client.hgetall(look.keys.holders)) == {b"w1"}
    worker.leave()
    assert not look.client.exists(look.keys.holders)


# --- rights that are missing --------------------------------------------------------------------


def test_asking_for_the_rights_changes_nothing(
    worker: Worker, look: Looker, taken: list[str]
) -> None:
    def state() -> tuple[object, ...]:
        hints = (look.due(), look.history(), look.presence())
        return (look.bodies(), look.pending(), *hints, look.results(), look.dead())

    (unread,) = worker.publish([b"text", b"unread"])
    worker.park(taken[0])
    before = state()
    groups.check_rights(worker.connection, worker.commands)
    assert state() == before
    assert [entry.id for entry in worker.read()] == [unread]


@pytest.fixture
def restricted(own_server: EmbeddedRedis) -> Iterator[tuple[Connection, redis.Redis]]:
    """A connection of a user who may do everything but remove consumers and create groups."""
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        rights = ("on", ">pw", "~*", "+@all", "-xgroup|delconsumer", "-xgroup|create")
        if str(admin.info("server")["redis_version"]).startswith("6."):
            # Before 7.0 one part of a command cannot be taken away, only given.
            allowed = ("+xgroup|createconsumer", "+xgroup|destroy", "+xgroup|setid")
            rights = ("on", ">pw", "~*", "+@all", "-xgroup", *allowed)
        admin.execute_command("ACL", "SETUSER", "worker", *rights)
        url = own_server.url.replace("redis://", "redis://worker:pw@")
        with closing(make_connection(url)) as connection:
            yield connection, admin


def test_without_the_right_to_remove_consumers_their_names_stay_and_all_else_goes_on(
    restricted: tuple[Connection, redis.Redis],
) -> None:
    connection, admin = restricted
    admin.xgroup_create("jobs", "workers", id="0", mkstream=True)
    worker, other, look = Worker(connection, "w1"), Worker(connection, "w2"), Looker(admin)
    other.publish([b"n", b"1"])
    assert len(other.read()) == 1
    other.leave()
    reply = parse_heartbeat(connection.call(*worker.commands.heartbeat()))
    assert reply.refusal is None
    Worker(connection, "w3")
    look.end_lease("w3")
    reply = parse_heartbeat(connection.call(*worker.commands.heartbeat()))
    assert isinstance(reply.refusal, RedisAccessDenied)
    assert worker.heartbeat() == QueueMetrics(backlog=1, pending=1, parked=1, dead=0)
    assert worker.recover().entry is not None
    assert "w3" not in look.presence()


def test_without_the_right_to_create_groups_a_group_must_be_there(
    restricted: tuple[Connection, redis.Redis],
) -> None:
    connection, admin = restricted
    commands = GroupCommands(KEYS, "w1", LEASE_MS)
    with pytest.raises(RedisAccessDenied):
        groups.ensure_group(connection, commands)
    admin.xgroup_create("jobs", "workers", id="0", mkstream=True)
    assert groups.ensure_group(connection, commands) is Ensured.MAY_NOT_CREATE


# --- the same logic in a server that is not one -----------------------------------------------


@pytest.fixture
def fake() -> Iterator[tuple[Connection, redis.Redis]]:
    with (
        fakeredis.FakeRedis(protocol=2) as client,
        closing(Connection(client.connection_pool.make_connection)) as connection,
    ):
        yield connection, client


def test_a_message_runs_its_whole_course_in_a_fake_server_too(
    fake: tuple[Connection, redis.Redis],
) -> None:
    connection, client = fake
    worker, look = Worker(connection, "w1"), Looker(client)
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(4)))
    assert [entry.id for entry in worker.read(10)] == ids
    assert worker.finish(ids[0], result("A")) == 1
    assert worker.finish(ids[0], result("A")) == 0
    assert worker.park(ids[1], delay_ms=0) == 1
    assert worker.park(ids[1], delay_ms=0) == 0
    assert worker.bury(ids[2]) == 1
    assert worker.bury(ids[2]) == 0
    assert worker.hand_back(ids[3]) == [1, 0]
    assert worker.heartbeat() == QueueMetrics(backlog=2, pending=2, parked=2, dead=1)
    first, second = worker.recover().entry, worker.recover().entry
    assert first is not None
    assert second is not None
    assert {first.id: first.deliveries, second.id: second.deliveries} == {ids[1]: 2, ids[3]: 1}
    assert worker.leave() == [2, 0]
    assert look.results() == [{b"text": b"A"}]
    assert json.loads(look.dead()[0][b"dead.history"]) == {"n": 9}


def test_the_limit_of_a_queue_is_exact_in_a_fake_server_too(
    fake: tuple[Connection, redis.Redis],
) -> None:
    connection, client = fake
    assert len(publish(connection, 5, 3)[0]) == 3
    assert client.xlen("jobs") == 3


def test_an_entry_is_kept_for_another_group_in_a_fake_server_too(
    fake: tuple[Connection, redis.Redis],
) -> None:
    connection, client = fake
    worker = Worker(connection, "w1")
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    (only,) = worker.publish([b"a", b"1"])
    worker.read(1)
    worker.finish(only)
    assert client.xlen("jobs") == 1
    second.read(1)
    second.finish(only)
    assert client.xlen("jobs") == 0


# --- judging others ---------------------------------------------------------------------------


def let_lapse(client: redis.Redis, look: Looker, **ended_ms_ago: int) -> None:
    """As if nobody had reached the server since."""
    client.delete(KEYS.presence)
    client.zadd(KEYS.presence, {name: look.now_ms() - ms for name, ms in ended_ms_ago.items()})


def test_when_all_leases_have_ended_nobody_is_taken_for_dead(
    worker: Worker, other: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    let_lapse(client, look, w1=1, w2=1)
    for _ in range(3):
        assert other.recover().entry is None


def test_after_an_outage_the_others_have_a_grace_to_beat_before_they_are_judged(
    worker: Worker,
    other: Worker,
    connection: Connection,
    look: Looker,
    client: redis.Redis,
    taken: list[str],
) -> None:
    """Also by a consumer that comes only then, and sees nothing but lapsed leases."""
    let_lapse(client, look, w1=1, w2=1)
    newcomer = Worker(connection, "w3")
    assert newcomer.recover().entry is None
    (until_ms,) = (at for _, at in client.zrange(KEYS.outage, 0, -1, withscores=True))
    assert 0 < until_ms - look.now_ms() <= 5000
    other.heartbeat()
    assert newcomer.recover().entry is None
    client.zadd(KEYS.outage, {"forgiven until": look.now_ms() - 1})
    assert newcomer.recover_id() == taken[0], "w1 has not reported by the end of the grace"
    assert not client.exists(KEYS.outage)


def test_who_reports_within_the_grace_is_not_taken_for_dead(
    worker: Worker, other: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    let_lapse(client, look, w1=1, w2=1)
    assert other.recover().entry is None
    worker.heartbeat()
    other.heartbeat()
    client.delete(KEYS.outage)
    assert other.recover().entry is None


def test_one_lease_that_ended_while_others_beat_is_a_death(
    worker: Worker, other: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    other.heartbeat()
    look.end_lease("w1")
    other.heartbeat()
    assert other.recover_id() == taken[0]


def test_a_parked_message_whose_outcome_is_unsettled_here_is_left_alone(
    worker: Worker, other: Worker, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    assert worker.recover(in_flight=(taken[0],)).entry is None
    assert other.recover_id() == taken[0]


def test_a_burial_that_is_refused_charges_nothing(
    worker: Worker, look: Looker, client: redis.Redis, taken: list[str]
) -> None:
    client.set(KEYS.dead, "in the way")
    for _ in range(3):
        with pytest.raises(RedisRefused):
            worker.bury(taken[0])
    assert look.pending()[taken[0]] == ("w1", 1)
    client.delete(KEYS.dead)
    assert worker.bury(taken[0]) == 1


def test_a_full_server_still_lets_messages_end_and_workers_live(
    own_server: EmbeddedRedis,
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as client:
        connection = make_connection(own_server.url)
        worker = Worker(connection, "w1")
        ids = worker.publish(*([b"n", b"%d" % number] for number in range(5)))
        worker.read(5)
        client.config_set("maxmemory", 1)
        try:
            worker.heartbeat()
            assert worker.finish(ids[0], result("A")) == 1
            assert worker.park(ids[1], delay_ms=0) == 1
            assert worker.bury(ids[2], answer=result("gone")) == 1
            assert worker.hand_back(ids[3]) == [1, 0]
            assert worker.recover_id() == ids[1]
            assert groups.ensure_group(connection, worker.commands) is Ensured.EXISTED
            worker.leave()
        finally:
            connection.close()
        assert client.xlen("results") == 2
        assert client.xlen("jobs") == 3
