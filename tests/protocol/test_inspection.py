"""A group as a page shows it: every table against what was really done in Redis."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, Make
from helpers import Gate, eventually, start_program
from protocol_client import HOUR_MS, KEYS, GroupAdmin, Worker, make_connection
from servers import Cluster, Sentinels

from shared_sync import RedisStreamProducer, Reject, Retry, RetryPolicy
from shared_sync.connection import discovery
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisAccessDenied, RedisRefused, RedisUnavailable
from shared_sync.protocol.inspection import GroupView, fingerprint

REDIS_PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
(LEAST_RIGHTS,) = re.findall(r"^    (~audio:jobs .+)$", REDIS_PAGE, re.MULTILINE)
WORKERS_RIGHTS = LEAST_RIGHTS.replace("audio:jobs", STREAM).split()
PAGES_RIGHTS = {"+xinfo|consumers": "consumers", "+xrevrange": "dead_letters"}
EMPTY = {
    "stream": STREAM,
    "group": GROUP,
    "consumers": [],
    "consumers_total": 0,
    "parked": [],
    "parked_total": 0,
    "dead_letters": [],
    "dead_letters_total": 0,
}


def view_of(url: str) -> GroupView:
    return GroupView(discovery.connector(url, key=STREAM, reply_timeout_seconds=5), KEYS)


@pytest.fixture
def view(redis_url: str) -> GroupView:
    return view_of(redis_url)


def consumers(view: GroupView) -> dict[str, dict[str, Any]]:
    return {row.pop("name"): row for row in view.look()["consumers"]}


def dead_letter(client: redis.Redis, **facts: object) -> str:
    """A dead letter as a consumer writes it, or as something else did; its id."""
    fields = {"audio": b"\xff\x00", **{f"dead.{name}": fact for name, fact in facts.items()}}
    return client.xadd(DEAD, fields).decode()


@contextmanager
def worker_process(url: str, *, lease_seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, that has a message in hand and never lets go of it."""
    code = (
        "import sys, threading\n"
        "from shared_sync import RedisStreamConsumer\n"
        "RedisStreamConsumer(\n"
        f"    sys.argv[1], {STREAM!r}, {GROUP!r}, 'doomed', None,\n"
        f"    lambda *_: threading.Event().wait(), lease_seconds={lease_seconds},\n"
        ").start_consuming()\n"
    )
    process = start_program([sys.executable, "-c", code, url])
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


# --- consumers --------------------------------------------------------------------------------


def test_what_does_not_exist_has_empty_tables(view: GroupView, client: redis.Redis) -> None:
    assert view.look() == EMPTY
    client.xadd(STREAM, {"n": 1})
    assert view.look() == EMPTY
    client.xgroup_create(STREAM, GROUP)
    assert view.look() == EMPTY
    assert client.keys() == [STREAM.encode()]


def test_a_running_consumer_is_present_with_what_it_holds_and_where_it_runs(
    make: Make, producer: RedisStreamProducer
) -> None:
    hold = Gate()
    consumer = make(hold, consumer_id="w1", lease_seconds=60)
    consumer.start()
    producer.publish({"n": 1})
    assert hold.entered.wait(10)
    seen = consumer.get_group_view()
    assert (seen["stream"], seen["group"], seen["consumers_total"]) == (STREAM, GROUP, 1)
    (row,) = seen["consumers"]
    assert 0 < row.pop("lease_seconds_left") <= 60
    assert 0 <= row.pop("idle_seconds") < 60
    assert row == {
        "name": "w1",
        "present": True,
        "pending": 1,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    hold.opened.set()
    assert consumer.stop()
    assert consumer.get_group_view() == EMPTY


def test_a_killed_worker_is_shown_as_gone_with_what_it_left(
    redis_url: str, producer: RedisStreamProducer, view: GroupView
) -> None:
    producer.publish({"n": 1})
    with worker_process(redis_url, lease_seconds=1) as process:
        eventually(lambda: consumers(view).get("doomed", {}).get("pending") == 1)
        seen = consumers(view)["doomed"]
        assert (seen["present"], seen["pid"]) == (True, process.pid)
        process.kill()
        eventually(lambda: consumers(view)["doomed"]["present"] is False)
    seen = consumers(view)["doomed"]
    assert (seen["lease_seconds_left"], seen["pending"], seen["pid"]) == (0, 1, process.pid)


def test_a_consumer_that_never_announced_itself_is_of_another_program(
    worker: Worker, client: redis.Redis, view: GroupView
) -> None:
    worker.publish([b"n", b"1"], [b"n", b"2"])
    client.xreadgroup(GROUP, "other", {STREAM: ">"}, count=1)
    seen = consumers(view)["other"]
    assert 0 <= seen.pop("idle_seconds") < 60
    nobody = {"present": None, "lease_seconds_left": None, "host": None, "pid": None}
    assert seen == {**nobody, "pending": 1}


def test_one_that_has_announced_itself_and_read_nothing_is_listed_too(
    worker: Worker, view: GroupView
) -> None:
    worker.claim()
    seen = consumers(view)["w1"]
    assert seen["present"] is True
    assert (seen["pending"], seen["idle_seconds"]) == (0, None)


def test_the_place_for_parked_messages_is_no_consumer(
    worker: Worker, taken: list[str], view: GroupView
) -> None:
    worker.park(taken[0])
    assert set(consumers(view)) == {"w1"}


def test_of_many_consumers_those_that_left_something_come_first_then_the_present(
    worker: Worker, taken: list[str], admin: GroupAdmin, client: redis.Redis, view: GroupView
) -> None:
    admin.end_lease("w1")
    for n in range(150):
        client.xgroup_createconsumer(STREAM, GROUP, f"idle-{n:03}")
    admin.keep_alive("w9")
    seen = view.look()
    assert seen["consumers_total"] == 152
    names = [row["name"] for row in seen["consumers"]]
    assert names == ["w1", "w9", *(f"idle-{n:03}" for n in range(98))]


def test_a_group_of_far_too_many_consumers_has_no_table_of_them(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    worker.park(taken[0])
    with client.pipeline(transaction=False) as many:
        for n in range(1001):
            many.xgroup_createconsumer(STREAM, GROUP, f"idle-{n}")
        many.execute()
    seen = view.look()
    assert "consumers" not in seen
    assert seen["reasons"] == ["consumers are not shown: there are too many in this group"]
    assert seen["parked_total"] == 1


def test_names_and_holders_that_no_version_of_this_library_writes_do_no_harm(
    worker: Worker, client: redis.Redis, view: GroupView
) -> None:
    client.xgroup_createconsumer(STREAM, GROUP, b"\xff\n<b>")
    client.hset(KEYS.holders, b"\xff\n<b>", b"\xff{")
    client.hset(KEYS.holders, "w1", b"[1]")
    seen = consumers(view)
    assert set(seen) == {"w1", "\\xff\n<b>"}
    assert seen["w1"]["pid"] is None


# --- parked messages ----------------------------------------------------------------------------


def test_a_failed_message_shows_when_it_is_tried_again_and_how_it_failed(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def fail(*_: object) -> None:
        raise Retry(3600, "the model is being loaded")

    consumer = make(fail)
    consumer.start()
    message_id = producer.publish({"n": 1})
    eventually(lambda: consumer.get_group_view()["parked"])
    seen = consumer.get_group_view()
    (row,) = seen["parked"]
    assert seen["parked_total"] == 1
    assert 3500 < row.pop("due_in_seconds") <= 3600
    assert row == {
        "message_id": message_id,
        "failures": 1,
        "error_type": "Retry",
        "details": "the model is being loaded",
    }


def test_the_soonest_come_first_and_one_whose_time_has_come_is_due(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    for message_id, delay_ms in zip(taken, (HOUR_MS, 0, 60_000), strict=True):
        worker.park(message_id, delay_ms)
    rows = view.look()["parked"]
    assert [row["message_id"] for row in rows] == [taken[1], taken[2], taken[0]]
    assert rows[0]["due_in_seconds"] <= 0 < rows[1]["due_in_seconds"] <= 60
    assert (rows[0]["error_type"], rows[0]["details"]) == (None, "")


def test_what_was_handed_back_has_not_failed(
    worker: Worker, taken: list[str], view: GroupView
) -> None:
    worker.hand_back(*taken)
    rows = view.look()["parked"]
    assert [row["message_id"] for row in rows] == taken
    assert {row["failures"] for row in rows} == {0}


def test_of_several_failures_the_last_is_told(
    worker: Worker, taken: list[str], view: GroupView
) -> None:
    for n in (1, 2):
        worker.park(taken[0], 0, failure=f'{{"error_type":"Error{n}","error":"text {n}"}}')
        if n == 1:
            assert worker.recover_id() == taken[0]
    (row,) = view.look()["parked"]
    assert (row["failures"], row["error_type"], row["details"]) == (2, "Error2", "text 2")


def test_a_due_time_of_what_is_not_parked_any_more_is_not_shown(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    worker.park(taken[0])
    client.zadd(KEYS.due, {taken[1]: 1, "1-1": 2})
    seen = view.look()
    assert [row["message_id"] for row in seen["parked"]] == [taken[0]]
    assert seen["parked_total"] == 1


def test_many_due_times_of_what_is_not_parked_any_more_hide_nothing(
    worker: Worker, client: redis.Redis, view: GroupView
) -> None:
    ids = worker.publish(*([b"n", b"%d" % n] for n in range(60)))
    assert len(worker.read(60)) == 60
    for n, message_id in enumerate(ids):
        worker.park(message_id, HOUR_MS + 1000 * n)
    client.zadd(KEYS.due, {f"1-{n}": n for n in range(1, 201)})
    seen = view.look()
    assert [row["message_id"] for row in seen["parked"]] == ids[:50]
    assert seen["parked_total"] == 60


def test_due_times_of_what_is_not_parked_any_more_are_not_gone_through_without_end(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    worker.park(taken[0], HOUR_MS)
    client.zadd(KEYS.due, {f"1-{n}": n for n in range(1, 2001)})
    seen = view.look()
    assert (seen["parked"], seen["parked_total"]) == ([], 1)
    client.zrem(KEYS.due, "1-1")
    assert [row["message_id"] for row in view.look()["parked"]] == [taken[0]]


def test_of_many_parked_ones_the_fifty_soonest_are_listed_and_all_are_counted(
    worker: Worker, view: GroupView
) -> None:
    ids = worker.publish(*([b"n", b"%d" % n] for n in range(70)))
    assert len(worker.read(70)) == 70
    for n, message_id in enumerate(ids):
        worker.park(message_id, HOUR_MS - 1000 * n)
    seen = view.look()
    assert [row["message_id"] for row in seen["parked"]] == ids[:-51:-1]
    assert seen["parked_total"] == 70


def test_long_histories_are_not_read_without_end(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    for n, message_id in enumerate(taken):
        worker.park(message_id, HOUR_MS + n)
        client.hset(KEYS.history, message_id, '{"error_type":"E","error":"x"}\n' * 50_000)
    rows = view.look()["parked"]
    assert [row["failures"] for row in rows] == [50_000, None, None]
    assert [row["error_type"] for row in rows] == ["E", None, None]


# --- dead letters -------------------------------------------------------------------------------


def test_dead_letters_of_one_cause_share_a_fingerprint_and_different_causes_differ(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def fail(_: str, job: dict[str, str]) -> None:
        kind, _, number = job["n"].partition(" ")
        if kind == "rejected":
            raise Reject(f"no speech in '{number}.wav'")
        if kind == "short":
            raise ValueError(f"only {number} samples at 0x7f{number}a0")
        raise OSError(f"host gpu-{number} is away")

    consumer = make(fail, retry=RetryPolicy(max_attempts=1))
    consumer.start()
    jobs = [f"{kind} {n}" for kind in ("rejected", "short", "away") for n in (1, 22)]
    published = {producer.publish({"n": job, "audio": "x" * 100_000}): job for job in jobs}
    client.xadd(STREAM, {"audio": b"\xff"})
    eventually(lambda: client.xlen(DEAD) == len(jobs) + 1)

    seen = consumer.get_group_view()
    assert seen["dead_letters_total"] == len(jobs) + 1
    rows = {published.get(row["message_id"], "bad"): row for row in seen["dead_letters"]}
    prints = {job: row["fingerprint"] for job, row in rows.items()}
    for kind in ("rejected", "short", "away"):
        assert prints[f"{kind} 1"] == prints[f"{kind} 22"]
    assert len(set(prints.values())) == 4
    assert all(re.fullmatch("[0-9a-f]{8}", each) for each in prints.values())
    shown = {job: (row["reason"], row["error_type"], row["details"]) for job, row in rows.items()}
    assert shown["rejected 1"] == ("rejected", "Reject", "no speech in '1.wav'")
    assert shown["short 22"] == (
        "failed 1 times",
        "ValueError",
        "only 22 samples at 0x7f22a0",
    )
    reason, error_type, details = shown["bad"]
    assert (reason, error_type) == ("bad input", None)
    assert details.startswith("field 'audio' is not UTF-8")
    assert all(0 <= row["seconds_ago"] < 60 and row["attempts"] == 1 for row in rows.values())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("took 12.5 s", "took 9 s"),
        ("object at 0x7fdeadbeef", "object at 0x1"),
        ("no file '/tmp/a b.wav'", "no file '/tmp/other.wav'"),
        ('no client "anna"', 'no client "bob"'),
        ("job 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "job 1f2504e0-4f89-11d3-9a0c-0305e82c3301"),
        ("cannot decode b'\\xff'", "cannot decode b'ab'"),
    ],
)
def test_what_varies_within_one_cause_does_not_count(one: str, other: str) -> None:
    assert fingerprint("E", "failed 1 times", one) == fingerprint("E", "failed 5 times", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("E", "rejected", "x"), ("F", "rejected", "x")),
        (("E", "rejected", "x"), ("E", "failed 3 times", "x")),
        (("E", "rejected", "too long"), ("E", "rejected", "too short")),
        (("E", "rejected", "can't read"), ("E", "rejected", "can't write")),
    ],
)
def test_different_causes_have_different_fingerprints(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert fingerprint(*one) != fingerprint(*other)


def test_the_reason_never_has_the_words_of_others(client: redis.Redis, view: GroupView) -> None:
    for reason in (
        "rejected: secret",
        "bad input: secret",
        "failed secret times",
        "failed 3 times: secret",
        "secret",
        "",
    ):
        dead_letter(client, reason=reason, error_type="not a type: secret", attempts="secret")
    dead_letter(client, reason="crashed: its process died 3 times", attempts="3")
    rows = view.look()["dead_letters"]
    assert rows[0]["reason"] == "crashed: its process died 3 times"
    assert [row["reason"] for row in rows[1:]] == ["unknown"] * 4 + ["bad input", "rejected"]
    for row in rows[1:]:
        assert row["error_type"] is row["attempts"] is None
    assert rows[-1]["details"] == "secret"


def test_a_message_cannot_pass_for_its_own_obituary(
    worker: Worker, view: GroupView, client: redis.Redis
) -> None:
    (message_id,) = worker.publish([b"dead.reason", b"failed 7 times", b"dead.id", b"1-1"])
    worker.read()
    worker.bury(message_id)
    (row,) = view.look()["dead_letters"]
    assert (row["reason"], row["details"]) == ("rejected", "no")


def test_the_newest_fifty_are_listed_and_later_looks_follow_what_happens(
    client: redis.Redis, view: GroupView
) -> None:
    def expect_newest() -> None:
        newest = [entry_id.decode() for entry_id, _ in client.xrevrange(DEAD, count=50)]
        seen = view.look()
        assert [row["id"] for row in seen["dead_letters"]] == newest
        assert seen["dead_letters_total"] == client.xlen(DEAD)

    expect_newest()
    ids = [dead_letter(client, id=f"{n}-0") for n in range(30)]
    expect_newest()
    ids += [dead_letter(client, id=f"{n}-0") for n in range(30)]
    expect_newest()
    client.xdel(DEAD, ids[-1])
    expect_newest()
    client.xdel(DEAD, ids[-2], ids[0])
    ids += [dead_letter(client) for _ in range(2)]
    expect_newest()
    ids += [dead_letter(client) for _ in range(70)]
    expect_newest()
    client.xtrim(DEAD, 5)
    expect_newest()
    client.delete(DEAD)
    expect_newest()
    dead_letter(client)
    expect_newest()


def commands_of(client: redis.Redis, act: Callable[[], object]) -> list[tuple[str, str]]:
    """What the server carries out meanwhile: who sent it ("lua": a script), and the command."""
    with client.monitor() as monitor:
        act()
        client.ping()
        told = iter(monitor.next_command, None)
        return [(each["client_type"], each["command"]) for each in takewhile(_is_no_ping, told)]


def _is_no_ping(told: dict[str, str]) -> bool:
    return told["command"] != "PING"


def test_of_large_messages_a_look_reads_only_so_many(client: redis.Redis, view: GroupView) -> None:
    for _ in range(10):
        client.xadd(DEAD, {"audio": b"\0" * 1_000_000, "dead.reason": "rejected: no"})
    looks = [view.look() for _ in range(3)]
    assert [len(seen["dead_letters"]) for seen in looks] == [5, 10, 10]
    assert {seen["dead_letters_total"] for seen in looks} == {10}


def test_what_is_known_of_dead_letters_is_not_read_again(
    client: redis.Redis, view: GroupView
) -> None:
    for _ in range(3):
        dead_letter(client)
    view.look()
    dead_letter(client)
    commands = [command for _, command in commands_of(client, view.look)]
    # The new one, that there is no other, and that none is older.
    assert sum(command.startswith("XREVRANGE") for command in commands) == 3, commands
    assert len(view.look()["dead_letters"]) == 4


# --- the servers ----------------------------------------------------------------------------------


def test_a_look_is_one_command_and_leaves_no_connection(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    commands = commands_of(client, view.look)
    sent = [command.partition(" ")[0] for kind, command in commands if kind != "lua"]
    # An older driver cannot read every line of a script's, and tells it as nothing.
    assert [name for name in sent if name not in ("SCRIPT", "CLIENT", "")] == ["EVALSHA"]
    before = client.info("clients")["connected_clients"]
    view.look()
    eventually(lambda: client.info("clients")["connected_clients"] <= before)


def test_a_look_writes_nothing(
    worker: Worker, taken: list[str], admin: GroupAdmin, view: GroupView
) -> None:
    worker.park(taken[0])
    worker.bury(taken[1])
    before = admin.everything()
    assert view.look()["parked_total"] == 1
    assert admin.everything() == before


def test_it_finds_the_master_that_has_the_group(sentinels: Sentinels) -> None:
    expect_a_view(sentinels.url)


def test_it_finds_the_node_of_a_cluster_that_has_the_group(cluster: Cluster) -> None:
    expect_a_view(cluster.url)


def expect_a_view(url: str) -> None:
    with closing(make_connection(url)) as connection:
        worker = Worker(connection, "w1", results=None)
        first, second = worker.publish([b"n", b"1"], [b"n", b"2"])
        assert len(worker.read()) == 2
        worker.park(first)
        worker.bury(second)
        seen = view_of(url).look()
    assert [row["name"] for row in seen["consumers"]] == ["w1"]
    assert [row["message_id"] for row in seen["parked"]] == [first]
    assert [row["message_id"] for row in seen["dead_letters"]] == ["?"]


def test_a_redis_that_is_away_is_unavailable_and_one_that_comes_back_is_seen(
    own_server: EmbeddedRedis,
) -> None:
    view = view_of(own_server.url)
    with redis.Redis.from_url(own_server.url) as client:
        dead_letter(client)
    assert view.look()["dead_letters_total"] == 1
    own_server.kill()
    with pytest.raises(RedisUnavailable):
        view.look()
    own_server.start()
    assert len(view.look()["dead_letters"]) == 1


# --- rights that are missing, and keys that hold something else -----------------------------------


@pytest.fixture
def grant(own_server: EmbeddedRedis) -> Callable[..., str]:
    """Makes a user with these rights; an address for it."""

    def make_user(*rights: str) -> str:
        with redis.Redis.from_url(own_server.url, protocol=2) as admin:
            admin.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">s3cret", *rights)
        return own_server.url.replace("redis://", "redis://worker:s3cret@")

    return make_user


def test_with_the_rights_of_a_worker_it_runs_and_says_what_the_page_lacks(
    grant: Callable[..., str], make: Make
) -> None:
    url = grant(*WORKERS_RIGHTS)
    done: list[str] = []

    def processor(message_id: str, job: dict[str, str]) -> None:
        if job["n"] == "1":
            raise Retry(3600)
        done.append(message_id)

    consumer = make(processor, url=url)
    consumer.start()
    with RedisStreamProducer(url, STREAM) as producer:
        ids = producer.publish_many([{"n": 1}, {"n": 2}])
    eventually(lambda: done == ids[1:] and consumer.get_group_view()["parked_total"] == 1)
    seen = consumer.get_group_view()
    assert [row["message_id"] for row in seen["parked"]] == ids[:1]
    assert not {"consumers", "consumers_total", "dead_letters", "dead_letters_total"} & set(seen)
    assert seen["reasons"] == [
        "consumers are not shown: grant this Redis user +xinfo|consumers",
        "dead letters are not shown: grant this Redis user +xrevrange",
    ]
    assert consumer.redis_connected
    assert consumer.stop()


@pytest.mark.parametrize("missing", PAGES_RIGHTS)
def test_each_right_of_the_page_switches_one_table_on(
    grant: Callable[..., str], client: redis.Redis, make: Make, missing: str
) -> None:
    assert all(f"`{right}`" in REDIS_PAGE for right in PAGES_RIGHTS)
    table = PAGES_RIGHTS[missing]
    make(print, url=grant(*WORKERS_RIGHTS, *PAGES_RIGHTS)).connect()
    url = grant(*WORKERS_RIGHTS, *(set(PAGES_RIGHTS) - {missing}))
    seen = view_of(url).look()
    assert {"consumers", "parked", "dead_letters"} - set(seen) == {table}
    assert missing in seen["reasons"][0]
    seen = view_of(grant(*WORKERS_RIGHTS, *PAGES_RIGHTS)).look()
    assert table in seen
    assert "reasons" not in seen


def test_who_may_not_even_look_at_the_group_is_denied(grant: Callable[..., str]) -> None:
    rights = set(WORKERS_RIGHTS) - {"+xpending"}
    with pytest.raises(RedisAccessDenied):
        view_of(grant(*rights)).look()


def test_a_key_that_holds_something_else_switches_off_its_table_alone(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    worker.park(taken[0])
    client.set(DEAD, "secret")
    seen = view.look()
    assert seen["reasons"] == ["dead letters are not shown: Redis refused it (WRONGTYPE)"]
    assert [seen["parked_total"], seen["consumers_total"]] == [1, 1]


def test_a_stream_that_is_none_is_refused(client: redis.Redis, view: GroupView) -> None:
    client.set(STREAM, "text")
    with pytest.raises(RedisRefused):
        view.look()
