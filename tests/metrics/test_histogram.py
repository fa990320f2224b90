"""Quantiles within 1 %, exact sums, a window that forgets, and no more memory than said."""

from __future__ import annotations

import json
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from math import ceil, inf, log

import pytest
from ddsketch import DDSketch

from shared_sync.metrics.histogram import (
    GAMMA,
    LONGEST_SECONDS,
    NOTHING,
    OFFSET,
    PER_LOG,
    SHORTEST_SECONDS,
    Histogram,
    SlidingHistogram,
    bucket_of,
    upper_edge,
)
from shared_sync.metrics.sliding_window import SLICES

SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
LAST = bucket_of(inf)


def lognormal(chance: random.Random) -> float:
    return chance.lognormvariate(-1, 0.7)


def bimodal(chance: random.Random) -> float:
    """Hits of a cache, and the misses."""
    return chance.gauss(0.05, 0.003) if chance.random() < 0.7 else chance.gauss(2, 0.1)


def constant(_: random.Random) -> float:
    return 0.123


def heavy_tailed(chance: random.Random) -> float:
    """Half are below 18 ms, and one of 100,000 takes more than two minutes."""
    return 0.01 * chance.paretovariate(1.2)


def anything(chance: random.Random) -> float:
    return float(10 ** chance.uniform(-5, 5))


Draw = Callable[[random.Random], float]
SAMPLES = [lognormal, bimodal, constant, heavy_tailed]


def many(draw: Draw, number: int = 20_000) -> list[float]:
    chance = random.Random(20)
    return [draw(chance) for _ in range(number)]


def histogram_of(durations: Iterable[float]) -> Histogram:
    series = SlidingHistogram(100.0, now=0.0)
    for seconds in durations:
        series.record(seconds, now=0.0)
    return series.read(now=0.0)[1]


def exact(durations: list[float], share: float) -> float:
    return sorted(durations)[max(1, ceil(share * len(durations))) - 1]


def content(histogram: Histogram) -> tuple[object, ...]:
    """All that a histogram knows, except the sum, which depends on the order of adding."""
    counts = histogram.up_to(range(LAST + 1))
    return histogram.count, histogram.low, histogram.high, counts


# --- quantiles and sums -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "durations",
    [
        *(pytest.param(many(draw), id=draw.__name__) for draw in (*SAMPLES, anything)),
        pytest.param([3.0], id="single"),
        pytest.param([0.001, 1000.0], id="two_far_apart"),
    ],
)
def test_a_quantile_is_within_one_percent_of_the_exact_one(durations: list[float]) -> None:
    histogram = histogram_of(durations)
    for share in SHARES:
        assert histogram.quantile(share) == pytest.approx(exact(durations, share), rel=0.01), share


@pytest.mark.parametrize("draw", [*SAMPLES, anything])
def test_a_histogram_that_was_sent_as_json_is_the_same_or_within_three_percent(draw: Draw) -> None:
    histogram = histogram_of(many(draw))
    form = histogram.to_dict()
    assert len(json.dumps(form)) < 4000
    again = Histogram.parse(json.loads(json.dumps(form)))
    assert again is not None
    if draw is not anything:  # else there are too many buckets
        assert content(again) == content(histogram)
    assert (again.count, again.total) == (histogram.count, histogram.total)
    assert again.quantiles(*SHARES) == pytest.approx(histogram.quantiles(*SHARES), rel=0.03)


@pytest.mark.parametrize("draw", [*SAMPLES, anything])
def test_quantiles_are_those_of_ddsketch_within_both_errors(draw: Draw) -> None:
    durations = many(draw)
    sketch = DDSketch(relative_accuracy=0.01)
    for seconds in durations:
        sketch.add(seconds)
    histogram = histogram_of(durations)
    for share in SHARES:
        # Each is at most 1 % off the same exact one, so they are this far apart at most.
        there = sketch.get_quantile_value(share)
        assert histogram.quantile(share) == pytest.approx(there, rel=1.01 / 0.99 - 1), share
    assert (histogram.count, histogram.total) == (sketch.count, pytest.approx(sketch.sum))


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
    for empty in (NOTHING, histogram_of([]), Histogram.merged([]), Histogram.merged([NOTHING])):
        assert (empty.mean(), empty.maximum(), empty.quantile(0.5)) == (None, None, None)
        assert (empty.count, empty.total, empty.low, empty.high) == (0, 0.0, inf, 0.0)
        assert empty.up_to([0, 5, LAST]) == [0, 0, 0]


def test_zero_and_the_endless_share_the_outer_buckets_but_keep_their_extremes() -> None:
    histogram = histogram_of([0.0, 1e8, 1e9])
    assert histogram.quantile(0.0) == pytest.approx(0.0, abs=SHORTEST_SECONDS)
    assert histogram.quantile(0.5) == pytest.approx(LONGEST_SECONDS, rel=0.02)
    assert histogram.quantile(1.0) == histogram.maximum() == 1e9
    assert histogram_of([0.0, 0.0]).quantile(0.5) == 0.0


# --- buckets ----------------------------------------------------------------------------------


def test_buckets_rise_with_the_duration_and_stay_in_range() -> None:
    durations = [0.0, 1e-300, SHORTEST_SECONDS, *sorted(many(anything)), LONGEST_SECONDS, 1e300]
    buckets = [bucket_of(seconds) for seconds in durations]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-1], LAST) == (0, LAST, 1163)


def test_a_bucket_reaches_from_the_edge_before_to_its_own() -> None:
    for bucket in range(1, LAST):
        low, high = upper_edge(bucket - 1), upper_edge(bucket)
        assert high / low == pytest.approx(GAMMA)
        assert bucket_of(low * 1.0001) == bucket_of(high * 0.9999) == bucket


def test_the_formula_for_those_in_a_hurry_is_that_of_bucket_of() -> None:
    """`record_duration` has it written out, from the shortest to the longest duration."""
    for seconds in (SHORTEST_SECONDS, *many(anything, 1000), LONGEST_SECONDS):
        assert int(log(seconds) * PER_LOG + OFFSET) == bucket_of(seconds)


def test_up_to_a_bucket_counts_it_and_all_before_it() -> None:
    histogram = histogram_of([0.1, 0.25, 0.25, 0.5])
    bounds = (0.0, 0.099, 0.1, 0.25, 0.49, 0.5, 1e6)
    assert histogram.up_to(map(bucket_of, bounds)) == [0, 0, 1, 3, 3, 4, 4]


@pytest.mark.parametrize("number", [255, 256, 65_535, 65_536, 2**32 - 1, 2**32])
def test_no_count_is_too_large(number: int) -> None:
    one = Histogram([number, 1], 500, number + 1.0, upper_edge(499), upper_edge(501))
    assert Histogram.merged([one, one]).up_to([499, 500, 501]) == [0, 2 * number, 2 * number + 2]


# --- merging ----------------------------------------------------------------------------------


def test_merging_equals_recording_everything_in_one() -> None:
    parts = [many(draw, 500) for draw in (*SAMPLES, anything)]
    merged = Histogram.merged([NOTHING, *map(histogram_of, parts)])
    whole = histogram_of(chain(*parts))
    assert content(merged) == content(whole)
    assert merged.total == pytest.approx(whole.total)
    assert [merged.quantile(share) for share in SHARES] == list(map(whole.quantile, SHARES))


def test_merging_leaves_the_parts_as_they_were() -> None:
    one, other = histogram_of([0.1, 0.2]), histogram_of([50.0])
    before = content(one), content(other)
    assert Histogram.merged([one, other]).count == 3
    assert (content(one), content(other)) == before


# --- the window -------------------------------------------------------------------------------


def test_the_recent_past_forgets_and_the_lifetime_does_not() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    series.record(1.0, now=5.0)
    series.record(2.0, now=95.0)
    recent, lifetime = series.read(now=99.0)
    assert (recent.count, lifetime.count) == (2, 2)
    series.record(4.0, now=115.0)
    recent, lifetime = series.read(now=119.0)
    assert (recent.total, lifetime.total) == (6.0, 7.0)
    assert (recent.low, lifetime.low) == (2.0, 1.0)


@pytest.mark.parametrize("at", [10.0, 12.0, 19.9])
def test_the_recent_past_reaches_over_the_window_and_at_most_one_slice_further(at: float) -> None:
    series = SlidingHistogram(100.0, now=0.0)
    series.record(1.0, now=at)
    for now, count in ((at, 1), (at + 100.0, 1), (119.99, 1), (120.0, 0)):
        recent, lifetime = series.read(now)
        assert (recent.count, lifetime.count) == (count, 1), now


def test_a_series_nobody_writes_to_forgets() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    for tick in range(30):
        series.record(1.0, now=tick * 10.0)
    counts = [series.read(now)[0].count for now in (299.0, 330.0, 389.0, 400.0, 1e9)]
    assert counts == [11, 7, 2, 0, 0]
    recent, lifetime = series.read(now=1e9)
    assert recent is NOTHING
    assert (lifetime.count, lifetime.maximum()) == (30, 1.0)


def test_reading_changes_nothing() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    series.record(1.0, now=0.0)
    series.read(now=1e6)
    series.record(2.0, now=50.0)
    assert series.read(now=50.0)[0].total == 3.0


def test_after_a_long_silence_the_window_begins_anew() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    series.record(1.0, now=0.0)
    series.record(2.0, now=1e6)
    recent, lifetime = series.read(now=1e6)
    assert (recent.total, lifetime.total) == (2.0, 3.0)


def test_a_busy_series_keeps_a_bounded_number_of_slices_and_every_count() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    for tick in range(1000):
        series.record(1.0, now=tick * 10.0)
        assert len(series._window.slices) <= SLICES
    recent, lifetime = series.read(now=9990.0)
    assert (recent.count, lifetime.count) == (SLICES + 1, 1000)


def test_a_copy_stands_still() -> None:
    series = SlidingHistogram(100.0, now=0.0)
    series.record(1.0, now=1.0)
    copy = series.copy()
    before = content(copy.read(now=2.0)[0])
    series.record(1.0, now=2.0)
    for tick in range(1, 40):
        series.record(2.0, now=tick * 10.0)
    recent, lifetime = copy.read(now=2.0)
    assert content(recent) == content(lifetime) == before
    assert (recent.total, copy.newest) == (1.0, [1.0])
    assert series.read(now=390.0)[1].count == 41


def test_the_newest_is_shared_by_the_parts_of_one_metric() -> None:
    newest: list[float | None] = [None]
    parts = [SlidingHistogram(100.0, 0.0, newest) for _ in range(2)]
    parts[0].record(1.0, now=0.0)
    parts[1].record(2.0, now=0.0)
    assert parts[0].newest == [2.0]


# --- memory -----------------------------------------------------------------------------------


def size_of(thing: object, seen: set[int] | None = None) -> int:
    """Bytes of an object and of all that it holds; ints that Python has anyway are free."""
    seen = set() if seen is None else seen
    if id(thing) in seen or (isinstance(thing, int) and -5 <= thing <= 256):
        return 0
    seen.add(id(thing))
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    held = [getattr(thing, name) for name in slots]
    if isinstance(thing, (list, tuple, deque)):
        held += thing
    return sys.getsizeof(thing) + sum(size_of(each, seen) for each in held)


def after_two_windows(draw: Draw, per_slice: int) -> SlidingHistogram:
    """A series that has a past, ten closed slices and an open one, all busy."""
    chance = random.Random(20)
    series = SlidingHistogram(100.0, now=0.0)
    for tick in range(2 * SLICES + 1):
        for _ in range(per_slice):
            series.record(draw(chance), now=tick * 10.0)
    assert len(series._window.slices) == SLICES
    return series


@pytest.mark.parametrize("draw", SAMPLES)
def test_a_busy_series_takes_twenty_kilobytes(draw: Draw) -> None:
    """A thousand durations a slice: 33 a second in a window of five minutes."""
    assert size_of(after_two_windows(draw, 1000)) <= 20 * 1024


def test_a_series_takes_less_than_thirty_kilobytes_where_durations_are_of_every_length() -> None:
    assert 25 * 1024 < size_of(after_two_windows(anything, 5000)) <= 30 * 1024


def test_a_series_of_which_every_bucket_is_busy_takes_a_hundred_kilobytes() -> None:
    """All 1164 buckets in use in every slice, each more than 65,535 times.

    That is 84 million durations a slice; a count above 4,294,967,295 would double its slice.
    """
    series = SlidingHistogram(100.0, now=0.0)
    for tick in range(2 * SLICES + 1):
        series.record(0.0, now=tick * 10.0)
        series.record(LONGEST_SECONDS, now=tick * 10.0)
        series.counts = [65_536 + bucket for bucket in range(LAST + 1)]
    assert 90 * 1024 < size_of(series) <= 100 * 1024
