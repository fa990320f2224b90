"""The ring of samples: what is kept, for how long, in how little memory, and how it is read."""

from __future__ import annotations

import json
import math
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_sync.health_server.time_series import History

NOON = 1_767_268_800.0


def record(history: History, *samples: dict[str, Any]) -> None:
    """Record samples five seconds apart."""
    for sample in samples:
        history.record(NOON + 5 * history.read()["next"], sample)


def test_before_the_first_sample_there_is_nothing() -> None:
    assert History(capacity=3).read() == {
        "capacity": 3,
        "next": 0,
        "sequences": [],
        "times": [],
        "figures": {},
        "dropped": 0,
    }


def test_samples_are_numbered_and_kept_with_their_times() -> None:
    history = History(capacity=3)
    record(history, {"a": 1}, {"a": 2.5})
    assert history.read() == {
        "capacity": 3,
        "next": 2,
        "sequences": [0, 1],
        "times": [NOON, NOON + 5],
        "figures": {"a": [1, 2.5]},
        "dropped": 0,
    }


def test_the_oldest_sample_makes_room_for_the_newest() -> None:
    history = History(capacity=3)
    record(history, *({"a": n} for n in range(7)))
    read = history.read()
    assert read["sequences"] == [4, 5, 6]
    assert read["times"] == [NOON + 20, NOON + 25, NOON + 30]
    assert read["figures"] == {"a": [4, 5, 6]}


def test_times_are_told_to_the_millisecond() -> None:
    history = History()
    history.record(NOON + 0.123456, {})
    assert history.read()["times"] == [NOON + 0.123]


# --- what is known ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, "5", True, False, math.nan, math.inf, -math.inf, [1], {"b": 1}, 1j, 10**400],
    ids=lambda value: str(value)[:10],
)
def test_what_is_no_finite_number_is_unknown(value: object) -> None:
    history = History()
    record(history, {"a": 1}, {"a": value}, {"a": 3})
    assert history.read()["figures"] == {"a": [1, None, 3]}
    record(alone := History(), {"a": value})
    assert alone.read()["figures"] == {}


def test_a_figure_is_unknown_before_it_appears_and_where_it_is_missing() -> None:
    history = History()
    record(history, {"a": 1}, {"b": 5}, {"a": 3, "b": 6})
    assert history.read()["figures"] == {"a": [1, None, 3], "b": [None, 5, 6]}


@pytest.mark.parametrize(
    "value", [0, -7, 2**53, -(2**53), 2**53 - 1, 0.1, -1e-300, 1e300, 1.5e16, 5e-324]
)
def test_numbers_come_back_exactly(value: float) -> None:
    history = History()
    record(history, {"a": value})
    assert history.read()["figures"]["a"] == [value]


def test_whole_numbers_are_written_without_a_point_unless_they_would_fill_a_line() -> None:
    history = History()
    record(history, {"a": 5}, {"a": 5.0}, {"a": -0.0}, {"a": 2.0**53}, {"a": 1e300})
    written = json.dumps(history.read()["figures"]["a"])
    assert written == "[5, 5, 0, 9007199254740992, 1e+300]"


# --- too many values --------------------------------------------------------------------------


def test_values_that_find_no_place_are_dropped_and_counted() -> None:
    history = History(max_names=2)
    record(history, {"a": 1, "b": 2, "c": 3, "d": 4})
    read = history.read()
    assert read["figures"] == {"a": [1], "b": [2]}
    assert read["dropped"] == 2
    record(history, {"a": 1, "d": 4, "e": None})
    assert history.read()["dropped"] == 1
    record(history, {"a": 1})
    assert history.read()["dropped"] == 0


def test_a_figure_gives_up_its_place_when_it_was_unknown_throughout() -> None:
    history = History(capacity=3, max_names=1)
    record(history, {"a": 1}, {"b": 2}, {"b": 2})
    assert history.read()["figures"] == {"a": [1, None, None]}
    record(history, {"b": 2})
    assert history.read()["figures"] == {"b": [None, None, 2]}


def test_a_figure_that_comes_back_in_time_keeps_its_place() -> None:
    history = History(capacity=3, max_names=1)
    record(history, {"a": 1}, {}, {}, {"a": 4}, {}, {})
    assert history.read()["figures"] == {"a": [4, None, None]}
    record(history, {})
    assert history.read()["figures"] == {}


def test_names_that_change_with_every_sample_take_no_more_memory_than_there_is() -> None:
    history = History(capacity=4, max_names=3)
    record(history, *({f"error {n}": 1} for n in range(100)))
    columns = history.read()["figures"]
    assert len(columns) == 3
    assert all(any(value is not None for value in values) for values in columns.values())


# --- reading on -------------------------------------------------------------------------------


def test_reading_on_gives_what_is_new() -> None:
    history = History(capacity=3)
    record(history, {"a": 0}, {"a": 1})
    after = history.read()["next"]
    read = history.read(after)
    assert (read["sequences"], read["figures"]) == ([], {"a": []})
    record(history, {"a": 2}, {"a": 3, "b": 1})
    read = history.read(after)
    assert read["sequences"] == [2, 3]
    assert read["figures"] == {"a": [2, 3], "b": [None, 1]}
    assert read["next"] == 4


@pytest.mark.parametrize("since", [None, -1, 0, 3, 8, 10**30], ids=str)
def test_a_number_that_is_not_kept_or_not_reached_gives_all(since: int | None) -> None:
    history = History(capacity=3)
    record(history, *({"a": n} for n in range(7)))
    assert history.read(since)["sequences"] == [4, 5, 6]


@pytest.mark.parametrize(("since", "sequences"), [(4, [4, 5, 6]), (6, [6]), (7, [])])
def test_a_number_that_is_kept_begins_there(since: int, sequences: list[int]) -> None:
    history = History(capacity=3)
    record(history, *({"a": n} for n in range(7)))
    read = history.read(since)
    assert read["sequences"] == sequences
    assert read["figures"] == {"a": sequences}


def test_values_may_be_named() -> None:
    history = History()
    record(history, {"a": 1, "b": 2, "c": 3})
    assert history.read(names=["c", "a", "nothing"])["figures"] == {"a": [1], "c": [3]}
    assert history.read(names=[])["figures"] == {}


VALUES = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    capacity=st.integers(1, 5),
    samples=st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=20),
    since=st.none() | st.integers(-1, 21),
)
@settings(deadline=None)
def test_it_reads_as_a_list_of_the_last_samples_would(
    capacity: int, samples: list[dict[str, Any]], since: int | None
) -> None:
    history = History(capacity=capacity, max_names=3)
    record(history, *samples)
    kept = list(enumerate(samples))[-capacity:]
    names = {name for _, sample in kept for name, value in sample.items() if value is not None}
    if since is not None and kept and kept[0][0] <= since <= len(samples):
        kept = [(sequence, sample) for sequence, sample in kept if sequence >= since]
    read = history.read(since)
    assert read["sequences"] == [sequence for sequence, _ in kept]
    assert read["figures"] == {name: [sample.get(name) for _, sample in kept] for name in names}


# --- memory and threads -----------------------------------------------------------------------


def test_an_hour_of_256_values_takes_no_more_than_it_says() -> None:
    values = {f"figure_{n}": n + 0.5 for n in range(256)}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        history = History()
        history.record(NOON, values)
        after_one, _ = tracemalloc.get_traced_memory()
        for n in range(1000):
            history.record(NOON + n, values)
        after_all, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after_all - before < 1.6e6
    assert after_all - after_one < 50_000  # it does not grow with time
    assert len(history.read()["figures"]["figure_0"]) == history.capacity


def test_a_sample_is_read_whole_or_not_at_all_whoever_records_meanwhile() -> None:
    writers, each = 4, 500
    history = History(capacity=50, max_names=4)
    done = threading.Event()

    def write(writer: int) -> None:
        for n in range(each):
            value = writer * each + n
            history.record(float(value), {"a": value, "b": -value})

    def look() -> int:
        since, looks = 0, 0
        while not done.is_set():
            read = history.read(since)
            since, looks = read["next"], looks + 1
            a, b = (read["figures"].get(name, []) for name in "ab")
            assert a == [-value for value in b] == read["times"]
            assert len(a) == len(read["sequences"])
        return looks

    with ThreadPoolExecutor(writers + 1) as pool:
        looking = pool.submit(look)
        try:
            for writing in [pool.submit(write, writer) for writer in range(writers)]:
                writing.result(60)
        finally:
            done.set()
        assert looking.result(60) > 0
    assert history.read()["next"] == writers * each
