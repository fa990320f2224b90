"""How many messages run together after memory ran out."""

from __future__ import annotations

import itertools

import pytest

from shared_sync.redis_consumer.batches.ceiling import FEWEST_BATCHES, Ceiling


def run(ceiling: Ceiling, fits: int) -> int:
    """Run a full batch of which so many fit, in parts if need be; return its size."""
    size = ceiling.size
    ceiling.batch_begins()
    todo = [size]
    while todo:
        messages = todo.pop()
        if messages <= fits:
            ceiling.succeeded(messages)
        elif messages == 1:
            ceiling.one_ran_out_of_memory()
        else:
            ceiling.ran_out_of_memory(messages)
            half = min(messages // 2, ceiling.size)
            todo += [half, messages - half]
    return size


@pytest.mark.parametrize("fits", [1, 2, 7, 8, 9, 31, 32])
def test_it_settles_at_what_fits_or_at_the_half_that_did(fits: int) -> None:
    ceiling = Ceiling(32)
    for _ in range(5):
        run(ceiling, fits)
    assert fits / 2 < ceiling.size <= fits


def test_it_grows_by_a_quarter_after_many_full_batches() -> None:
    ceiling = Ceiling(64)
    ceiling.ran_out_of_memory(64)
    sizes = [run(ceiling, 64) for _ in range(2 * FEWEST_BATCHES + 1)]
    assert sizes == [32] * 2 * FEWEST_BATCHES + [40]


def test_batches_that_are_not_full_let_it_not_grow() -> None:
    ceiling = Ceiling(64)
    ceiling.ran_out_of_memory(64)
    for _ in range(1000):
        ceiling.succeeded(31)
    assert ceiling.size == 32


def test_a_size_that_was_too_large_is_tried_more_and_more_rarely() -> None:
    ceiling = Ceiling(32)
    sizes = [run(ceiling, 8) for _ in range(4000)]
    tries = [at for at, size in enumerate(sizes) if size > 8]
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 1000
    assert all(size == 8 for at, size in enumerate(sizes) if at not in tries)


def test_a_message_that_does_not_fit_alone_changes_nothing() -> None:
    ceiling = Ceiling(16)
    ceiling.batch_begins()
    for messages in (16, 8, 4, 2):
        ceiling.ran_out_of_memory(messages)
    ceiling.one_ran_out_of_memory()
    assert ceiling.size == 16


def test_it_never_exceeds_the_most_that_was_asked_for() -> None:
    ceiling = Ceiling(10)
    ceiling.ran_out_of_memory(10)
    for _ in range(1000):
        run(ceiling, 10)
    assert ceiling.size == 10
