"""Which of the messages that wait run together."""

from __future__ import annotations

from typing import Any

import pytest
from deliveries import POLICY
from readers import entries, suspect

from shared_sync import Batching, Message
from shared_sync.message import decode_fields
from shared_sync.protocol.dead_letter_layout import failure_line
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.batches.plan import Planner, runs_alone


def planner(batching: Batching | None = None) -> Planner:
    return Planner(batching or Batching(), lambda entry: decode_fields(entry.items))


def costing(*costs: float) -> list[Entry]:
    return [Entry(f"{n}-0", [b"n", str(cost).encode()]) for n, cost in enumerate(costs, 1)]


def failed(error_type: str) -> Entry:
    line = failure_line(
        worker="w", time=1.0, attempt=1, error_type=error_type, error="x", delay_ms=10
    )
    return Entry("1-0", [], deliveries=2, history=f"{line}\n".encode())


SIZE: Any = lambda message: float(message.fields["n"])  # noqa: E731


def test_all_that_wait_run_together_up_to_the_most() -> None:
    waiting = entries("1-0", "2-0", "3-0")
    assert planner().plan(waiting, 2)[:2] == (2, 0)
    assert planner().plan(waiting, 3)[:2] == (3, 0)
    assert planner().plan(waiting, 8)[:2] == (3, 5)


def test_a_suspect_runs_alone_and_nothing_runs_with_it() -> None:
    assert planner().plan([suspect("1-0"), *entries("2-0")], 8)[:2] == (1, 0)
    assert planner().plan([*entries("1-0", "2-0"), suspect("3-0")], 8)[:2] == (2, 0)


@pytest.mark.parametrize(
    ("entry", "alone"),
    [
        (Entry("1-0", []), False),
        (failed("ValueError"), False),
        (failed("deadline"), True),
        (Entry("1-0", [], deliveries=2, history=b"not JSON\n"), False),
        (Entry("1-0", [], deliveries=2, history=b"[]\n"), False),
        (suspect("1-0"), True),
    ],
)
def test_a_message_that_ended_at_its_deadline_or_crashed_runs_alone(
    entry: Entry, alone: bool
) -> None:
    assert POLICY.max_attempts > 1
    assert runs_alone(entry) is alone


def test_costs_add_up_to_the_total_at_most() -> None:
    batching = Batching(size=SIZE, max_total=10.0)
    assert planner(batching).plan(costing(4, 4, 4), 8)[:2] == (2, 0)
    assert planner(batching).plan(costing(5, 5, 1), 8)[:2] == (2, 0)
    assert planner(batching).plan(costing(25, 1), 8)[:2] == (1, 0)
    assert planner(batching).plan(costing(1, 25), 8)[:2] == (1, 0)


def test_about_as_many_are_read_as_fit_into_the_total() -> None:
    plans = planner(Batching(size=SIZE, max_total=10.0))
    assert plans.expected(16) == 1
    assert plans.plan(costing(2, 2), 16)[:2] == (2, 3)
    assert plans.expected(16) == 5
    assert plans.expected(4) == 4


def test_each_message_is_asked_for_its_cost_once() -> None:
    asked: list[str] = []

    def size(message: Message) -> float:
        asked.append(message.id)
        return 1.0

    plans = planner(Batching(size=size, max_total=10.0))
    waiting = costing(1, 1, 1)
    plans.plan(waiting, 8)
    plans.plan(waiting, 8)
    assert asked == ["1-0", "2-0", "3-0"]
    plans.forget_all_but(waiting[1:])
    plans.plan(waiting, 8)
    assert asked[3:] == ["1-0"]


@pytest.mark.parametrize(
    "wrong", [-1.0, float("nan"), float("inf"), "much", None, ValueError("no audio")]
)
def test_a_cost_that_makes_no_sense_is_the_fault_of_its_message_alone(wrong: Any) -> None:
    def size(message: Message) -> float:
        if message.id != "2-0":
            return 1.0
        if isinstance(wrong, Exception):
            raise wrong
        return wrong  # type: ignore[no-any-return]

    plans = planner(Batching(size=size, max_total=10.0))
    waiting = costing(1, 1, 1)
    assert plans.plan(waiting, 8)[:2] == (1, 0)
    plan = plans.plan(waiting[1:], 8)
    assert plan[:2] == (1, 0)
    assert plan.error is not None
    assert plans.plan(waiting[2:], 8).error is None


def test_a_message_that_cannot_be_read_costs_nothing() -> None:
    plans = planner(Batching(size=SIZE, max_total=1.0))
    assert plans.plan([Entry("0-0", [b"n", b"\xff"]), *costing(1)], 8)[:2] == (2, 0)
