"""All processors of a pool are loaded before any reader reads; one that fails ends the loading."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from helpers import Clock, Gate, eventually

from shared_sync.errors import LoadingFailed
from shared_sync.redis_consumer.running.loading import Loading


def never(_: float) -> bool:
    return False


@dataclass
class Readers:
    """Threads that load, each with a gate that lets it do so, and which of them went on."""

    loading: Loading
    gates: list[Gate]
    went_on: dict[int, bool] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, number: int, load: Callable[[], object] | None = None) -> None:
        def run() -> None:
            act = load or self.gates[number - 1]
            self.went_on[number] = self.loading.load(number, lambda: [act(), None][1])  # type: ignore[func-returns-value]

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()


@contextmanager
def readers(count: int, *, one_by_one: bool) -> Iterator[Readers]:
    loading = Loading(count, takes_time=True, one_by_one=one_by_one)
    made = Readers(loading, [Gate() for _ in range(count)])
    loading.begin()
    yield made
    loading.cancel()
    for gate in made.gates:
        gate.opened.set()
    for thread in made.threads:
        thread.join(10)
        assert not thread.is_alive()


def test_readers_load_one_after_the_other_in_their_order_and_go_on_together() -> None:
    with readers(2, one_by_one=True) as scene:
        first, second = scene.gates
        scene.start(2)
        scene.start(1)
        assert first.entered.wait(10)
        assert not second.entered.is_set()
        first.opened.set()
        assert second.entered.wait(10)
        assert not scene.loading.is_complete
        assert not scene.went_on
        second.opened.set()
        assert scene.loading.wait(never)
        eventually(lambda: scene.went_on == {1: True, 2: True})
        assert scene.loading.is_complete


def test_readers_that_are_processes_load_at_the_same_time() -> None:
    with readers(2, one_by_one=False) as scene:
        for number, gate in enumerate(scene.gates, 1):
            scene.start(number)
            assert gate.entered.wait(10)


def test_the_first_failure_is_raised_at_once_and_nobody_goes_on() -> None:
    failure = LoadingFailed(1, "cuda:0", "OSError: no such file")

    def fail() -> None:
        raise failure

    with readers(3, one_by_one=False) as scene:
        scene.start(2)
        assert scene.gates[1].entered.wait(10)
        scene.start(1, fail)
        with pytest.raises(LoadingFailed) as raised:
            scene.loading.wait(never)
        assert raised.value is failure
        scene.start(3)  # it comes late, and does not begin to load
        eventually(lambda: scene.went_on == {1: False, 3: False})
        assert not scene.gates[2].entered.is_set()
        scene.gates[1].opened.set()
        eventually(lambda: scene.went_on == {1: False, 2: False, 3: False})


def test_a_cancelled_loading_ends_every_wait_at_once_while_one_still_loads() -> None:
    with readers(2, one_by_one=True) as scene:
        scene.start(1)
        scene.start(2)
        assert scene.gates[0].entered.wait(10)
        threading.Timer(0.05, scene.loading.cancel).start()
        assert scene.loading.wait(never) is False
        eventually(lambda: scene.went_on == {2: False})
        assert not scene.gates[1].entered.is_set()


def test_who_waits_for_it_may_give_up() -> None:
    with readers(1, one_by_one=True) as scene:
        scene.start(1)
        assert scene.loading.wait(lambda _: True) is False


def test_a_function_is_loaded_at_once_and_its_reader_waits_for_no_other() -> None:
    loading = Loading(2, takes_time=False, one_by_one=True)
    assert loading.is_complete
    assert not loading.has_begun
    loaded: list[int] = []
    assert loading.load(2, lambda: loaded.append(2))
    assert loaded == [2]
    assert loading.wait(never)


def test_the_reason_says_how_many_are_loaded_and_for_how_long_it_has_taken(clock: Clock) -> None:
    loading = Loading(2, takes_time=True, one_by_one=False, clock=clock)
    assert not loading.has_begun
    loading.begin()
    assert loading.has_begun
    threading.Thread(target=loading.load, args=(2, lambda: None), daemon=True).start()
    clock.now += 34
    expected = "loading processors: 1 of 2 loaded, 34 s so far"
    eventually(lambda: loading.reason == expected)
    loading.cancel()
