"""Readers take turns at recovery: in time, in steps that pace themselves, one at a time."""

from __future__ import annotations

import pytest
from helpers import Clock
from readers import entries, suspect
from recoveries import LEFT, Reply, Scene

from shared_sync.redis_consumer.recovery import (
    BUSY_SECONDS,
    FRUITLESS_SECONDS,
    INTERVAL_SECONDS,
    SCAN_WAIT_SECONDS,
    SPACING_SECONDS,
)


@pytest.fixture
def scene(clock: Clock) -> Scene:
    return Scene(clock)


# --- turns ------------------------------------------------------------------------------------


def test_there_is_a_turn_at_once_for_one_reader_and_the_next_one_after_the_interval(
    scene: Scene, clock: Clock
) -> None:
    assert [scene.recovery.take_turn() for _ in range(3)] == [True, False, False]
    clock.now += 0.9 * INTERVAL_SECONDS
    assert not scene.recovery.take_turn()
    clock.now += 0.1 * INTERVAL_SECONDS
    assert [scene.recovery.take_turn() for _ in range(2)] == [True, False]


def test_the_turns_of_many_processes_do_not_stay_together(scene: Scene) -> None:
    scene.chance = 0.5
    assert scene.recovery.take_turn()
    assert INTERVAL_SECONDS < scene.next_turn_in() <= 2 * INTERVAL_SECONDS


def test_a_turn_comes_earlier_and_never_later_when_something_falls_due(scene: Scene) -> None:
    assert scene.recovery.take_turn()
    scene.recovery.due_in(0.3)
    assert scene.next_turn_in() == pytest.approx(0.3)
    scene.recovery.due_in(5.0)
    assert scene.next_turn_in() == pytest.approx(0.3)


def test_turns_that_fall_due_keep_a_distance_so_that_many_retries_come_together(
    scene: Scene, clock: Clock
) -> None:
    assert scene.recovery.take_turn()
    scene.recovery.due_in(0.0)
    assert not scene.recovery.take_turn()
    assert scene.next_turn_in() == pytest.approx(SPACING_SECONDS)
    clock.now += SPACING_SECONDS * 1.01
    assert scene.recovery.take_turn()


def test_one_idle_reader_wakes_for_a_turn_that_comes_with_time_and_the_others_need_not(
    scene: Scene, clock: Clock
) -> None:
    assert scene.recovery.take_turn()
    one, other, third = object(), object(), object()
    assert scene.recovery.wait_seconds(one, 2.0) == pytest.approx(INTERVAL_SECONDS)
    assert scene.recovery.wait_seconds(other, 2.0) == 2.0
    scene.recovery.woke(other)
    assert scene.recovery.wait_seconds(third, 2.0) == 2.0, "the one still waits for it"
    scene.recovery.woke(one)
    clock.now += 0.25 * INTERVAL_SECONDS
    assert scene.recovery.wait_seconds(third, 2.0) == pytest.approx(0.75 * INTERVAL_SECONDS)


def test_all_idle_readers_wake_when_something_falls_due(scene: Scene) -> None:
    """There may be a message for each of them."""
    assert scene.recovery.take_turn()
    assert scene.recovery.wait_seconds(object(), 2.0) == pytest.approx(INTERVAL_SECONDS)
    scene.recovery.due_in(0.2)
    waits = [scene.recovery.wait_seconds(object(), 2.0) for _ in range(3)]
    assert waits == pytest.approx([0.2] * 3)


def test_while_one_reader_scans_idle_ones_wait_a_moment_only(scene: Scene) -> None:
    """It may find more than it takes."""
    assert scene.recovery.take_turn()
    with scene.recovery.scan(scene.exchange(Reply()), most=1):
        assert scene.recovery.wait_seconds(object(), 0.9) == SCAN_WAIT_SECONDS
    assert scene.recovery.wait_seconds(object(), 0.9) == 0.9


def test_nobody_waits_longer_than_asked_for_and_a_turn_that_is_overdue_not_at_all(
    scene: Scene, clock: Clock
) -> None:
    assert scene.next_turn_in() == 0.0
    clock.now += 5
    assert scene.next_turn_in() == 0.0
    assert scene.recovery.take_turn()
    assert scene.recovery.wait_seconds(object(), 0.05) == 0.05


# --- pacing -----------------------------------------------------------------------------------


def test_while_the_dead_have_left_messages_the_next_turn_comes_soon(scene: Scene) -> None:
    found = scene.turn(Reply([suspect("1-0", 1, LEFT)], more=True))
    assert [(entry.id, entry.crashes, entry.left_by) for entry in found] == [("1-0", 1, LEFT)]
    assert scene.next_turn_in() == pytest.approx(BUSY_SECONDS)


def test_while_more_is_due_the_next_turn_comes_at_once(scene: Scene) -> None:
    assert len(scene.turn(Reply(entries("1-0", "2-0"), more=True))) == 2
    assert scene.next_turn_in() == 0.0
    assert scene.turn(Reply(lost_bodies=3, more=True)) == []
    assert scene.next_turn_in() == 0.0


def test_where_nothing_more_is_left_the_next_turn_comes_after_the_interval(scene: Scene) -> None:
    scene.turn(Reply(entries("1-0")))
    assert scene.next_turn_in() == pytest.approx(INTERVAL_SECONDS)


def test_the_next_turn_comes_when_a_parked_message_is_due(scene: Scene) -> None:
    scene.turn(Reply(next_due_ms=250))
    assert scene.next_turn_in() == pytest.approx(0.25)


def test_steps_that_find_nothing_where_there_is_more_come_less_and_less_often(
    scene: Scene, clock: Clock
) -> None:
    pauses = []
    for _ in range(8):
        scene.turn(Reply(more=True))
        pauses.append(scene.next_turn_in())
        clock.now += pauses[-1] + 0.001
    assert pauses[:4] == pytest.approx([FRUITLESS_SECONDS * 2**n for n in range(4)])
    assert pauses[-1] == pytest.approx(INTERVAL_SECONDS)
    scene.turn(Reply(entries("1-0"), more=True))
    scene.turn(Reply(more=True))
    assert scene.next_turn_in() == pytest.approx(FRUITLESS_SECONDS), "one that found some"
