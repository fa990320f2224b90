"""One reader looks for suspects at a time, and each step goes on where the last one ended."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import Clock
from protocol_client import KEYS
from readers import add_slot, entries, start, suspect
from recoveries import LEFT, Reply, Scene

from shared_sync.errors import RedisUnavailable
from shared_sync.protocol.keys import PARKED
from shared_sync.protocol.messages import LostEntry
from shared_sync.protocol.scan import START, Position, Predecessor
from shared_sync.redis_consumer.lost_replies import MOST_LOST_ALONE
from shared_sync.redis_consumer.recovery import (
    BUSY_SECONDS,
    INTERVAL_SECONDS,
    MOST_FOREIGN,
    NEVER_MS,
)


@pytest.fixture
def scene(clock: Clock) -> Scene:
    return Scene(clock)


# --- looking for suspects ---------------------------------------------------------------------


def test_while_one_reader_looks_for_suspects_others_take_nothing_that_crashed(
    scene: Scene,
) -> None:
    """What may run beside a message that is coming is not known yet."""
    with scene.recovery.scan(scene.exchange(Reply()), most=1):
        scene.scan()
        scene.scan()
    scene.scan()
    searching, *beside, later = scene.requests
    assert (searching.startable_crashes, searching.looks_at_dead) == (3, True)
    assert [(one.startable_crashes, one.looks_at_dead) for one in beside] == [(0, False)] * 2
    assert later.startable_crashes == 3


def test_while_the_reply_is_on_its_way_others_take_nothing_that_crashed(scene: Scene) -> None:
    def exchange(command: tuple[Any, ...]) -> Any:
        scene.scan()
        return scene.exchange(Reply())(command)

    with scene.recovery.scan(exchange, most=1):
        pass
    beside, searching = scene.requests
    assert (beside.startable_crashes, searching.startable_crashes) == (0, 3)


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), KeyboardInterrupt()])
def test_a_reader_whose_exchange_failed_keeps_nobody_from_looking_for_suspects(
    scene: Scene, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        scene.scan(error)
    scene.scan()
    assert scene.requests[-1].startable_crashes == 3


def test_a_reader_that_failed_to_keep_what_it_found_keeps_nobody_from_looking(
    scene: Scene,
) -> None:
    with pytest.raises(MemoryError), scene.recovery.scan(scene.exchange(Reply()), most=1):
        raise MemoryError
    scene.scan()
    assert scene.requests[-1].startable_crashes == 3


def test_a_reply_that_makes_no_sense_keeps_nobody_from_looking(scene: Scene) -> None:
    with pytest.raises(ValueError, match="unpack"), scene.recovery.scan(lambda _: [1], most=1):
        pass
    scene.scan()
    assert scene.requests[-1].startable_crashes == 3


def test_what_runs_here_says_which_crashes_may_start_and_which_reads_stay_apart(
    scene: Scene,
) -> None:
    slot = add_slot(scene.in_flight, "r1", "2-0")
    slot.waiting.appendleft(suspect("1-0", 1, LEFT))
    start(slot)
    scene.in_flight.add_outbox(KEYS, lambda: ["3-0"])
    scene.scan(most=7)
    (request,) = scene.requests
    assert request.startable_crashes == 1
    assert request.apart == {LEFT}
    assert set(request.in_flight) == {"1-0", "2-0", "3-0"}
    assert (request.max_crashes, request.most, request.own_idle_ms) == (3, 7, 6000)


def test_a_message_that_a_large_reply_is_still_bringing_to_a_sibling_is_not_lost(
    scene: Scene, clock: Clock
) -> None:
    """It would be sent a second time, and run twice."""
    slow = add_slot(scene.in_flight, "r1")
    slow.fetches_since = clock.now
    add_slot(scene.in_flight, "r2").fetches_since = clock.now + 9
    clock.now += 10
    scene.scan()
    slow.fetches_since = None
    scene.scan()
    assert [request.own_idle_ms for request in scene.requests] == [16_000, 7000]


def test_while_a_message_on_its_last_chance_runs_the_dead_are_looked_at_once_a_second(
    scene: Scene, clock: Clock
) -> None:
    """For those that reached the limit, and are only taken to be buried."""
    slot = add_slot(scene.in_flight, "r1")
    slot.waiting.append(suspect("1-0", 2, LEFT))
    start(slot)
    looks = []
    for _ in range(11):
        scene.scan()
        looks.append(scene.requests[-1].looks_at_dead)
        clock.now += INTERVAL_SECONDS / 5 + 0.001
    assert looks == [n % 5 == 0 for n in range(11)]


# --- messages that were lost with a reply -----------------------------------------------------


def lost(delivered_ms: int, *ids: str) -> Reply:
    return Reply(lost=[LostEntry(one, 1, b"", delivered_ms) for one in ids], more=True)


def test_what_was_lost_with_a_reply_is_asked_for_one_at_a_time(scene: Scene) -> None:
    scene.scan(lost(1000, "1-0", "2-0"))
    for message_id in ("1-0", "2-0"):
        assert scene.next_turn_in() <= BUSY_SECONDS
        scene.scan(Reply(entries(message_id), more=True))
    scene.scan()
    assert [one.again for one in scene.requests] == ["", "1-0", "2-0", ""]
    assert scene.given_up == []


def test_a_reader_that_looks_for_no_suspects_asks_for_no_lost_message(scene: Scene) -> None:
    """It may have a crash behind it."""
    scene.scan(lost(1000, "1-0"))
    with scene.recovery.scan(scene.exchange(Reply()), most=1):
        scene.scan()
    assert [one.again for one in scene.requests] == ["", "1-0", ""]


def test_a_message_whose_replies_are_lost_each_time_is_given_up_on(scene: Scene) -> None:
    for number in range(MOST_LOST_ALONE + 1):
        assert scene.given_up == []
        scene.scan(lost(1000 * number, "1-0"))
        if number < MOST_LOST_ALONE:
            with pytest.raises(RedisUnavailable):
                scene.scan(RedisUnavailable("the connection broke"))
    assert [one.id for one in scene.given_up] == ["1-0"]


def test_no_message_is_given_up_on_while_the_connections_of_heartbeats_break_too(
    scene: Scene,
) -> None:
    """Then connections are cut, and those of large replies are the most likely to be."""
    for number in range(3 * MOST_LOST_ALONE):
        scene.scan(lost(1000 * number, "1-0"))
        with pytest.raises(RedisUnavailable):
            scene.scan(RedisUnavailable("the connection broke"))
        if number % (MOST_LOST_ALONE - 1) == 0:
            scene.recovery.heartbeat_broke()
    assert scene.given_up == []


# --- where to look ----------------------------------------------------------------------------


def test_all_places_are_looked_at_once_a_second_and_in_between_only_where_more_was(
    scene: Scene, clock: Clock
) -> None:
    scene.recovery.found_consumers(["stranger"])
    more = Reply(position=Position(own_from="(5-0", foreign_from="(7-0"))
    scene.scan()
    clock.now += 0.1
    scene.scan()
    clock.now += INTERVAL_SECONDS
    for reply in (more, more, Reply(), Reply()):
        scene.scan(reply)
    looked_at = [(one.looks_at_own, list(one.foreign)) for one in scene.requests]
    nowhere, everywhere = (False, []), (True, ["stranger"])
    assert looked_at == [everywhere, nowhere, *[everywhere] * 3, nowhere]


def test_a_step_goes_on_where_the_last_one_ended(scene: Scene) -> None:
    there = Position(3, "(1-0", 2, "(2-0", START)
    assert scene.scan(Reply(position=there)) == []
    scene.scan()
    assert [one.position for one in scene.requests] == [Position(), there]


def test_a_step_beside_another_does_not_say_where_to_go_on(scene: Scene) -> None:
    with scene.recovery.scan(scene.exchange(Reply(position=Position(due_rank=3))), most=1):
        scene.scan(Reply(position=Position(due_rank=99)))
    scene.scan()
    assert scene.requests[-1].position == Position(due_rank=3)


def test_a_place_that_was_not_looked_at_keeps_its_position(scene: Scene) -> None:
    scene.scan(Reply(position=Position(own_from=START)))
    scene.scan(Reply(position=Position(own_from="", dead_rank=1)))
    scene.scan()
    assert scene.requests[-1].position == Position(own_from=START, dead_rank=1)


def test_due_and_left_messages_come_first_in_turn(scene: Scene) -> None:
    for _ in range(4):
        scene.scan()
    assert [one.due_comes_last for one in scene.requests] == [True, False, True, False]


# --- consumers without a lease ----------------------------------------------------------------


def test_consumers_with_pending_messages_are_asked_about_except_the_reserved_one_and_this(
    scene: Scene,
) -> None:
    scene.recovery.found_consumers([PARKED, "w1", "w2", "stranger"])
    scene.scan()
    assert scene.requests[0].foreign == ("w2", "stranger")


def test_of_many_consumers_some_are_asked_about_at_a_time_and_those_that_are_done_come_last(
    scene: Scene, clock: Clock
) -> None:
    names = [f"w{n}" for n in range(2, 2 + MOST_FOREIGN + 10)]
    scene.recovery.found_consumers(names)
    scene.scan(Reply(foreign_done=MOST_FOREIGN))
    clock.now += INTERVAL_SECONDS
    scene.scan(Reply(foreign_done=4))
    clock.now += INTERVAL_SECONDS
    scene.recovery.found_consumers([*names[5:], "new"])
    scene.scan()
    first, second, third = [list(one.foreign) for one in scene.requests]
    assert first == names[:MOST_FOREIGN]
    assert second[:10] == names[MOST_FOREIGN:]
    assert third[:6] == names[MOST_FOREIGN + 4 :]
    assert third[6:] == names[5:MOST_FOREIGN][: MOST_FOREIGN - 6]


# --- what is known of the predecessor, and what is reported -----------------------------------


@pytest.mark.parametrize("predecessor", Predecessor)
def test_what_is_known_of_the_predecessor_and_since_when_the_name_is_claimed_is_said(
    scene: Scene, predecessor: Predecessor
) -> None:
    scene.recovery.name_claimed(1234, predecessor)
    scene.scan()
    (request,) = scene.requests
    assert (request.since_ms, request.predecessor) == (1234, predecessor)


@pytest.mark.parametrize(("seconds", "ms"), [(1.5, 1500), (math.inf, NEVER_MS)])
def test_how_long_messages_of_other_programs_are_left_alone_is_said(
    clock: Clock, seconds: float, ms: int
) -> None:
    scene = Scene(clock, foreign_idle_seconds=seconds)
    scene.scan()
    assert scene.requests[0].foreign_idle_ms == ms


@pytest.fixture
def _listen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, logger="tests.recovery"):
        yield


@pytest.mark.usefixtures("_listen")
def test_what_was_taken_over_and_what_was_lost_is_counted_and_logged(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.scan(Reply([*entries("1-0"), suspect("2-0", 2, LEFT)], lost_bodies=4))
    assert scene.figures.counters == {"jobs_recovered": 1, "lost_bodies": 4}
    assert "message 2-0 taken over from a consumer that left it (delivery 3)" in caplog.messages
    assert "message 1-0" not in caplog.text
    assert "4 pending messages ended" in caplog.text
