"""Taking a consumer's name: free, held by the living, left by the dead."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from protocol_client import LEASE_MS, Looker, Worker

from shared_sync.connection.connection import Connection
from shared_sync.errors import ConsumerIdInUse
from shared_sync.protocol.commands import NameTaken
from shared_sync.protocol.process_identity import Holder
from shared_sync.redis_consumer import identity

LOGGER = logging.getLogger("tests.name")
ELSEWHERE = replace(Holder.here(), host="gpu-7", pid=4711, machine="another").text()


class Waits:
    """Stands in for the wait between two looks: something happens in it, and time passes."""

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
def newcomer(link: Connection, worker: Worker) -> Worker:
    """Wants the name that `worker` has, which lives elsewhere."""
    worker.leave()
    worker.commands = replace(worker.commands, holder=ELSEWHERE)
    worker.take_name()
    return Worker(link, "w1", holder="newcomer", beats=False)


def take(
    newcomer: Worker, waits: Callable[[float], bool], **options: Callable[[], float]
) -> NameTaken | None:
    return identity.take(newcomer.link, newcomer.commands, LOGGER, give_up=waits, **options)


def test_a_free_name_is_taken_at_once_and_the_moment_told(link: Connection, look: Looker) -> None:
    waits = Waits()
    begun = look.now_ms()
    taken = take(Worker(link, "new", beats=False), waits)
    assert taken is not None
    assert begun <= taken.since_ms <= look.now_ms()
    assert taken.before == b""
    assert waits.seconds == []


def test_ones_own_name_is_taken_again(worker: Worker) -> None:
    taken = take(worker, Waits())
    assert taken is not None
    assert taken.before == worker.commands.holder.encode()


def test_a_holder_that_beats_meanwhile_is_alive_and_named(
    worker: Worker, newcomer: Worker, look: Looker
) -> None:
    with pytest.raises(ConsumerIdInUse, match="process 4711 on gpu-7") as caught:
        take(newcomer, Waits(lambda: look.pass_ms(2), worker.beat))
    assert (caught.value.consumer_id, caught.value.host, caught.value.pid) == ("w1", "gpu-7", 4711)


def test_a_dead_holders_name_is_free_when_its_lease_ends(newcomer: Worker, look: Looker) -> None:
    waits = Waits(lambda: None, lambda: look.end_lease("w1"))
    taken = take(newcomer, waits)
    assert taken is not None
    assert taken.before == ELSEWHERE.encode()
    assert len(waits.seconds) == 2


def test_a_lease_that_was_prolonged_after_it_ended_is_no_sign_of_life(
    newcomer: Worker, look: Looker
) -> None:
    """As after an outage, when nobody is judged for a while."""
    waits = Waits(
        lambda: look.set_lease("w1", 500),
        lambda: look.pass_ms(501) or look.set_lease("w1", 5000),
        lambda: look.end_lease("w1"),
    )
    assert take(newcomer, waits)
    assert len(waits.seconds) == 3


def test_a_process_that_is_known_to_be_gone_loses_its_name_at_once(
    link: Connection, worker: Worker
) -> None:
    dead = replace(Holder.here(), started="1").text()
    worker.leave()
    worker.commands = replace(worker.commands, holder=dead)
    worker.take_name()
    waits = Waits()
    assert take(Worker(link, "w1", holder="newcomer", beats=False), waits)
    assert waits.seconds == []


def test_it_waits_for_one_lease_at_most(newcomer: Worker, look: Looker) -> None:
    look.set_lease("w1", 10 * LEASE_MS)
    waits = Waits()
    with pytest.raises(ConsumerIdInUse):
        take(newcomer, waits, clock=waits.clock)
    assert LEASE_MS / 1000 <= waits.now < LEASE_MS / 1000 + 2


def test_a_holder_that_does_not_tell_who_it_is_is_waited_for_too(
    newcomer: Worker, look: Looker
) -> None:
    look.client.delete(look.keys.holders)
    assert take(newcomer, Waits(lambda: look.end_lease("w1")))
    look.client.hset(look.keys.holders, "w1", "written by a stranger")
    look.set_lease("w1", 1000)
    with pytest.raises(ConsumerIdInUse, match="another process"):
        take(newcomer, Waits(lambda: look.set_lease("w1", 2000)))


def test_the_wait_ends_when_the_name_is_not_wanted_any_more(newcomer: Worker, look: Looker) -> None:
    assert take(newcomer, lambda _seconds: True) is None
    assert look.client.hget(look.keys.holders, "w1") == ELSEWHERE.encode()


def test_a_consumer_here_is_named_with_this_process(
    link: Connection, worker: Worker, look: Looker
) -> None:
    here = Holder.here().text()
    worker.leave()
    worker.commands = replace(worker.commands, holder=here)
    worker.take_name()
    with pytest.raises(ConsumerIdInUse, match=f"process {os.getpid()} on"):
        take(Worker(link, "w1", beats=False), Waits(lambda: look.pass_ms(2), worker.beat))
