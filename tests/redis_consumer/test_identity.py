"""Claiming a consumer's name: free, in use by the living, left by the dead."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from protocol_client import LEASE_MS, GroupAdmin, Worker

from shared_sync.connection.connection import Connection
from shared_sync.errors import ConsumerIdInUse
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.protocol.replies import NameClaimed
from shared_sync.redis_consumer import identity
from shared_sync.redis_consumer.server_clock import ServerClock

LOGGER = logging.getLogger("tests.name")
ELSEWHERE = replace(ProcessIdentity.here(), host="gpu-7", pid=4711, machine="another").text()


class Waits:
    """Stands in for the wait between two tries: something happens in it, and time passes."""

    def __init__(self, *happens: Callable[[], object]) -> None:
        self.happens = list(happens)
        self.seconds: list[float] = []
        self.now = 0.0

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        self.now += seconds
        if self.happens:
            self.happens.pop(0)()
        return False

    def clock(self) -> float:
        return self.now


@pytest.fixture
def newcomer(connection: Connection, worker: Worker) -> Worker:
    """Wants the name that `worker` has, which lives elsewhere."""
    claim_as(worker, ELSEWHERE)
    return Worker(connection, "w1", identity="newcomer", sends_heartbeat=False)


def claim_as(worker: Worker, text: str) -> None:
    """Let another process have the name of a worker."""
    worker.leave()
    worker.commands = replace(worker.commands, identity=text)
    assert worker.claim() is None


def claim(
    newcomer: Worker, waits: Callable[[float], bool], **options: Callable[[], float]
) -> NameClaimed | None:
    options.setdefault("server_clock", ServerClock())
    return identity.claim(newcomer.connection, newcomer.commands, LOGGER, give_up=waits, **options)


def test_a_free_name_is_claimed_at_once_and_since_when_is_known(
    connection: Connection, admin: GroupAdmin
) -> None:
    waits = Waits()
    begun = admin.now_ms()
    claimed = claim(Worker(connection, "new", sends_heartbeat=False), waits)
    assert claimed is not None
    assert begun <= claimed.since_ms <= admin.now_ms()
    assert claimed.before is None, "nobody is on record"
    assert waits.seconds == []


def test_ones_own_name_is_claimed_again(worker: Worker) -> None:
    claimed = claim(worker, Waits())
    assert claimed is not None
    assert claimed.before == worker.commands.identity.encode()


def test_a_process_that_sends_a_heartbeat_meanwhile_is_alive_and_named(
    worker: Worker, newcomer: Worker, admin: GroupAdmin
) -> None:
    with pytest.raises(ConsumerIdInUse, match="process 4711 on gpu-7") as caught:
        claim(newcomer, Waits(lambda: admin.pass_ms(2), worker.heartbeat))
    assert (caught.value.consumer_id, caught.value.host, caught.value.pid) == ("w1", "gpu-7", 4711)


def test_the_name_of_a_dead_process_is_free_when_its_lease_ends(
    newcomer: Worker, admin: GroupAdmin
) -> None:
    waits = Waits(lambda: None, lambda: admin.end_lease("w1"))
    claimed = claim(newcomer, waits)
    assert claimed is not None
    assert claimed.before == ELSEWHERE.encode()
    assert len(waits.seconds) == 2


def test_a_lease_that_was_prolonged_after_it_ended_is_no_sign_of_life(
    newcomer: Worker, admin: GroupAdmin
) -> None:
    """As after an outage, when nobody is judged for a while."""
    waits = Waits(
        lambda: admin.set_lease("w1", 500),
        lambda: admin.pass_ms(501) or admin.set_lease("w1", 5000),
        lambda: admin.end_lease("w1"),
    )
    assert claim(newcomer, waits)
    assert len(waits.seconds) == 3


def test_a_process_that_is_known_to_have_ended_loses_its_name_at_once(
    connection: Connection, worker: Worker
) -> None:
    claim_as(worker, replace(ProcessIdentity.here(), started="1").text())
    waits = Waits()
    assert claim(Worker(connection, "w1", identity="newcomer", sends_heartbeat=False), waits)
    assert waits.seconds == []


def test_it_waits_for_one_lease_at_most(newcomer: Worker, admin: GroupAdmin) -> None:
    admin.set_lease("w1", 10 * LEASE_MS)
    waits = Waits()
    with pytest.raises(ConsumerIdInUse):
        claim(newcomer, waits, clock=waits.clock)
    assert LEASE_MS / 1000 <= waits.now < LEASE_MS / 1000 + 2


def test_a_process_whose_identity_is_unknown_is_waited_for_too(
    newcomer: Worker, admin: GroupAdmin
) -> None:
    admin.client.delete(admin.keys.holders)
    assert claim(newcomer, Waits(lambda: admin.end_lease("w1")))
    admin.client.hset(admin.keys.holders, "w1", "written by a stranger")
    admin.set_lease("w1", 1000)
    with pytest.raises(ConsumerIdInUse, match="another process"):
        claim(newcomer, Waits(lambda: admin.set_lease("w1", 2000)))


def test_the_wait_ends_when_the_name_is_not_wanted_any_more(
    newcomer: Worker, admin: GroupAdmin
) -> None:
    assert claim(newcomer, lambda _seconds: True) is None
    assert admin.client.hget(admin.keys.holders, "w1") == ELSEWHERE.encode()


def test_a_consumer_here_is_named_with_this_process(
    connection: Connection, worker: Worker, admin: GroupAdmin
) -> None:
    claim_as(worker, ProcessIdentity.here().text())
    newcomer = Worker(connection, "w1", sends_heartbeat=False)
    with pytest.raises(ConsumerIdInUse, match=f"process {os.getpid()} on"):
        claim(newcomer, Waits(lambda: admin.pass_ms(2), worker.heartbeat))
