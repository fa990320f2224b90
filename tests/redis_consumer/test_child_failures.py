"""What becomes of a message whose child process crashed, was too slow, or raised an error."""

from __future__ import annotations

import json
import logging
import signal

import pytest
from deliveries import ID, LOGGER, Deliveries, entry, metadata, raising, result_of

from shared_sync.common.guarded import GuardedRecorder
from shared_sync.errors import Reject, Retry
from shared_sync.isolation.errors import ChildCrashed, ChildGone, DeadlinePassed, RemoteError
from shared_sync.metrics import WorkerMetrics
from shared_sync.policies import RetryPolicy
from shared_sync.protocol.messages import Bury, HandBack, Park
from shared_sync.redis_consumer import crashes
from shared_sync.redis_consumer.failures import Failure

SEGFAULT = ChildCrashed(-signal.SIGSEGV, stack="Current thread 0x1:\n  in transcribe")
TRACEBACK = (
    "Traceback (most recent call last):\n  in transcribe\nOutOfMemoryError: CUDA out of memory"
)


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=LOGGER.name)


# --- a crash ------------------------------------------------------------------------------------


def test_a_crash_is_charged_as_one_and_not_as_a_failure() -> None:
    """It is parked without a line of history: what is not on record counts as a crash."""
    deliveries = Deliveries(raising(SEGFAULT))
    assert deliveries.attempt(entry()) == Park(ID, "", 2000, 1)
    assert deliveries.retries == [2.0], "so that recovery comes in time"
    assert deliveries.figures.counters["jobs_failed"] == 1
    assert deliveries.figures.counters["errors.crash"] == 1


def test_the_delay_after_a_crash_grows_with_every_attempt_and_has_a_limit() -> None:
    """No record says how long the message waits, so all servers have to know the longest delay."""
    deliveries = Deliveries(raising(SEGFAULT), max_crashes=9)
    second = deliveries.attempt(entry(deliveries=3, failures=1))
    assert second == Park(ID, "", 8000, 3)
    patient = Deliveries(raising(SEGFAULT), retry=RetryPolicy(base_seconds=300, jitter=0))
    assert patient.attempt(entry()) == Park(ID, "", crashes.LONGEST_DELAY_SECONDS * 1000, 1)


def test_at_its_last_crash_a_message_is_buried_at_once_and_says_how_it_has_crashed() -> None:
    deliveries = Deliveries(raising(SEGFAULT))
    outcome = deliveries.attempt(entry(deliveries=4, failures=1))
    assert isinstance(outcome, Bury)
    assert outcome.failure == "", "the history has failures only"
    found = metadata(outcome)
    assert (
        found["dead.reason"] == "crashed: its process died 3 times, the last time killed by SIGSEGV"
    )
    assert (found["dead.error_type"], found["dead.error"]) == ("crash", "killed by SIGSEGV")
    assert (found["dead.attempts"], found["dead.crashes"]) == ("4", "3")
    assert found["dead.traceback"] == SEGFAULT.stack
    assert result_of(outcome)["error_type"] == "crash"
    assert deliveries.figures.counters["errors.crash"] == 1


def test_with_one_crash_allowed_the_first_one_is_the_end() -> None:
    outcome = Deliveries(raising(ChildCrashed(3)), max_crashes=1).attempt(entry())
    reason = "crashed: its process died: ended with exit code 3"
    assert metadata(outcome)["dead.reason"] == reason


def test_the_log_names_a_crash_and_where_the_child_was(caplog: pytest.LogCaptureFixture) -> None:
    deliveries = Deliveries(raising(SEGFAULT))
    deliveries.attempt(entry())
    deliveries.attempt(entry(deliveries=3))
    crashed, buried = caplog.records
    assert crashed.levelno == logging.WARNING
    text = crashed.getMessage()
    assert f"message {ID} has crashed (attempt 1, crash 1 of 3): killed by SIGSEGV" in text
    assert "next attempt in 2.0 s" in text
    assert text.endswith(SEGFAULT.stack)
    assert buried.levelno == logging.ERROR
    assert SEGFAULT.stack in buried.getMessage()
    assert not crashed.exc_info
    assert not buried.exc_info


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_child_that_is_killed_while_the_consumer_stops_charges_nothing(number: int) -> None:
    deliveries = Deliveries(raising(ChildCrashed(-number)))
    deliveries.interruptions.drain_begins()
    assert deliveries.attempt(entry()) == HandBack(ID)
    assert "jobs_failed" not in deliveries.figures.counters


def test_a_child_that_had_died_before_charges_nothing() -> None:
    deliveries = Deliveries(raising(ChildGone("gone")))
    assert deliveries.attempt(entry()) == HandBack(ID)
    assert "jobs_failed" not in deliveries.figures.counters


# --- the deadline -------------------------------------------------------------------------------


def test_a_job_past_its_hard_deadline_has_failed_once(caplog: pytest.LogCaptureFixture) -> None:
    deliveries = Deliveries(raising(DeadlinePassed(30.0, stack="in decode")))
    outcome = deliveries.attempt(entry())
    assert isinstance(outcome, Park)
    failure = json.loads(outcome.failure)
    assert failure["error_type"] == "deadline"
    assert failure["error"] == "still running after 30 s (job_deadline_seconds)"
    assert deliveries.figures.counters["jobs_overdue"] == 1
    assert deliveries.figures.counters["jobs_failed"] == 1
    assert "in decode" in caplog.records[0].getMessage()


def test_the_last_deadline_leaves_a_dead_letter_with_where_the_child_was() -> None:
    retry = RetryPolicy(max_attempts=1)
    deliveries = Deliveries(raising(DeadlinePassed(0.5, stack="in decode")), retry=retry)
    found = metadata(deliveries.attempt(entry()))
    assert (found["dead.error_type"], found["dead.traceback"]) == ("deadline", "in decode")


def test_a_deadline_that_passes_while_the_consumer_drains_is_a_failure_all_the_same() -> None:
    deliveries = Deliveries(raising(DeadlinePassed(0.5)))
    deliveries.interruptions.drain_begins()
    assert isinstance(deliveries.attempt(entry()), Park)


# --- errors of the child ------------------------------------------------------------------------


def remote() -> RemoteError:
    return RemoteError(
        "CUDA out of memory",
        type_name="OutOfMemoryError",
        base_names=("torch.OutOfMemoryError", "RuntimeError", "Exception", "BaseException"),
        traceback_text=TRACEBACK,
    )


def test_an_error_of_the_child_is_kept_as_if_it_had_been_raised_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    deliveries = Deliveries(raising(remote()))
    outcome = deliveries.attempt(entry())
    assert isinstance(outcome, Park)
    failure = json.loads(outcome.failure)
    assert failure["error_type"] == "OutOfMemoryError"
    assert failure["error"] == "CUDA out of memory"
    assert deliveries.figures.counters["errors.OutOfMemoryError"] == 1
    (record,) = caplog.records
    assert record.getMessage().endswith(TRACEBACK)
    assert not record.exc_info, "a traceback of this process would say nothing"


def test_an_error_of_the_child_is_counted_in_the_category_of_its_type() -> None:
    """By the names of its types: this process has imported none of them but Python's own."""
    metrics = WorkerMetrics("worker-1")
    recorder = GuardedRecorder(metrics, LOGGER)
    kinds = [
        ("torch.OutOfMemoryError", "RuntimeError"),
        ("program.NoAudio", "program.BadInput", "ValueError"),
        ("program.Slow", "requests.exceptions.Timeout", "OSError"),
        ("__mp_main__.Odd",),
    ]
    for names in kinds:
        of = (*names, "Exception", "BaseException")
        error = RemoteError("no", type_name=names[0].rpartition(".")[2], base_names=of)
        recorder.record_error(Failure.of(error).counted)
    data = metrics.get_metrics_data()
    assert data["errors"] == {"OutOfMemoryError": 1, "NoAudio": 1, "Slow": 1, "Odd": 1}
    categories = {"out_of_memory": 1, "bad_input": 1, "timeout": 1, "internal": 1}
    assert data["errors_by_category"] == categories


def test_the_dead_letter_has_the_childs_traceback() -> None:
    retry = RetryPolicy(max_attempts=1)
    found = metadata(Deliveries(raising(remote()), retry=retry).attempt(entry()))
    assert found["dead.error_type"] == "OutOfMemoryError"
    assert found["dead.traceback"] == TRACEBACK


def test_a_directive_of_the_child_does_what_it_does_in_a_thread() -> None:
    """Each is made anew here, with what the child has raised as its cause."""
    retry, reject = Retry(7.0, "later"), Reject("no audio")
    retry.__cause__ = reject.__cause__ = remote()
    put_off = Deliveries(raising(retry)).attempt(entry())
    assert isinstance(put_off, Park)
    assert put_off.delay_ms == 7000
    assert json.loads(put_off.failure)["error_type"] == "Retry"
    rejected = metadata(Deliveries(raising(reject)).attempt(entry()))
    assert rejected["dead.reason"] == "rejected: no audio"
    last = Deliveries(raising(retry), retry=RetryPolicy(max_attempts=1)).attempt(entry())
    assert metadata(last)["dead.traceback"] == TRACEBACK


def test_a_signal_that_ended_the_childs_own_programs_is_an_interruption_too() -> None:
    error = RemoteError("ffmpeg died", type_name="CalledProcessError", return_codes=[-15])
    deliveries = Deliveries(raising(error))
    deliveries.interruptions.drain_begins()
    assert deliveries.attempt(entry()) == HandBack(ID)
