"""How messages are collected, and what a batch processor may return."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shared_sync import Batching, Message
from shared_sync.batching import run_batch
from shared_sync.errors import ConfigurationError, InvalidBatch


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_size": 0}, "max_size must be a whole number from 1 to 1000, not 0"),
        ({"max_size": 1001}, "max_size"),
        ({"max_size": 2.0}, "max_size"),
        ({"max_size": True}, "max_size"),
        ({"max_wait_seconds": -1}, "max_wait_seconds must be a number from 0 to 60.0, not -1"),
        ({"max_wait_seconds": 61}, "max_wait_seconds"),
        ({"size": len}, "size and max_total belong together"),
        ({"max_total": 1.0}, "size and max_total belong together"),
        ({"size": "n", "max_total": 1.0}, "size must be a function of a Message, not 'n'"),
        ({"size": len, "max_total": -1}, "max_total must be a number of at least 0, not -1"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_argument(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Batching(**options)


def test_batching_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Batching().max_size = 2  # type: ignore[misc]


@pytest.mark.parametrize("kind", [list, tuple, deque])
def test_any_sequence_of_results_is_taken(kind: Callable[[Any], Sequence[object]]) -> None:
    messages = [Message("1-0", {}, 1), Message("2-0", {}, 1)]
    assert list(run_batch(lambda some: kind(one.id for one in some), messages)) == ["1-0", "2-0"]


def test_the_processor_may_use_up_the_list_that_it_is_given() -> None:
    messages = [Message("1-0", {}, 1), Message("2-0", {}, 1)]

    def process_batch(given: Sequence[Message]) -> Sequence[object]:
        assert isinstance(given, list)
        return [given.pop(0).id for _ in range(2)]

    assert run_batch(process_batch, messages) == ["1-0", "2-0"]
    assert len(messages) == 2


class LazyResults(Sequence[object]):
    """Says that it has two results, and makes each of them when it is asked for."""

    def __init__(self, *made: Any) -> None:
        self.made = made

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: Any) -> object:
        return self.made[place]()


def test_results_that_are_made_when_they_are_asked_for_are_made_within_the_run() -> None:
    messages = [Message("1-0", {}, 1), Message("2-0", {}, 1)]
    made = run_batch(lambda _: LazyResults(int, list), messages)
    assert made == [0, []]
    with pytest.raises(InvalidBatch, match="returned 1 result for 2 messages"):
        run_batch(lambda _: LazyResults(int), messages)
    with pytest.raises(ZeroDivisionError):
        run_batch(lambda _: LazyResults(int, lambda: 1 // 0), messages)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ([1], "returned 1 result for 2 messages"),
        ([1, 2, 3], "returned 3 results for 2 messages"),
        ("ab", "an object of type str for 2 messages"),
        (b"ab", "an object of type bytes for 2 messages"),
        ({"1-0": 1, "2-0": 2}, "an object of type dict for 2 messages"),
        ({1, 2}, "an object of type set for 2 messages"),
        (None, "an object of type NoneType for 2 messages"),
        (iter([1, 2]), "an object of type list_iterator for 2 messages"),
    ],
)
def test_anything_else_is_an_error_that_says_what_it_was(returned: Any, text: str) -> None:
    messages = [Message("1-0", {}, 1), Message("2-0", {}, 1)]
    with pytest.raises(InvalidBatch, match=text):
        run_batch(lambda _: returned, messages)
