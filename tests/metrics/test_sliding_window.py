"""What a window of slices keeps, and how much counters have grown within it."""

from __future__ import annotations

import pytest

from shared_sync.metrics.counter_window import CounterWindow
from shared_sync.metrics.sliding_window import SLICES, SlidingWindow


def test_slices_end_at_multiples_of_a_tenth_of_the_window() -> None:
    window: SlidingWindow[str] = SlidingWindow(100.0)
    ends = [window.end_of_slice(now) for now in (0.0, 9.9, 10.0, 123.0)]
    assert ends == [10.0, 10.0, 20.0, 130.0]


def test_slices_expire_oldest_first_once_they_have_left_the_window() -> None:
    window: SlidingWindow[str] = SlidingWindow(100.0)
    for ended_at, content in ((10.0, "a"), (20.0, "b"), (30.0, "c")):
        window.add(ended_at, content)
    assert window.expire(109.9) == ()
    assert window.expire(120.0) == ((10.0, "a"), (20.0, "b"))
    assert window.expire(120.0) == ()
    assert window.slices == ((30.0, "c"),)


@pytest.mark.parametrize(("now", "within"), [(10.0, True), (109.9, True), (110.0, False)])
def test_a_slice_is_within_the_window_until_the_window_begins_at_its_end(
    now: float, within: bool
) -> None:
    assert SlidingWindow[str](100.0).is_within(10.0, now) is within


def test_a_copy_of_a_window_stays_as_it_is() -> None:
    window: SlidingWindow[str] = SlidingWindow(100.0)
    window.add(10.0, "a")
    copy = window.copy()
    window.add(20.0, "b")
    window.expire(1000.0)
    assert copy.slices == ((10.0, "a"),)
    assert copy.end_of_slice(0.0) == 10.0
    assert copy.is_within(10.0, 109.9)


def test_counters_stood_at_zero_in_the_beginning() -> None:
    counters: CounterWindow[str] = CounterWindow(100.0, now=5.0)
    assert counters.base(5.0) == (5.0, {})
    counters.add(15.0, {"sent": 3})
    assert counters.base(114.9) == (5.0, {})


def test_the_base_is_the_newest_total_that_is_a_window_old() -> None:
    counters: CounterWindow[str] = CounterWindow(100.0, now=0.0)
    for ten in range(1, 30):
        counters.add(ten * 10.0, {"sent": ten})
    assert counters.base(290.0) == (190.0, {"sent": 19})
    assert counters.base(299.9) == (190.0, {"sent": 19})
    assert counters.base(300.0) == (200.0, {"sent": 20})
    assert counters.base(10_000.0) == (290.0, {"sent": 29})


def test_totals_are_due_once_in_a_slice() -> None:
    counters: CounterWindow[str] = CounterWindow(100.0, now=0.0)
    assert [counters.is_due(now) for now in (0.0, 9.9, 10.0)] == [False, False, True]
    counters.add(12.0, {})
    assert [counters.is_due(now) for now in (12.0, 21.9, 22.0)] == [False, False, True]


def test_a_counter_window_keeps_a_bounded_number_of_totals() -> None:
    counters: CounterWindow[str] = CounterWindow(100.0, now=0.0)
    for ten in range(1, 1000):
        counters.add(ten * 10.0, {})
        assert len(counters._window.slices) <= SLICES
