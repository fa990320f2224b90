"""Many threads, signal handlers and forks use one registry, and nothing is lost."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from types import FrameType
from typing import Any

import pytest
from helpers import Clock, in_a_fork

from shared_sync.metrics import WorkerMetrics
from shared_sync.metrics.histogram import SlidingHistogram

# Signal handlers, forks and the background thread


def test_a_finalizer_or_signal_handler_may_record_and_read_while_its_thread_does(
    metrics: WorkerMetrics,
) -> None:
    """They run in the middle of anything; here in each call that a recording or reading makes."""
    metrics.alert("level", above=1)
    metrics.increment_counter("sent")
    within = False

    def interrupt(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal within
        if event == "call" and not within:
            within = True
            metrics.increment_counter("interruptions")
            metrics.set_gauge(f"gauge_{number}", 1)
            metrics.get_basic_health_data()
            within = False

    before = sys.getprofile()
    for number in range(3):
        sys.setprofile(interrupt)
        try:
            metrics.record_duration(f"work_{number}", 1)
            metrics.get_basic_health_data()
        finally:
            sys.setprofile(before)
    assert metrics.get_metrics_data()["interruptions"] > 100


def test_alerts_and_rates_are_kept_up_also_while_nobody_reads() -> None:
    """By the background thread, which the first reading has started."""
    metrics = WorkerMetrics("w", window_seconds=1.0)
    metrics.alert("level", above=1, for_seconds=0)
    metrics.get_metrics_data()
    judged = threading.Event()
    metrics._alerts.check = lambda _data, _now: judged.set() or []  # type: ignore[func-returns-value,method-assign]
    assert judged.wait(15)


def test_a_forked_process_records_and_reads_although_a_lock_was_held() -> None:
    metrics = WorkerMetrics("w")
    metrics.increment_counter("sent")

    def record_and_read() -> None:
        metrics.increment_counter("sent")
        assert metrics.get_metrics_data()["sent"] == 2
        assert metrics.get_alerts()[0]["value"] == 2

    metrics.alert("sent", above=100)
    with metrics._lock, metrics._alerts._lock:
        in_a_fork(record_and_read)
    assert metrics.get_metrics_data()["sent"] == 1


def test_without_more_threads_the_metrics_are_shown_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    metrics = WorkerMetrics("w")
    metrics.increment_counter("sent")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    data = metrics.get_metrics_data()
    assert (data["sent"], data["interpreter_stall_ms"]) == (1, None)


def test_a_registry_that_is_dropped_leaves_no_thread_behind() -> None:
    metrics = WorkerMetrics("w")
    before = set(threading.enumerate())
    metrics.get_metrics_data()
    (detector,) = set(threading.enumerate()) - before
    reference = weakref.ref(metrics)
    del metrics
    gc.collect()
    assert reference() is None
    detector.join(timeout=15)
    assert not detector.is_alive()


# Threads


def test_eight_threads_lose_nothing_and_a_reader_never_sees_half(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    rounds, threads = 35_000, 8  # of three recordings and more each
    names = [f"t{number}" for number in range(threads)]
    ready = threading.Barrier(threads + 1)

    def write(number: int) -> None:
        ready.wait(timeout=30)
        for turn in range(rounds):
            metrics.increment_counter("jobs_processed")
            metrics.record_duration("work", 0.001 * (turn % 1000))
            metrics.increment_counter("words", labels={"thread": names[number]})
            if turn % 100 == 0:
                metrics.record_error(ValueError)
                metrics.record_batch(counters={"batches": 1}, durations={"batch": [0.5, 0.5]})
            if number == 0 and turn % 200 == 0:
                clock.now += 7  # so that slices turn and expire while others write

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for writer in writers:
        writer.start()
    ready.wait(timeout=30)
    seen = 0
    while any(writer.is_alive() for writer in writers):
        snapshot = metrics.snapshot()
        for name in snapshot.durations:
            work = snapshot.whole(name)
            for part in (work.recent, work.lifetime):
                assert part.count == part.up_to([10**6])[0]
                if name == "batch":
                    assert part.total == part.count * 0.5, "count and sum are of one moment"
        if "work" in snapshot.durations:
            count = snapshot.whole("work").lifetime.count
            assert seen <= count
            # A writer is at most one call ahead with its counter, and one behind with the next.
            assert 0 <= snapshot.total("jobs_processed") - count <= threads
            assert 0 <= count - snapshot.total("words") <= threads
            seen = count
        if "batch" in snapshot.durations:
            assert 2 * snapshot.total("batches") == snapshot.whole("batch").lifetime.count
    for writer in writers:
        writer.join(timeout=30)

    snapshot = metrics.snapshot()
    whole = snapshot.whole("work").lifetime
    assert snapshot.total("jobs_processed") == snapshot.total("words") == rounds * threads
    assert [part.total for part in snapshot.counters["words"].values()] == [rounds] * threads
    assert snapshot.errors_by("type") == {"ValueError": rounds * threads // 100}
    assert whole.count == whole.up_to([10**6])[0] == rounds * threads
    assert whole.total == pytest.approx(threads * rounds * 0.4995)
    assert (whole.low, whole.high) == (0.0, 0.999)


def test_shared_state_is_touched_only_under_the_lock(
    metrics: WorkerMetrics, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guarded(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            assert metrics._lock._is_owned()
            return super().__getitem__(name)

        def __setitem__(self, name: str, value: Any) -> None:
            assert metrics._lock._is_owned()
            super().__setitem__(name, value)

        def copy(self) -> dict[str, Any]:
            assert metrics._lock._is_owned()
            return super().copy()

        def items(self) -> Any:
            assert metrics._lock._is_owned()
            return super().items()

    class GuardedSeries(SlidingHistogram):
        def __setattr__(self, name: str, value: Any) -> None:
            assert metrics._lock._is_owned()
            super().__setattr__(name, value)

    monkeypatch.setattr("shared_sync.metrics.series.SlidingHistogram", GuardedSeries)
    for name in ("_counters", "_gauges", "_durations"):
        monkeypatch.setattr(metrics, name, Guarded())
    for _ in range(2):
        for labels in (None, {"language": "en"}):
            metrics.increment_counter("jobs_sent", labels=labels)
            metrics.set_gauge("level", 1, labels)
            metrics.adjust_gauge("level", 1, labels)
            metrics.record_duration("work", 1, labels)
            metrics.record_batch(durations={"work": [1.0]}, labels=labels)
        metrics.record_error(ValueError)
        clock.now += 1000
    assert metrics.get_metrics_data()["work_count"] == 8


def test_nothing_is_called_while_a_recording_holds_the_lock(metrics: WorkerMetrics) -> None:
    def record() -> None:
        metrics.increment_counter("jobs_sent")
        metrics.set_gauge("level", 1.5)
        metrics.record_duration("work", 1.5)
        metrics.increment_counter("words", labels={"language": "en"})
        metrics.record_duration("words_time", 1.5, {"language": "en"})

    called = set()

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event in ("call", "c_call") and metrics._lock._is_owned():
            called.add(function.__name__ if event == "c_call" else frame.f_code.co_name)

    record()
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        record()
    finally:
        sys.setprofile(before)
    assert called <= {"__exit__"}  # of the lock itself
