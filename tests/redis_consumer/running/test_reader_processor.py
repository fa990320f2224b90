"""The processor of one reader: what is measured, when it is replaced, and what a failure costs."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable

import pytest
from helpers import Clock, Figures
from runners import LOGGER, raising

from shared_sync.common.guarded import GuardedRecorder
from shared_sync.errors import LoadingFailed
from shared_sync.processors import ProcessorContext, ProcessorSource
from shared_sync.redis_consumer.running.loading import Loading
from shared_sync.redis_consumer.running.reader_processor import ReaderProcessor
from shared_sync.redis_consumer.running.runner import ThreadRunner
from shared_sync.redis_consumer.slot import Slot


class Model:
    """What a factory returns."""

    def __init__(self, log: list[str], number: int) -> None:
        self.log, self.number = log, number

    def process(self, *_: object) -> None: ...

    def close(self) -> None:
        self.log.append(f"close {self.number}")


class Scene:
    """One reader of a pool, whose factory a test lets fail."""

    def __init__(
        self, clock: Clock, *, max_jobs: float = 3, turn: threading.Lock | None = None
    ) -> None:
        self.clock = clock
        self.figures = Figures()
        self.slot = Slot("c-reader-2")
        self.log: list[str] = []
        self.fail: Callable[[], object] | None = None
        self.states: list[tuple[float | None, bool]] = []
        self.turn = turn or threading.Lock()
        self._made = 0
        context = ProcessorContext(2, "cuda:1", self.figures, LOGGER)
        source = ProcessorSource("processor_factory", self._make)
        loading = Loading(1, takes_time=True, one_by_one=False, clock=clock)
        loading.begin()
        self.processor = ReaderProcessor(
            ThreadRunner(source, context),
            context,
            self.slot,
            loading=loading,
            turn=self.turn,
            recorder=GuardedRecorder(self.figures, LOGGER),
            logger=LOGGER,
            max_jobs=max_jobs,
            may_be_replaced=True,
            clock=clock,
        )

    def _make(self, _: ProcessorContext) -> Model:
        self._made += 1
        self.states.append((self.slot.loads_since, self.slot.is_loading))
        if self.fail is not None:
            self.fail()
        self.log.append(f"make {self._made}")
        return Model(self.log, self._made)


@pytest.fixture
def scene(clock: Clock) -> Scene:
    made = Scene(clock)
    assert made.processor.begin()
    return made


def test_a_first_loading_is_measured_and_the_slot_says_that_it_loads(scene: Scene) -> None:
    assert scene.log == ["make 1"]
    assert scene.states == [(scene.clock.now, True)]
    assert (scene.slot.loads_since, scene.slot.is_loading) == (None, False)
    assert scene.figures.durations == {"processor_load": 1}
    assert scene.figures.counters == {}


def test_an_error_of_any_kind_is_one_error_that_names_reader_and_device(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(clock)
    scene.fail = raising(SystemExit("no weights"))
    assert not scene.processor.begin()
    with pytest.raises(LoadingFailed) as raised:
        scene.processor._loading.wait(lambda _: False)
    assert str(raised.value) == (
        "the processor of reader 2 (cuda:1) could not be loaded: SystemExit: no weights"
    )
    assert (raised.value.reader, raised.value.device) == (2, "cuda:1")
    assert isinstance(raised.value.__cause__, SystemExit)
    (record,) = caplog.records
    assert record.getMessage() == str(raised.value)
    assert record.exc_info
    assert scene.figures.counters == {"errors.SystemExit": 1}
    assert scene.figures.durations == {}
    scene.processor.close()


def test_it_is_replaced_after_so_many_messages_the_old_one_closed_first(scene: Scene) -> None:
    for messages in (1, 1):
        scene.processor.has_run(messages)
        assert not scene.processor.may_replace()
    scene.processor.has_run(1)
    assert scene.processor.may_replace()
    scene.processor.replace()
    assert scene.log == ["make 1", "close 1", "make 2"]
    assert scene.figures.counters == {"processors_replaced": 1}
    assert scene.figures.durations == {"processor_load": 2}
    scene.processor.has_run(2)
    assert not scene.processor.may_replace()


def test_no_more_messages_are_fetched_than_the_processor_is_to_run(scene: Scene) -> None:
    assert scene.processor.most_to_fetch(100) == 3
    scene.processor.has_run(2)
    assert scene.processor.most_to_fetch(100) == 1
    scene.processor.has_run(5)
    assert scene.processor.most_to_fetch(100) == 1, "while another reader has the turn"


def test_one_reader_at_a_time_is_replaced_and_the_others_go_on(scene: Scene, clock: Clock) -> None:
    other = Scene(clock, turn=scene.turn)
    assert other.processor.begin()
    for one in (scene, other):
        one.processor.has_run(3)
    assert scene.processor.may_replace()
    assert not other.processor.may_replace()
    other.processor.has_run(1)
    assert not other.processor.may_replace()
    scene.processor.replace()
    assert other.processor.may_replace()


def test_one_that_is_gone_is_replaced_at_once_whoever_has_the_turn(scene: Scene) -> None:
    assert scene.turn.acquire(blocking=False)
    scene.processor.runner.close()
    assert scene.processor.may_replace()
    scene.processor.replace()
    assert not scene.processor.may_replace()
    assert scene.turn.locked(), "it belongs to another reader"


def test_a_new_one_that_fails_is_a_problem_until_it_comes(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = scene.clock
    scene.processor.has_run(3)
    began = clock.now
    scene.fail = raising(MemoryError("full"))
    for times in ("once", "2 times"):
        assert scene.processor.may_replace()
        with pytest.raises(LoadingFailed):
            scene.processor.replace()
        assert scene.processor.problem == (
            f"c-reader-2 has no processor: loading a new one has failed {times} (MemoryError), "
            "and is tried again"
        )
        assert scene.slot.loads_since == began
        assert not scene.slot.is_loading
        clock.now += 10
    assert scene.turn.locked(), "no other reader gives up its own"
    scene.fail = None
    scene.processor.replace()
    assert scene.processor.problem is None
    assert scene.slot.loads_since is None
    assert not scene.turn.locked()
    assert scene.log == ["make 1", "close 1", "make 4"]
    assert "c-reader-2 has a processor again, after 20 s" in caplog.messages


def test_a_failed_loading_keeps_nothing_of_the_model_alive(scene: Scene) -> None:
    alive: weakref.WeakSet[Model] = weakref.WeakSet()

    def fail() -> None:
        half = Model([], 0)
        alive.add(half)
        raise MemoryError

    scene.processor.has_run(3)
    assert scene.processor.may_replace()
    scene.fail = fail
    with pytest.raises(LoadingFailed) as raised:
        scene.processor.replace()
    gc.collect()
    assert not alive
    assert raised.value
