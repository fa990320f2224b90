"""A source whose calls return, raise or hang as the test says, on a clock that is set by hand."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterator

import pytest
from helpers import Clock, eventually, in_a_fork

from shared_sync.metrics.polled_source import NothingToRead, PolledSource

WITHIN = 20  # seconds for what should happen at once


class Meter:
    """What is read: returns `value`, or raises it if it is an error; waits while it is closed.

    `seconds` pass on the clock in each call.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.value: object = "values"
        self.seconds = 0.0
        self.calls = 0
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()
        self.threads: set[str] = set()

    def read(self) -> object:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.open.wait(WITHIN)
        self._clock.now += self.seconds
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


@pytest.fixture
def meter(clock: Clock) -> Iterator[Meter]:
    meter = Meter(clock)
    yield meter
    meter.open.set()


@pytest.fixture
def source(clock: Clock, meter: Meter) -> Iterator[PolledSource[object]]:
    """One that reads once when it is started, and then only when it is stepped."""
    source: PolledSource[object] = PolledSource(
        "meter", meter.read, period_seconds=3600, clock=clock
    )
    yield source
    source.stop()
    meter.open.set()


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    for thread in threads():
        thread.join(WITHIN)
    assert threads() == set()


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "shared-sync-meter"}


# --- one call ---------------------------------------------------------------------------------


def test_there_is_nothing_before_the_first_call(source: PolledSource[object]) -> None:
    assert source.latest() is None
    assert source.failures == 0


def test_the_last_result_stays_until_the_next(source: PolledSource[object], meter: Meter) -> None:
    source._poller.poll_once()
    assert source.latest() == "values"
    assert source.latest() == "values"
    meter.value = "new values"
    source._poller.poll_once()
    assert source.latest() == "new values"
    assert source.failures == 0


@pytest.mark.parametrize("error", [OSError("secret"), SystemExit("secret")])
def test_a_call_that_raises_leaves_nothing_and_is_counted(
    source: PolledSource[object], meter: Meter, error: BaseException
) -> None:
    source._poller.poll_once()
    meter.value = error
    source._poller.poll_once()
    assert source.latest() is None
    source._poller.poll_once()
    assert source.failures == 2
    meter.value = "values"
    source._poller.poll_once()
    assert source.latest() == "values"
    assert source.failures == 2


def test_a_first_failure_is_logged_by_its_type_then_the_recovery_with_its_length(
    source: PolledSource[object], meter: Meter, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        meter.value = OSError("secret")
        source._poller.poll_once()
        clock.now += 10
    meter.value = "values"
    source._poller.poll_once()
    source._poller.poll_once()
    first, second = caplog.records
    assert (first.levelname, second.levelname) == ("WARNING", "INFO")
    assert "meter fails: OSError" in first.getMessage()
    assert "after 30.0 s" in second.getMessage()
    assert "secret" not in caplog.text


# --- a call that hangs ------------------------------------------------------------------------


def test_who_asks_does_not_wait_for_a_call_that_hangs(
    source: PolledSource[object], meter: Meter, clock: Clock
) -> None:
    source.start()
    eventually(lambda: source.latest() == "values", within=WITHIN)
    meter.entered.clear()
    meter.open.clear()
    source._poller.request()
    assert meter.entered.wait(WITHIN)
    clock.now += 5
    assert source.latest() == "values"
    assert source.failures == 0
    clock.now += 0.1
    for _ in range(3):
        assert source.latest() is None
        assert source.failures == 1
    meter.value = "new values"
    meter.open.set()
    eventually(lambda: source.latest() == "new values", within=WITHIN)
    assert source.failures == 1


def test_a_hang_is_counted_once_also_when_nobody_asked_meanwhile(
    source: PolledSource[object], meter: Meter
) -> None:
    meter.seconds = 5.1
    source._poller.poll_once()
    assert source.latest() == "values"
    assert source.failures == 1
    meter.seconds = 5.0
    source._poller.poll_once()
    assert source.failures == 1


def test_a_hang_that_ends_in_an_error_is_both(source: PolledSource[object], meter: Meter) -> None:
    meter.seconds, meter.value = 6.0, OSError()
    source._poller.poll_once()
    assert source.latest() is None
    assert source.failures == 2


def test_a_hang_is_logged_while_it_lasts_and_its_end_too(
    source: PolledSource[object], meter: Meter, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    meter.open.clear()
    source.start()
    assert meter.entered.wait(WITHIN)
    clock.now += 6
    for _ in range(3):
        source.latest()
    eventually(lambda: caplog.records, within=WITHIN)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "meter has not answered for 5 s" in caplog.text
    clock.now += 6
    meter.open.set()
    eventually(lambda: len(caplog.records) == 2, within=WITHIN)
    assert "after 12.0 s" in caplog.text


def test_a_hang_that_was_logged_and_then_raises_is_not_logged_again(
    source: PolledSource[object], meter: Meter, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    meter.open.clear()
    meter.value = OSError()
    source.start()
    assert meter.entered.wait(WITHIN)
    clock.now += 6
    source.latest()
    meter.open.set()
    eventually(lambda: source.failures == 2, within=WITHIN)
    meter.seconds = 6
    source._poller.poll_once()
    assert source.failures == 4
    assert len(caplog.records) == 1


# --- its thread -------------------------------------------------------------------------------


def test_it_reads_again_and_again_from_one_thread_of_its_own(clock: Clock, meter: Meter) -> None:
    source: PolledSource[object] = PolledSource(
        "meter", meter.read, period_seconds=0.001, clock=clock
    )
    for _ in range(3):
        source.start()
    eventually(lambda: meter.calls >= 3, within=WITHIN)
    (thread,) = threads()
    source.stop()
    thread.join(WITHIN)
    assert not thread.is_alive()
    assert meter.threads == {"shared-sync-meter"}
    assert source.latest() is None


def test_an_error_ends_no_thread(clock: Clock, meter: Meter) -> None:
    meter.value = SystemExit()
    source: PolledSource[object] = PolledSource(
        "meter", meter.read, period_seconds=0.001, clock=clock
    )
    source.start()
    eventually(lambda: source.failures >= 3, within=WITHIN)
    source.stop()


def test_a_stop_does_not_wait_for_a_call_that_hangs(
    source: PolledSource[object], meter: Meter
) -> None:
    meter.open.clear()
    source.start()
    assert meter.entered.wait(WITHIN)
    source.stop()
    (thread,) = threads()
    meter.open.set()
    thread.join(WITHIN)
    assert not thread.is_alive()
    assert meter.calls == 1
    source.start()
    assert threads() == set()


def test_where_there_is_nothing_to_read_the_thread_ends_and_nothing_failed(
    source: PolledSource[object], meter: Meter, caplog: pytest.LogCaptureFixture
) -> None:
    meter.value = NothingToRead()
    source.start()
    eventually(lambda: threads() == set(), within=WITHIN)
    assert meter.calls == 1
    assert source.latest() is None
    assert source.failures == 0
    assert caplog.records == []


def test_an_owner_that_stops_it_on_its_end_is_not_kept_alive(
    source: PolledSource[object], meter: Meter
) -> None:
    class Owner:
        def __init__(self) -> None:
            self.source = source
            weakref.finalize(self, source.stop)

    owner = Owner()
    owner.source.start()
    assert meter.entered.wait(WITHIN)
    (thread,) = threads()
    del owner
    thread.join(WITHIN)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_starts_its_own_although_its_parents_call_hangs(
    source: PolledSource[object], meter: Meter, clock: Clock
) -> None:
    meter.open.clear()
    source.start()
    assert meter.entered.wait(WITHIN)
    clock.now += 6
    assert source.failures == 1

    def live_in_the_child() -> None:
        assert source.failures == 0
        assert source.latest() is None
        meter.open = threading.Event()
        meter.open.set()
        source.start()
        eventually(lambda: source.latest() == "values", within=WITHIN)
        assert source.failures == 0

    in_a_fork(live_in_the_child)
    assert source.failures == 1
