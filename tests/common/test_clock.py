"""The stall-tolerant clock keeps pace with the time, and counts a stall as one step."""

from __future__ import annotations

from helpers import Clock, Interrupted

from shared_sync.common.clock import StallTolerantClock


def test_the_clock_keeps_pace_with_the_time() -> None:
    clock = Clock()
    tolerant = StallTolerantClock(0.5, clock)
    readings = []
    for _ in range(8):
        clock.now += 0.25
        readings.append(tolerant.advance())
        assert tolerant() == readings[-1]
    assert readings == [0.25 * step for step in range(1, 9)]


def test_the_clock_stands_still_between_two_calls() -> None:
    clock = Clock()
    tolerant = StallTolerantClock(0.5, clock)
    clock.now += 0.25
    assert tolerant() == 0.0


def test_a_stall_counts_as_a_single_step() -> None:
    clock = Clock()
    tolerant = StallTolerantClock(0.5, clock)
    clock.now += 3600.0
    assert tolerant.advance() == 0.5
    clock.now += 0.25
    assert tolerant.advance() == 0.75


def test_the_clock_never_runs_backwards_when_a_signal_handler_advances_it() -> None:
    clock = Interrupted()
    tolerant = StallTolerantClock(0.5, clock)

    def handler() -> None:
        before = clock.now
        clock.now += 0.25
        assert tolerant.advance() == 0.25
        clock.now = before  # what the interrupted call has read

    clock.handler = handler
    assert tolerant.advance() == 0.25
    clock.now += 0.25
    assert tolerant.advance() == 0.25
    clock.now += 0.25
    assert tolerant.advance() == 0.5
