"""A detector on a clock that is set by hand, and a real one in a busy interpreter."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from helpers import Clock, eventually, in_a_fork

from shared_sync.metrics.sliding_window import SLICES
from shared_sync.metrics.stall_detector import StallDetector

WITHIN = 20  # seconds for what should be there at once


@pytest.fixture
def detector(clock: Clock) -> StallDetector:
    return StallDetector(period_seconds=0.1, window_seconds=300.0, clock=clock)


def threads() -> set[threading.Thread]:
    return {
        thread for thread in threading.enumerate() if thread.name == "shared-sync-stall-detector"
    }


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    gc.collect()  # the metrics of other tests in this process stop their threads only then
    for thread in threads():
        thread.join(WITHIN)
    before = threads()
    yield
    for thread in threads() - before:
        thread.join(WITHIN)
    assert threads() <= before


# --- how late it is ---------------------------------------------------------------------------


def test_nothing_is_known_before_the_start(detector: StallDetector) -> None:
    assert detector.stall_seconds() is None


def test_who_wakes_in_time_or_early_was_never_late(detector: StallDetector, clock: Clock) -> None:
    for pause in (0.0, 0.1, 0.05, 0.1):
        clock.now += pause
        detector.note(clock.now)
        assert detector.stall_seconds() == pytest.approx(0.0)


def test_the_worst_lateness_is_remembered(detector: StallDetector, clock: Clock) -> None:
    for pause in (0.0, 0.1, 1.6, 0.1, 0.8):
        clock.now += pause
        detector.note(clock.now)
    assert detector.stall_seconds() == pytest.approx(1.5)


def test_a_lateness_that_goes_on_counts_already(detector: StallDetector, clock: Clock) -> None:
    detector.note(clock.now)
    clock.now += 0.1
    assert detector.stall_seconds() == pytest.approx(0.0)
    clock.now += 7
    assert detector.stall_seconds() == pytest.approx(7.0)


def test_a_stall_is_forgotten_after_the_window_and_at_most_a_tenth_more(
    detector: StallDetector, clock: Clock
) -> None:
    def tick_until(moment: float) -> None:
        while clock.now < moment:
            clock.now = min(moment, clock.now + 0.1)
            detector.note(clock.now)

    detector.note(clock.now)
    clock.now += 2.1
    detector.note(clock.now)
    stalled = clock.now
    tick_until(stalled + 300)
    assert detector.stall_seconds() == pytest.approx(2.0)
    tick_until(stalled + 330.1)
    assert detector.stall_seconds() == pytest.approx(0.0, abs=1e-6)


def test_a_stall_longer_than_the_window_is_reported_whole(
    detector: StallDetector, clock: Clock
) -> None:
    detector.note(clock.now)
    clock.now += 1000.1
    detector.note(clock.now)
    assert detector.stall_seconds() == pytest.approx(1000.0)


def test_memory_is_bounded_however_long_it_runs(detector: StallDetector, clock: Clock) -> None:
    for _ in range(1000):
        clock.now += 30
        detector.note(clock.now)
    assert len(detector._delays.get().window.slices) == SLICES


# --- the call about once a second -------------------------------------------------------------


def test_the_call_comes_once_a_second_and_never_faster(clock: Clock) -> None:
    calls: list[float] = []
    detector = StallDetector(lambda: calls.append(clock.now), clock=clock)
    for _ in range(60):
        detector._tick()
        clock.now += 0.0625
    assert calls == [100.0, 101.0, 102.0, 103.0]


def test_what_the_call_raises_is_logged_once_and_stops_nothing(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise SystemExit("nonsense")

    detector = StallDetector(fail, clock=clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            detector._tick()
            clock.now += 1
    assert calls == 3
    (record,) = caplog.records
    assert "fail" in record.getMessage()
    assert record.exc_info is not None


def test_the_time_the_call_takes_is_no_stall(clock: Clock) -> None:
    seen: list[float | None] = []

    def slow() -> None:
        clock.now += 5
        seen.append(detector.stall_seconds())

    detector = StallDetector(slow, clock=clock)
    detector._tick()
    assert seen == [0.0]
    assert detector.stall_seconds() == 0.0
    clock.now += 0.1
    assert detector.stall_seconds() == pytest.approx(0.0)
    clock.now += 3
    assert detector.stall_seconds() == pytest.approx(3.0)


def test_a_method_is_not_kept_alive_by_being_called(clock: Clock) -> None:
    class Owner:
        calls: list[str] = []  # noqa: RUF012 - outlives the owner

        def tick(self) -> None:
            self.calls.append("tick")

    owner = Owner()
    gone = weakref.ref(owner)
    detector = StallDetector(owner.tick, clock=clock)
    detector._tick()
    del owner
    gc.collect()
    assert gone() is None
    clock.now += 1
    detector._tick()
    assert Owner.calls == ["tick"]


# --- real threads -----------------------------------------------------------------------------


def keep_the_interpreter_busy(seconds: float) -> float:
    """Stay in one call into C, which lets no other thread run; how long it took."""
    size, took = 10**6, 0.0
    while took < seconds:
        size *= 2
        began = time.monotonic()
        sum(range(size))
        took = time.monotonic() - began
    return took


def test_a_call_that_holds_the_gil_shows_as_a_stall() -> None:
    detector = StallDetector(period_seconds=0.01)
    detector.start()
    try:
        eventually(lambda: detector.stall_seconds() is not None, within=WITHIN)
        took = keep_the_interpreter_busy(0.4)
        stall = detector.stall_seconds()
    finally:
        detector.stop()
    assert stall is not None
    assert stall > took - 0.1


def test_it_starts_once_calls_and_stops_at_once_and_for_good() -> None:
    called = threading.Event()
    detector = StallDetector(called.set, period_seconds=60)
    before = threads()
    for _ in range(3):
        detector.start()
    assert called.wait(WITHIN)
    (thread,) = threads() - before
    detector.stop()
    thread.join(WITHIN)
    assert not thread.is_alive()
    detector.stop()
    detector.start()
    assert threads() - before == set()


def test_many_who_start_it_at_once_start_one_thread() -> None:
    detector = StallDetector(period_seconds=60)
    all_here = threading.Barrier(8)

    def start() -> None:
        all_here.wait(WITHIN)
        detector.start()

    starters = [threading.Thread(target=start) for _ in range(8)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(WITHIN)
    assert len(threads()) == 1
    detector.stop()


def test_after_a_stop_the_lateness_no_longer_grows_and_is_forgotten_in_time(
    detector: StallDetector, clock: Clock
) -> None:
    detector.note(clock.now)
    clock.now += 2.1
    detector.note(clock.now)
    detector.stop()
    clock.now += 50
    assert detector.stall_seconds() == pytest.approx(2.0)
    clock.now += 300
    assert detector.stall_seconds() == 0.0


def test_a_stop_before_the_start_is_not_forgotten() -> None:
    detector = StallDetector()
    detector.stop()
    detector.start()
    assert threads() == set()
    assert detector.stall_seconds() is None


def test_a_thread_that_the_system_refuses_may_be_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = StallDetector()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            detector.start()
    detector.start()
    eventually(lambda: detector.stall_seconds() is not None, within=WITHIN)
    detector.stop()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_knows_nothing_of_its_parents_and_starts_its_own() -> None:
    called = threading.Event()
    detector = StallDetector(called.set)
    detector.start()
    assert called.wait(WITHIN)

    def live_in_the_child() -> None:
        assert detector.stall_seconds() is None
        detector.start()
        eventually(lambda: detector.stall_seconds() is not None, within=WITHIN)
        (thread,) = threads()
        detector.stop()
        thread.join(WITHIN)
        assert not thread.is_alive()

    in_a_fork(live_in_the_child)
    assert len(threads()) == 1
    detector.stop()
