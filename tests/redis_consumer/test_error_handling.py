"""An error of a thread is logged once, repaired if it can be, and followed by a pause."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from helpers import Clock, Figures

from shared_sync.common.guarded import GuardedLogger, GuardedRecorder
from shared_sync.connection.availability import Availability
from shared_sync.errors import (
    ConsumerBroken,
    ConsumerIdInUse,
    GroupMissing,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.redis_consumer.error_handling import FIRST_PAUSE_SECONDS, ErrorHandling

LOGGER = GuardedLogger(logging.getLogger("tests.error_handling"))
LONGEST_PAUSE_SECONDS = 2.0
GONE = GroupMissing("NOGROUP no such group", code="NOGROUP")


class Scene:
    """The errors of one pool, and what was done about them."""

    def __init__(self) -> None:
        self.figures = Figures()
        self.availability = Availability("redis://somewhere:6379/0", LOGGER, Clock())
        self.availability.succeeded("reader-1")
        self.repairs = 0
        self.repair_error: SharedSyncError | None = None
        self.broken: list[ConsumerBroken] = []
        subscription = SimpleNamespace(
            commands=SimpleNamespace(consumer="w1"), repair_group=self._repair
        )
        self._errors = ErrorHandling(
            subscription,  # type: ignore[arg-type]
            availability=self.availability,
            recorder=GuardedRecorder(self.figures, LOGGER),
            logger=LOGGER,
            longest_pause_seconds=LONGEST_PAUSE_SECONDS,
            on_broken=self.broken.append,
        )

    def _repair(self) -> None:
        self.repairs += 1
        if self.repair_error is not None:
            raise self.repair_error

    def handle(self, error: BaseException, failures: int = 1) -> float:
        return self._errors.handle("reader-1", error, failures)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_redis_that_fails_is_noted_with_the_thread_that_met_it(scene: Scene) -> None:
    scene.handle(RedisUnavailable("connection refused"))
    assert [failure.text for failure in scene.availability.failures()] == ["connection refused"]
    assert not scene.availability.connected
    assert scene.figures.counters == {}


def test_a_group_that_is_gone_is_repaired_and_the_thread_is_well_again(scene: Scene) -> None:
    scene.handle(GONE)
    assert scene.repairs == 1
    assert not scene.availability.group_missing
    assert scene.availability.connected


def test_a_group_that_cannot_be_repaired_is_missing_until_it_can(scene: Scene) -> None:
    scene.repair_error = RedisRefused("OOM no room", code="OOM")
    scene.handle(GONE)
    assert scene.availability.group_missing
    assert not scene.availability.connected
    scene.repair_error = None
    scene.handle(GONE)
    assert not scene.availability.group_missing
    assert scene.availability.connected


def test_a_name_that_another_process_has_claimed_breaks_the_consumer_and_says_whose_it_is(
    scene: Scene,
) -> None:
    identity = ProcessIdentity("token", "gpu-7", 4711, "", "", 1).text()
    scene.handle(RedisRefused(f"HELD {identity} script: abc, on @user_script:33.", code="HELD"))
    (error,) = scene.broken
    assert isinstance(error, ConsumerIdInUse)
    assert (error.consumer_id, error.host, error.pid) == ("w1", "gpu-7", 4711)


@pytest.mark.parametrize("error", [ValueError("?"), MemoryError(), SystemExit()])
def test_any_other_error_is_counted_and_logged_with_its_traceback(
    scene: Scene, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    scene.handle(error)
    assert scene.figures.counters == {f"errors.{type(error).__name__}": 1}
    (record,) = caplog.records
    assert record.exc_info
    assert scene.availability.connected, "Redis is not to blame"


def test_pauses_grow_with_the_failures_in_a_row_and_stay_below_the_longest(scene: Scene) -> None:
    pauses = [scene.handle(RedisUnavailable("away"), failures) for failures in (1, 2, 100)]
    assert 0 < pauses[0] <= FIRST_PAUSE_SECONDS
    assert FIRST_PAUSE_SECONDS / 2 <= pauses[1] <= 2 * FIRST_PAUSE_SECONDS
    assert LONGEST_PAUSE_SECONDS / 2 <= pauses[2] <= LONGEST_PAUSE_SECONDS
