"""Quantiles within 1 %, exact sums, and a window that forgets."""

from __future__ import annotations

import random
from math import ceil, inf

import pytest

from shared_sync._histogram import (
    LONGEST_SECONDS,
    SHORTEST_SECONDS,
    SLICES,
    Histogram,
    SlidingHistogram,
    bucket_of,
)

SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)


def lognormal() -> list[float]:
    chance = random.Random(1)
    return [chance.lognormvariate(-2, 1.5) for _ in range(20_000)]


def bimodal() -> list[float]:
    chance = random.Random(2)
    return [
        chance.gauss(0.002, 0.0001) if chance.random() < 0.5 else chance.gauss(8, 0.5)
        for _ in range(20_000)
    ]


def wide() -> list[float]:
    chance = random.Random(3)
    return [10 ** chance.uniform(-6, 5) for _ in range(20_000)]


def histogram_of(durations: list[float]) -> Histogram:
    histogram = Histogram()
    for seconds in durations:
        histogram.record(seconds)
    return histogram


@pytest.mark.parametrize(
    "durations",
    [
        pytest.param(lognormal(), id="lognormal"),
        pytest.param(bimodal(), id="bimodal"),
        pytest.param(wide(), id="from_1_us_to_100_000_s"),
        pytest.param([0.25] * 1000, id="constant"),
        pytest.param([3.0], id="single"),
        pytest.param([0.001, 1000.0], id="two_far_apart"),
    ],
)
@pytest.mark.parametrize("share", SHARES)
def test_a_quantile_is_within_one_percent_of_the_exact_one(
    durations: list[float], share: float
) -> None:
    exact = sorted(durations)[max(1, ceil(share * len(durations))) - 1]
    assert histogram_of(durations).quantile(share) == pytest.approx(exact, rel=0.01)


def test_a_constant_duration_has_that_very_duration_as_every_quantile() -> None:
    histogram = histogram_of([0.123] * 7)
    assert {histogram.quantile(share) for share in SHARES} == {0.123}


def test_number_sum_minimum_and_maximum_are_exact() -> None:
    histogram = histogram_of([0.5, 0.25, 4.0])
    assert (histogram.count, histogram.total) == (3, 4.75)
    assert (histogram.low, histogram.high) == (0.25, 4.0)
    assert histogram.mean() == pytest.approx(4.75 / 3)
    assert histogram.maximum() == 4.0


def test_an_empty_histogram_knows_nothing_rather_than_zero() -> None:
    empty = Histogram()
    assert (empty.mean(), empty.maximum(), empty.quantile(0.5)) == (None, None, None)
    assert (empty.count, empty.low, empty.high) == (0, inf, 0.0)


def test_buckets_rise_with_the_duration_and_stay_in_range() -> None:
    durations = [0.0, 1e-300, SHORTEST_SECONDS, *sorted(wide()), LONGEST_SECONDS, 1e300]
    buckets = [bucket_of(seconds) for seconds in durations]
    assert buckets == sorted(buckets)
    assert buckets[0] == 0
    assert buckets[-1] == len(Histogram().counts) - 1


def test_zero_and_the_endless_share_the_outer_buckets_but_keep_their_extremes() -> None:
    histogram = histogram_of([0.0, 1e8, 1e9])
    assert histogram.quantile(0.0) == pytest.approx(0.0, abs=SHORTEST_SECONDS)
    assert histogram.quantile(0.5) == pytest.approx(LONGEST_SECONDS, rel=0.02)
    assert histogram.quantile(1.0) == histogram.maximum() == 1e9
    assert histogram_of([0.0, 0.0]).quantile(0.5) == 0.0


def test_merging_equals_recording_everything_in_one() -> None:
    first, second = lognormal()[:500], bimodal()[:500]
    merged = histogram_of(first)
    merged.merge(histogram_of(second))
    merged.merge(Histogram())
    whole = histogram_of(first + second)
    assert merged.counts == whole.counts
    assert (merged.count, merged.low, merged.high) == (whole.count, whole.low, whole.high)
    assert merged.total == pytest.approx(whole.total)


def test_a_copy_shares_nothing() -> None:
    original = histogram_of([0.5])
    copy = original.copy()
    original.record(0.5)
    assert (copy.count, sum(copy.counts), copy.total) == (1, 1, 0.5)


def test_counting_up_to_a_bound_includes_the_bound() -> None:
    histogram = histogram_of([0.1, 0.25, 0.26, 0.5])
    assert [histogram.count_up_to(bound) for bound in (0.05, 0.1, 0.25, 0.5, 1e6)] == [
        *(0, 1, 2, 4, 4)
    ]


def test_a_histogram_takes_about_ten_kilobytes() -> None:
    counts = histogram_of(wide()).counts
    assert len(counts) * counts.itemsize < 10_500


def record(series: SlidingHistogram, now: float, seconds: float) -> None:
    if now >= series.ends:
        series.turn(now)
    series.current.record(seconds)


def test_the_recent_past_forgets_and_the_lifetime_does_not() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    record(series, 5.0, 1.0)
    record(series, 95.0, 2.0)
    assert series.recent(now=99.0).count == 2
    record(series, 115.0, 4.0)
    assert series.recent(now=119.0).total == 6.0
    assert series.lifetime().total == 7.0


def test_the_recent_past_reaches_over_the_window_and_at_most_one_slice_further() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    record(series, 12.0, 1.0)
    assert series.recent(now=112.0).count == 1
    assert series.recent(now=119.9).count == 1
    assert series.recent(now=120.0).count == 0


def test_an_idle_series_forgets_without_a_write() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    record(series, 0.0, 1.0)
    assert series.recent(now=1000.0).count == 0
    assert series.lifetime().count == 1


def test_a_busy_series_keeps_a_bounded_number_of_slices_and_every_count() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    for tick in range(1000):
        record(series, tick * 10.0, 1.0)
        assert len(series._closed) <= SLICES
    assert series.lifetime().count == 1000
    assert series.recent(now=9990.0).count == SLICES + 1


def test_a_copied_series_stands_still() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    record(series, 1.0, 1.0)
    copy = series.copy()
    for tick in range(2, 40):
        record(series, tick * 10.0, 1.0)
    assert copy.lifetime().count == 1
    assert copy.recent(now=2.0).count == 1
    assert series.lifetime().count == 39
