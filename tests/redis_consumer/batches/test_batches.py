"""Batches that fail: who is charged, how often they run, and that no message is lost."""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from helpers import Clock, Figures
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_client import KEYS

from shared_sync import Batching, JobCancelled, Reject, RetryPolicy
from shared_sync.common.guarded import GuardedLogger, GuardedRecorder, ThreadRecorder
from shared_sync.isolation.errors import ChildCrashed, DeadlinePassed
from shared_sync.message import Fields
from shared_sync.protocol.job_options import OPTIONS, JobOptions
from shared_sync.protocol.messages import Bury, Entry, Finish, Outcome, Park
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer.batches.batches import Batches
from shared_sync.redis_consumer.batches.figures import BatchFigures
from shared_sync.redis_consumer.charges import Rules
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.interruptions import Interruptions
from shared_sync.redis_consumer.slot import Attempt, Slot

logging.getLogger("tests.batches").setLevel(logging.CRITICAL)  # there may be many failures
LOGGER = GuardedLogger(logging.getLogger("tests.batches"))


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


class KeptOutcomes:
    """Stands in for an outbox: keeps what was put in, and when it was sent."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.outcomes: list[Outcome] = []
        self.returned: list[str] = []
        self.flushes: list[int] = []
        self.connection = self

    def add_done(self, message_id: str) -> None:
        self.done.append(message_id)

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def flush(self) -> None:
        self.flushes.append(len(self.done) + len(self.outcomes))

    def ids(self) -> list[str]:
        return [*self.done, *(one.id for one in self.outcomes)]


@dataclass
class FakeRunner:
    """Runs what a test says, and keeps the ids of each run."""

    process: Callable[[Sequence[str]], Sequence[object]]
    clock: Clock
    takes_batches: bool = True
    runs: list[list[str]] = field(default_factory=list)

    def run_batch(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        ids = [entry.id for entry in attempt.entries]
        assert len(ids) == len(fields)
        self.runs.append(ids)
        self.clock.now += 0.1
        attempt.ended_at = self.clock.now
        return self.process(ids)


class Scene:
    """The batches of one reader, without Redis."""

    def __init__(
        self,
        process: Callable[[Sequence[str]], Sequence[object]],
        *,
        batching: Batching | None = None,
        max_attempts: int = 3,
    ) -> None:
        self.clock = Clock()
        self.slot = Slot("reader-1")
        self.slot.source = KEYS
        self.in_flight = InFlight()
        self.in_flight.add_slot(self.slot)
        self.pauses = Pauses(logger=LOGGER, clock=self.clock)
        self.outbox = KeptOutcomes()
        self.in_flight.add_outbox(KEYS, self.outbox.ids)
        self.runner = FakeRunner(process, self.clock)
        self.figures = Figures()
        self.recorder = ThreadRecorder(GuardedRecorder(self.figures, LOGGER))
        delivery = Delivery(
            Rules(
                consumer="w1",
                binary_fields=frozenset(),
                retry=RetryPolicy(max_attempts=max_attempts, base_seconds=1.0, jitter=0.0),
                max_crashes=3,
                results=Results(
                    stream="jobs",
                    result_stream=None,
                    result_channel=None,
                    carry_fields=(),
                    binary_fields=(),
                ),
            ),
            recorder=self.recorder,
            logger=LOGGER,
        )
        mine: list[BatchFigures] = []
        batching = batching or Batching(max_size=64, max_wait_seconds=0.0)
        figures = BatchFigures("reader-1", batching.max_size, self.recorder, mine, self.clock)
        mine.append(figures)
        self.row = figures.row
        self.batches = Batches(
            batching,
            slot=self.slot,
            in_flight=self.in_flight,
            pauses=self.pauses,
            outbox=self.outbox,  # type: ignore[arg-type]
            delivery=delivery,
            runner=self.runner,  # type: ignore[arg-type]
            figures=figures,
            logger=LOGGER,
            clock=self.clock,
            sleep=self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        self.clock.now += seconds

    def give(self, count: int) -> list[str]:
        ids = [f"{n}-0" for n in range(1, count + 1)]
        self.slot.waiting.extend(Entry(one, [b"n", b"1"]) for one in ids)
        return ids

    def settle_all(self, most_steps: int = 1000) -> None:
        """Make passes until nothing waits. In each, every message stands somewhere."""
        known = self.in_flight.ids(KEYS)
        for _ in range(most_steps):
            if not self.slot.waiting:
                break
            self.step()
            assert self.in_flight.ids(KEYS) == known
        assert not self.slot.waiting
        assert self.slot.attempt is None
        assert not self.slot.runs_processor
        self.recorder.flush()

    def step(self, read: Callable[[int], None] = lambda _: None, has_fetched: bool = False) -> None:
        self.batches.step(read, lambda: None, has_fetched=has_fetched)

    def charged(self) -> list[str]:
        return [one.id for one in self.outbox.outcomes if isinstance(one, (Park, Bury))]


def failing(bad: set[str], error: Callable[[], BaseException] = ValueError) -> Any:
    """A processor that raises if it is given one of these."""

    def process(ids: Sequence[str]) -> list[None]:
        if bad.intersection(ids):
            raise error()
        return [None] * len(ids)

    return process


# --- halves -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.data())
def test_exactly_the_culprits_are_charged_once_and_each_other_message_is_done(
    count: int, data: st.DataObject
) -> None:
    bad = {f"{n}-0" for n in data.draw(st.sets(st.integers(1, count)))}
    scene = Scene(failing(bad))
    ids = scene.give(count)
    scene.settle_all()
    assert sorted(scene.charged()) == sorted(bad)
    assert sorted(scene.outbox.done) == sorted(set(ids) - bad)
    assert len(scene.runner.runs) <= 2 * count - 1
    if len(bad) == 1:
        assert len(scene.runner.runs) <= 1 + 2 * (count - 1).bit_length()
    assert scene.figures.counters["batch_extra_runs"] == len(scene.runner.runs) - 1
    assert Counter(scene.figures.counters)["jobs_failed"] == len(bad)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(1, 16), st.data())
def test_with_too_little_memory_every_message_is_done_and_only_those_too_large_are_charged(
    count: int, fits: int, data: st.DataObject
) -> None:
    bad = {f"{n}-0" for n in data.draw(st.sets(st.integers(1, count), max_size=3))}
    large = {f"{n}-0" for n in data.draw(st.sets(st.integers(1, count), max_size=2))}

    def process(ids: Sequence[str]) -> list[None]:
        if len(ids) > fits or large.intersection(ids):
            raise OutOfMemoryError("CUDA out of memory")
        if bad.intersection(ids):
            raise ValueError
        return [None] * len(ids)

    scene = Scene(process)
    ids = scene.give(count)
    scene.settle_all()
    assert sorted(scene.charged()) == sorted(bad | large)
    assert sorted(scene.outbox.done) == sorted(set(ids) - bad - large)
    assert len(scene.runner.runs) <= 2 * count - 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError,
        SystemExit,
        lambda: ChildCrashed(-11),
        lambda: DeadlinePassed(1.0),
        lambda: Reject("no use"),
    ],
)
def test_any_error_of_a_whole_batch_is_charged_to_its_culprit_alone(
    error: Callable[[], BaseException],
) -> None:
    scene = Scene(failing({"3-0"}, error))
    scene.give(8)
    scene.settle_all()
    assert scene.charged() == ["3-0"]
    assert len(scene.outbox.done) == 7
    assert ["3-0"] in scene.runner.runs


@pytest.mark.parametrize("error", [JobCancelled, ValueError])
def test_a_message_that_is_cancelled_ends_and_the_rest_of_its_failed_batch_runs_again(
    error: Callable[[], BaseException],
) -> None:
    scene = Scene(lambda _: [])

    def process(ids: Sequence[str]) -> list[None]:
        attempt = scene.slot.attempt
        assert attempt is not None
        if "2-0" in ids:
            scene.slot.cancel(attempt, attempt.entries[1])
            raise error()
        return [None] * len(ids)

    scene.runner.process = process
    scene.give(3)
    scene.settle_all()
    assert scene.runner.runs == [["1-0", "2-0", "3-0"], ["1-0", "3-0"]]
    assert scene.outbox.done == ["1-0", "3-0"]
    (ended,) = scene.outbox.outcomes
    assert isinstance(ended, Finish)
    assert (ended.id, ended.status) == ("2-0", "cancelled")
    assert scene.figures.counters["jobs_failed"] == 0


def test_a_message_of_a_batch_may_be_cancelled_by_itself_and_one_is_never_started() -> None:
    scene = Scene(lambda ids: [JobCancelled() if one == "1-0" else None for one in ids])
    scene.slot.waiting.append(
        Entry("9-0", [OPTIONS.encode(), JobOptions(cancelled=True).to_item()])
    )
    scene.give(2)
    scene.settle_all()
    assert scene.runner.runs == [["1-0", "2-0"]]
    assert scene.outbox.done == ["2-0"]
    ended = [(one.id, one.status) for one in scene.outbox.outcomes if isinstance(one, Finish)]
    assert ended == [("9-0", "cancelled"), ("1-0", "cancelled")]


def test_what_has_run_is_sent_before_the_next_part_runs() -> None:
    scene = Scene(failing({"8-0"}))
    scene.give(8)
    scene.settle_all()
    assert scene.outbox.flushes[:4] == [0, 4, 4, 6]


def test_parts_stay_with_their_reader_as_long_as_any_is_left() -> None:
    held: list[bool] = []
    scene = Scene(lambda _: [])

    def process(ids: Sequence[str]) -> list[None]:
        held.append(scene.slot.holds_parts)
        if "4-0" in ids:
            raise ValueError
        return [None] * len(ids)

    scene.runner.process = process
    scene.give(4)
    scene.settle_all()
    assert scene.runner.runs[1:] == [["1-0", "2-0"], ["3-0", "4-0"], ["3-0"], ["4-0"]]
    assert held == [False, True, True, True, True]
    scene.give(1)
    scene.settle_all()
    assert held[5:] == [False]


def test_no_sibling_takes_the_parts_of_a_batch() -> None:
    scene = Scene(failing({"8-0"}))
    scene.give(8)
    sibling = Slot("reader-2")
    scene.in_flight.add_slot(sibling)
    scene.step()
    attempt = scene.in_flight.start_batch(scene.slot, 1, scene.clock.now - 10.0)
    assert attempt is not None
    assert not scene.in_flight.take_from_sibling(sibling, scene.clock.now)


def test_parts_that_were_handed_back_are_forgotten() -> None:
    scene = Scene(failing({"8-0"}))
    scene.give(8)
    scene.step()
    assert len(scene.in_flight.withdraw(KEYS)) == 8
    scene.slot.waiting.extend([Entry("9-0", []), Entry("10-0", []), Entry("11-0", [])])
    scene.step()
    assert scene.runner.runs == [[f"{n}-0" for n in range(1, 9)], ["9-0", "10-0", "11-0"]]
    assert not scene.slot.holds_parts


def test_nothing_starts_while_no_messages_are_taken() -> None:
    scene = Scene(failing({"8-0"}))
    scene.give(8)
    scene.step()
    scene.pauses.close()
    scene.step()
    assert len(scene.runner.runs) == 1
    assert len(scene.slot.waiting) == 8


def test_a_run_that_fails_after_its_deadline_charges_nobody_again() -> None:
    scene = Scene(lambda _: [])

    def process(_ids: Sequence[str]) -> Sequence[object]:
        assert scene.slot.attempt is not None
        scene.slot.attempt.given_up = True
        raise ValueError

    scene.runner.process = process
    scene.give(3)
    scene.step()
    assert not scene.slot.waiting
    assert scene.outbox.ids() == []


def test_fields_that_a_failed_run_has_changed_are_whole_in_the_next_run() -> None:
    seen: list[int] = []
    scene = Scene(failing(set()))

    def run(attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        attempt.ended_at = scene.clock.now
        for one in fields:
            seen.append(len(one))
            one.clear()
        if len(fields) > 1:
            raise ValueError
        return [None]

    scene.runner.run_batch = run  # type: ignore[method-assign]
    scene.give(2)
    scene.settle_all()
    assert seen == [1, 1, 1, 1]


def test_a_suspect_counts_as_running_until_its_outcome_is_confirmed() -> None:
    scene = Scene(failing(set()))
    entry = Entry("1-0", [b"n", b"1"], deliveries=2)
    scene.slot.waiting.append(entry)
    scene.settle_all()
    assert scene.slot.unsettled_suspects == [entry]


class Large:
    """What a model holds while it runs."""


def test_what_a_run_out_of_memory_holds_is_released_before_the_next_run() -> None:
    alive: weakref.WeakSet[Large] = weakref.WeakSet()
    kept: list[BaseException] = []
    alive_at_start: list[int] = []

    def process(ids: Sequence[str]) -> list[None]:
        alive_at_start.append(len(alive))
        large = Large()
        alive.add(large)
        if len(ids) > 1:
            kept.append(OutOfMemoryError("CUDA out of memory"))  # as a debugger does
            raise kept[-1]
        return [None] * len(ids)

    scene = Scene(process)
    scene.give(2)
    scene.settle_all()
    assert alive_at_start == [0, 0, 0]


def test_one_message_that_is_too_large_leaves_the_ceiling_where_it_was() -> None:
    large: set[str] = set()
    fits = 4

    def process(ids: Sequence[str]) -> list[None]:
        if len(ids) > fits or large.intersection(ids):
            raise MemoryError
        return [None] * len(ids)

    scene = Scene(process, batching=Batching(max_size=8, max_wait_seconds=0.0))
    scene.give(8)
    scene.settle_all()
    assert scene.row()["ceiling"] == 4
    large.add("3-0")
    scene.give(4)
    scene.settle_all()
    assert scene.charged() == ["3-0"]
    assert scene.row()["ceiling"] == 4


# --- each its own fate ------------------------------------------------------------------------


def test_messages_that_must_not_run_are_settled_and_the_others_run() -> None:
    scene = Scene(failing(set()))
    scene.slot.waiting.extend(
        [Entry("1-0", [b"n", b"1"]), Entry("2-0", [b"n", b"\xff"]), Entry("3-0", [b"n", b"1"])]
    )
    scene.settle_all()
    assert scene.runner.runs == [["1-0", "3-0"]]
    assert scene.charged() == ["2-0"]


def test_a_batch_of_nothing_but_bad_input_does_not_run() -> None:
    scene = Scene(failing(set()))
    scene.slot.waiting.extend([Entry("1-0", [b"n", b"\xff"]), Entry("2-0", [b"n", b"\xff"])])
    scene.settle_all()
    assert scene.runner.runs == []
    assert scene.charged() == ["1-0", "2-0"]


def test_of_many_failures_in_a_batch_one_waits_for_a_drain_that_may_have_caused_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[bool] = []

    def was_interrupted(*_: object, may_wait: bool) -> bool:
        held.append(may_wait)
        return False

    monkeypatch.setattr(Interruptions, "was_interrupted", was_interrupted)
    scene = Scene(lambda ids: [ValueError() for _ in ids])
    scene.give(4)
    scene.settle_all()
    assert held == [True, False, False, False]


def test_a_failure_that_is_returned_is_charged_as_one_that_is_raised() -> None:
    raised, returned = Scene(failing({"1-0"})), Scene(lambda _: [ValueError()])
    for scene in (raised, returned):
        scene.give(1)
        scene.settle_all()
    (one,), (other,) = raised.outbox.outcomes, returned.outbox.outcomes
    assert isinstance(one, Park)
    assert isinstance(other, Park)
    assert one.delay_ms == other.delay_ms
    assert raised.figures.counters == returned.figures.counters


# --- collecting -------------------------------------------------------------------------------


def test_the_wait_counts_from_the_first_message_and_ends_when_the_batch_is_full() -> None:
    scene = Scene(failing(set()), batching=Batching(max_size=4, max_wait_seconds=1.0))
    scene.give(1)
    asked: list[tuple[float, int]] = []

    def read(room: int) -> None:
        asked.append((scene.clock.now, room))
        if len(asked) == 3:
            scene.slot.waiting.extend([Entry("7-0", []), Entry("8-0", []), Entry("9-0", [])])

    began = scene.clock.now
    scene.step(read, has_fetched=True)
    assert [room for _, room in asked] == [3, 3, 3]
    assert asked[0][0] == began
    assert scene.runner.runs == [["1-0", "7-0", "8-0", "9-0"]]


def test_a_batch_that_is_not_full_runs_when_its_wait_is_over() -> None:
    scene = Scene(failing(set()), batching=Batching(max_size=4, max_wait_seconds=0.5))
    scene.give(1)
    began = scene.clock.now
    scene.step(has_fetched=True)
    assert scene.runner.runs == [["1-0"]]
    assert scene.clock.now == pytest.approx(began + 0.5 + 0.1)  # and how long it has run


def test_what_has_waited_before_takes_what_is_there_and_waits_no_more() -> None:
    scene = Scene(failing(set()), batching=Batching(max_size=4, max_wait_seconds=0.5))
    scene.give(1)
    asked: list[int] = []
    began = scene.clock.now
    scene.step(asked.append)
    assert asked == [3]
    assert scene.clock.now == pytest.approx(began + 0.1)


def test_the_wait_ends_when_nothing_may_start_any_more() -> None:
    scene = Scene(failing(set()), batching=Batching(max_size=4, max_wait_seconds=60.0))
    scene.give(1)
    began = scene.clock.now
    scene.step(lambda _: scene.pauses.close(), has_fetched=True)
    assert scene.clock.now - began < 0.1
    assert scene.runner.runs == []
    assert len(scene.slot.waiting) == 1


def test_only_a_batch_has_waited() -> None:
    scene = Scene(failing({"2-0"}))
    scene.step(has_fetched=True)
    scene.give(2)
    scene.settle_all()
    scene.step(has_fetched=True)
    scene.recorder.flush()
    assert scene.figures.durations["batch_wait"] == 1  # for three runs


# --- figures ----------------------------------------------------------------------------------


def test_a_page_shows_what_batches_cost_and_how_large_they_are() -> None:
    scene = Scene(failing(set()), batching=Batching(max_size=4, max_wait_seconds=0.0))
    scene.give(8)
    scene.settle_all()
    row = scene.row()
    assert (row["reader"], row["runs"], row["mean_size"], row["ceiling"]) == ("reader-1", 2, 4.0, 4)
    assert row["base_ms"] is None  # all runs had the same size


def test_the_lower_ceiling_is_shown() -> None:
    def process(ids: Sequence[str]) -> list[None]:
        if len(ids) > 2:
            raise MemoryError
        return [None] * len(ids)

    scene = Scene(process, batching=Batching(max_size=8, max_wait_seconds=0.0))
    scene.give(8)
    scene.settle_all()
    assert scene.figures.gauges["batch_ceiling"] == 2
    assert scene.row()["ceiling"] == 2
    assert scene.row()["extra_runs"] == 6
