"""What is learned of how long batches take."""

from __future__ import annotations

import random

import pytest

from shared_sync.redis_consumer.batches.cost import CostModel


def test_nothing_is_known_before_two_sizes_have_run() -> None:
    model = CostModel()
    assert model.cost() is None
    for _ in range(10):
        model.add(16, 0.036)
    assert model.cost() is None


def test_the_line_through_the_runs_is_found() -> None:
    model = CostModel()
    for messages in (1, 4, 16, 7):
        model.add(messages, 0.02 + 0.001 * messages)
    cost = model.cost()
    assert cost is not None
    assert cost.base_seconds == pytest.approx(0.02)
    assert cost.seconds_per_message == pytest.approx(0.001)


def test_noise_and_runs_that_took_far_too_long_do_not_move_it_much() -> None:
    chance = random.Random(1)
    model = CostModel()
    model.add(16, 30.0)  # the first run on a GPU
    for number in range(200):
        messages = chance.randint(1, 16)
        seconds = (0.02 + 0.001 * messages) * chance.uniform(0.95, 1.05)
        model.add(messages, 10.0 if number % 20 == 0 else seconds)
    cost = model.cost()
    assert cost is not None
    assert cost.base_seconds == pytest.approx(0.02, rel=0.1)
    assert cost.seconds_per_message == pytest.approx(0.001, rel=0.2)


def test_a_change_is_learned() -> None:
    model = CostModel()
    for number in range(1000):
        model.add(number % 16 + 1, 1.0)
    for number in range(256):
        model.add(number % 16 + 1, 0.002 * (number % 16 + 1))
    cost = model.cost()
    assert cost is not None
    assert cost.base_seconds == pytest.approx(0.0, abs=1e-9)
    assert cost.seconds_per_message == pytest.approx(0.002)


@pytest.mark.parametrize("points", [[(1, 0.1), (10, 0.01)], [(1, 0.001), (10, 1.0)]])
def test_a_cost_is_never_negative(points: list[tuple[int, float]]) -> None:
    model = CostModel()
    for messages, seconds in points:
        model.add(messages, seconds)
    cost = model.cost()
    assert cost is not None
    assert cost.base_seconds >= 0
    assert cost.seconds_per_message >= 0
