"""An outbox settles messages whose results and outputs go to streams of their own."""

from __future__ import annotations

import logging
from contextlib import closing

import pytest
import redis
from outboxes import Sender, finish, settled
from protocol_client import METADATA, GroupAdmin, Worker, make_connection, result

from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisAccessDenied
from shared_sync.protocol.messages import Address, Answer, Bury, Finish, Outcome, Output
from shared_sync.redis_consumer.settling.parcels import MOST_OUTCOMES, chunks_of_outputs

CALLER = Address("{jobs}:replies:ab12", may_create=False)


def emitting(
    message_id: str,
    stream: str = "{jobs}:next",
    count: int = 1,
    address: Address | None = None,
) -> Finish:
    items = result("A").items if address else ()
    outputs = [Output(stream, [b"text", b"a"])] * count
    return Finish(message_id, items, address=address, outputs=outputs)


def replying(message_id: str) -> Finish:
    return Finish(message_id, result("A").items, address=CALLER, entry=None)


def test_messages_with_outputs_go_beside_those_without_and_each_ending_is_counted() -> None:
    sender = Sender(settled(1), settled(1, 2, 1, 1, 0))
    outcomes = [
        emitting("1-0"),
        finish("2-0"),
        replying("3-0"),
        Finish("4-0", status="expired"),
        Finish("5-0", status="cancelled"),
        Finish("6-0", status="cancelled"),
    ]
    for one in outcomes:
        sender.outbox.add(one)
    sender.outbox.flush()
    assert sender.connection.names() == [["finish_with_results", "finish_with_outputs"]]
    assert sender.jobs() == {
        "jobs_processed": 3,
        "jobs_expired": 1,
        "jobs_cancelled": 1,
        "replies_dropped": 1,
        "jobs_lost": 1,
    }
    assert sender.outbox.ids() == []


def test_an_output_that_its_stream_never_takes_makes_its_message_a_dead_letter() -> None:
    never = b"ERR the key 'next' is no stream, which never takes an entry"
    given_up: list[str] = []

    def give_up(one: Finish, why: str) -> Outcome:
        given_up.append(f"{one.id}: {why}")
        return Bury(one.id, "", METADATA, Answer())

    sender = Sender(settled(never, 1), settled(1), give_up=give_up)
    for one in (emitting("1-0"), emitting("2-0")):
        sender.outbox.add(one)
    sender.outbox.flush()
    sender.outbox.flush()
    assert sender.connection.names() == [["finish_with_outputs"], ["bury"]]
    assert "1-0: " in given_up[0]
    assert "'next' is no stream" in given_up[0]
    assert sender.jobs() == {"jobs_processed": 1, "jobs_dead": 1}


def test_parts_have_few_entries_however_many_a_message_emits() -> None:
    finishes = [emitting(f"{n}-0", count=9) for n in range(25)]
    finishes[12] = emitting("12-0", count=1000)
    assert [len(part) for part in chunks_of_outputs(finishes, ())] == [10, 2, 1, 10, 2]
    alone = {"3-0"}
    assert [len(part) for part in chunks_of_outputs(finishes[:6], alone)] == [3, 1, 2]
    assert MOST_OUTCOMES == 100


def test_a_stream_that_the_worker_may_not_write_to_holds_up_no_other_message(
    own_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """The replies are dropped. Only those count that were the reason, not what was emitted."""
    caplog.set_level(logging.ERROR)
    with redis.Redis.from_url(own_server.url, protocol=2) as client:
        client.xgroup_create(CALLER.stream, "unused", mkstream=True)
        own = ["~jobs", "~{jobs}:workers:*", "~{jobs}:cancelled", "~{jobs}:scheduled"]
        keys = [*own, "~results", "~{jobs}:next"]
        client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", *keys, "+@all")
        url = own_server.url.replace("redis://", "redis://worker:pw@")
        with closing(make_connection(url)) as connection:
            worker = Worker(connection, "w1")
            ids = worker.publish(*[[b"n", b"%d" % n] for n in range(7)])
            worker.read()
            buried = Bury(ids[3], "", METADATA, result("dead")._replace(address=CALLER))
            sender = Sender(
                connection=connection,
                give_up=lambda one, why: Bury(one.id, "", METADATA, Answer()),
            )
            sender.outbox._commands = worker.commands
            allowed, denied = emitting(ids[0]), emitting(ids[1], "secret")
            for one in (
                allowed,
                denied,
                replying(ids[2]),
                buried,
                Finish(ids[4], status="expired"),
                emitting(ids[5], address=CALLER),
                emitting(ids[6], "secret", address=CALLER),
            ):
                sender.outbox.add(one)
            for _ in range(10):
                try:
                    sender.outbox.flush()
                except RedisAccessDenied:
                    continue
                break
        assert sender.outbox.ids() == []
        admin = GroupAdmin(client)
        assert (admin.bodies(), len(admin.dead())) == ([], 3)
        assert client.xlen("{jobs}:next") == 2
        assert client.xlen(CALLER.stream) == 0
        assert client.exists("secret") == 0
    assert sender.jobs() == {
        "jobs_processed": 3,
        "jobs_expired": 1,
        "jobs_dead": 3,
        "replies_dropped": 3,
    }
    assert "cannot be written to the reply stream of its caller" in caplog.text
