"""Rates, ratios and the error rate cover the window; a snapshot stays as it is."""

from __future__ import annotations

import pytest
from helpers import Clock

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import WorkerMetrics


def test_a_rate_is_the_growth_within_the_window(metrics: WorkerMetrics, clock: Clock) -> None:
    metrics.increment_counter("sent", 600)
    clock.now += 100
    assert metrics.get_metrics_data()["sent_per_second"] == 6.0
    for _ in range(20):
        metrics.increment_counter("sent", 30, {"to": "a"})
        clock.now += 30
        data = metrics.get_metrics_data()
    assert data["sent_per_second"] == 1.0
    assert data["sent"] == 1200
    for _ in range(11):
        clock.now += 30
        data = metrics.get_metrics_data()
    assert data["sent_per_second"] == 0.0


def test_a_rate_is_that_of_the_window_also_after_a_time_in_which_nobody_read(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.increment_counter("sent", 10**6)
    for _ in range(1000):
        clock.now += 1
        metrics._tick()
    metrics.increment_counter("sent", 300)
    assert metrics.get_metrics_data()["sent_per_second"] == pytest.approx(1.0, rel=0.1)


def test_the_growth_is_that_of_the_window_and_at_most_a_tenth_more(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    for _ in range(500):
        clock.now += 7
        metrics.increment_counter("sent", 7)
        snapshot = metrics.snapshot()
        assert snapshot.growth("sent") == snapshot.growth_seconds
        if snapshot.uptime_seconds > 330:
            assert 300 <= snapshot.growth_seconds <= 337


def test_the_error_rate_forgets_what_has_left_the_window(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.increment_counter("jobs_failed", 5)
    metrics.increment_counter("jobs_processed", 5)
    assert metrics.get_metrics_data()["error_rate"] == 0.5
    for _ in range(12):
        clock.now += 30
        metrics.increment_counter("jobs_processed", 10)
        rate = metrics.get_metrics_data()["error_rate"]
    assert rate == 0.0


def test_a_ratio_is_declared_once_and_shown_over_the_window(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.declare_ratio("cache_hit_ratio", "cache_hits", "cache_misses")
    data = metrics.get_metrics_data()
    assert (data["cache_hit_ratio"], data["cache_hits"], data["cache_misses"]) == (None, 0, 0)
    metrics.increment_counter("cache_hits", 2)
    metrics.increment_counter("cache_hits", 1, {"language": "en"})
    metrics.increment_counter("cache_misses")
    assert metrics.get_metrics_data()["cache_hit_ratio"] == 0.75
    for _ in range(12):
        clock.now += 30
        ratio = metrics.get_metrics_data()["cache_hit_ratio"]
    assert ratio is None


def test_a_gauge_of_ones_own_takes_the_place_of_a_ratio(metrics: WorkerMetrics) -> None:
    metrics.declare_ratio("cache_hit_ratio", "cache_hits", "cache_misses")
    metrics.increment_counter("cache_hits")
    metrics.set_gauge("cache_hit_ratio", 0.5)
    assert metrics.get_metrics_data()["cache_hit_ratio"] == 0.5
    assert metrics.render_prometheus().count(b"\ncache_hit_ratio{") == 1
    with pytest.raises(ConfigurationError, match="'cache_hit_ratio' is a gauge already"):
        metrics.increment_counter("cache_hit_ratio")
    metrics.set_gauge("share", 0.25)
    metrics.declare_ratio("share", "cache_hits", "cache_misses")
    assert metrics.get_metrics_data()["share"] == 0.25
    with pytest.raises(ConfigurationError, match="'share' is declared already, as cache_hits"):
        metrics.declare_ratio("share", "cache_misses", "cache_hits")


def test_a_ratio_is_no_counter_and_made_of_counters(metrics: WorkerMetrics) -> None:
    metrics.declare_ratio("cache_hit_ratio", "cache_hits", "cache_misses")
    with pytest.raises(ConfigurationError, match="'cache_hit_ratio' is a ratio already"):
        metrics.increment_counter("cache_hit_ratio")
    metrics.set_gauge("level", 1)
    with pytest.raises(ConfigurationError, match="'level' is a gauge already"):
        metrics.declare_ratio("share", "level", "cache_misses")


def test_what_rates_need_stays_bounded_while_nobody_reads(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.get_metrics_data()
    for _ in range(10_000):
        clock.now += 10
        metrics._tick()
    assert len(metrics._counter_window._window.slices) <= 12


def test_a_snapshot_does_not_change_afterwards(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("jobs_sent")
    metrics.record_duration("work", 1)
    snapshot = metrics.snapshot()
    metrics.increment_counter("jobs_sent")
    metrics.record_duration("work", 1)
    metrics.record_error(ValueError)
    assert snapshot.total("jobs_sent") == 1
    assert snapshot.whole("work").lifetime.count == 1
    assert snapshot.errors_by("type") == {}
    assert snapshot.newest == {"work": 1}
