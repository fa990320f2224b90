"""A message whose child process is ended by the signal that stops the worker is not charged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures.process import BrokenProcessPool

import pytest
import redis
from consumers import GROUP, STREAM, Make, dead_letters, owners
from deliveries import ID, Deliveries, entry, raising
from helpers import Clock, Gate, eventually, start_program

from shared_sync import RedisStreamProducer, Reject, Retry, RetryPolicy, current_message
from shared_sync.protocol.messages import Bury, HandBack, Park
from shared_sync.redis_consumer import interruptions
from shared_sync.redis_consumer.interruptions import Interruptions
from shared_sync.redis_consumer.slot import Attempt

WORKER = """
    import os, subprocess, sys
    from shared_sync import RedisStreamConsumer, RetryPolicy

    url, child, raises, name = sys.argv[1:]

    def processor(message_id, job):
        with subprocess.Popen(["sh", "-c", child], stdout=subprocess.PIPE) as program:
            program.stdout.readline()
            print("runs", flush=True)
            code = program.wait()
        if raises == "code":
            raise subprocess.CalledProcessError(code, child)
        raise RuntimeError("the decoder failed")

    RedisStreamConsumer(
        url, "jobs", "workers", name, None, processor, retry=RetryPolicy(max_attempts=1)
    ).start_consuming()
"""
CHILDREN = {
    "dies of the signal": ("echo; exec sleep 60", "code", 5),
    "runs below a shell": (
        "trap 'exit 143' TERM INT; echo; while :; do sleep 0.01; done",
        "code",
        2,
    ),
    "ends as ffmpeg does": (
        "trap 'exit 255' TERM INT; echo; while :; do sleep 0.01; done",
        "code",
        2,
    ),
    "is not named in the error": ("sleep 3; echo; exec sleep 60", "no code", 1),
}
"""What the child does, what its processor raises, and how many deploys to try."""


@pytest.mark.parametrize("child", CHILDREN)
def test_deploys_that_signal_the_whole_process_group_charge_nothing(
    child: str, redis_url: str, producer: RedisStreamProducer, client: redis.Redis, make: Make
) -> None:
    message_id = producer.publish({"n": 1})
    program, raises, deploys = CHILDREN[child]
    for deploy in range(deploys):
        number = (signal.SIGTERM, signal.SIGINT)[deploy % 2]
        with start_program(
            [sys.executable, "-c", textwrap.dedent(WORKER), redis_url, program, raises, "w"],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "runs\n"
            os.killpg(worker.pid, number)
            assert worker.wait(30) == 0
        assert owners(client) == {"~parked": 1}
        assert dead_letters(client) == []
    attempts: list[tuple[str, int]] = []
    make(lambda found, _: attempts.append((found, current_message().attempt))).start()
    eventually(lambda: attempts == [(message_id, 1)])


def test_a_failure_at_the_end_of_a_long_drain_is_charged(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interruptions, "MOMENT_SECONDS", 0.0)
    slow = Gate()

    def fail(*_: object) -> None:
        slow()
        raise ValueError("not because of the drain")

    producer.publish({"n": 1})
    consumer = make(fail, retry=RetryPolicy(max_attempts=1))
    consumer.start()
    assert slow.entered.wait(10)
    stopper = threading.Thread(target=consumer.stop)
    stopper.start()
    eventually(lambda: consumer.state == "draining")
    slow.opened.set()
    stopper.join(20)
    assert len(dead_letters(client)) == 1


def test_what_a_processor_raises_after_it_has_stopped_its_consumer_is_charged(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """Else a message that makes its processor give up would go from worker to worker for ever."""

    def give_up(*_: object) -> None:
        consumer.stop()
        raise ValueError("the model is broken")

    producer.publish({"n": 1})
    consumer = make(give_up, retry=RetryPolicy(max_attempts=1))
    consumer.start()
    assert consumer.join(20)
    assert len(dead_letters(client)) == 1
    assert client.xpending(STREAM, GROUP)["pending"] == 0


# --- decisions --------------------------------------------------------------------------------

ENDED = subprocess.CalledProcessError(-signal.SIGTERM, "ffmpeg")


def attempt_that_ended(at: float, *, seconds: float = 0.0) -> Attempt:
    attempt = Attempt((entry(),), 1, at - seconds)
    attempt.ended_at = at
    return attempt


def draining(clock: Clock) -> Interruptions:
    found = Interruptions(clock)
    found.drain_begins()
    return found


def caused_by(cause: BaseException, error: BaseException) -> BaseException:
    """An error that was raised while another was handled, and that hides it."""
    error.__context__ = cause
    error.__suppress_context__ = True
    return error


@pytest.mark.parametrize("seconds", [0.0, 1.0, 20.0])
@pytest.mark.parametrize(
    "error",
    [
        ENDED,
        subprocess.CalledProcessError(128 + signal.SIGTERM, "sh"),
        subprocess.CalledProcessError(-signal.SIGKILL, "ffmpeg"),
        BrokenProcessPool("a process was terminated abruptly"),
        caused_by(ENDED, RuntimeError("decoding failed")),
        caused_by(ENDED, Reject("the file is damaged")),
        caused_by(ENDED, Retry(60.0)),
    ],
    ids=repr,
)
def test_a_childs_death_of_a_signal_is_never_charged_while_draining(
    error: BaseException, seconds: float
) -> None:
    clock = Clock()
    assert draining(clock).was_interrupted(error, attempt_that_ended(clock.now + seconds))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("anything"),
        BrokenPipeError(),
        Retry(60.0),
        KeyboardInterrupt(),
        subprocess.CalledProcessError(1, "ffmpeg"),
    ],
    ids=repr,
)
def test_any_failure_within_a_moment_of_the_drains_beginning_is_not_charged(
    error: BaseException,
) -> None:
    clock = Clock()
    found = draining(clock)
    assert found.was_interrupted(
        error, attempt_that_ended(clock.now + interruptions.MOMENT_SECONDS)
    )
    assert not found.was_interrupted(
        error, attempt_that_ended(clock.now + interruptions.MOMENT_SECONDS + 0.1)
    )


@pytest.mark.parametrize("code", [None, 1, 183])
def test_a_rejection_stays_a_decision(code: int | None) -> None:
    """183 is what ffmpeg returns for bad input."""
    clock = Clock()
    rejection: BaseException = Reject("damaged")
    if code is not None:
        rejection = caused_by(subprocess.CalledProcessError(code, "ffmpeg"), rejection)
    assert not draining(clock).was_interrupted(rejection, attempt_that_ended(clock.now))


def test_a_rejection_because_ffmpeg_was_asked_to_end_is_none() -> None:
    clock = Clock()
    rejection = caused_by(subprocess.CalledProcessError(255, "ffmpeg"), Reject("damaged"))
    assert draining(clock).was_interrupted(rejection, attempt_that_ended(clock.now))
    assert not draining(clock).was_interrupted(rejection, attempt_that_ended(clock.now + 60))


@pytest.mark.parametrize(
    "error",
    [ENDED, subprocess.CalledProcessError(255, "ffmpeg"), BrokenProcessPool("terminated")],
    ids=repr,
)
def test_a_child_may_receive_the_signal_before_its_worker_does(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruptions, "WAIT_SECONDS", 30.0)
    found = Interruptions()
    explained: list[bool] = []
    reader = threading.Thread(
        target=lambda: explained.append(found.was_interrupted(error, attempt_that_ended(0.0)))
    )
    reader.start()
    found.drain_begins()
    reader.join(20)
    assert explained == [True]


def test_a_failure_is_held_no_longer_than_a_tenth_of_its_run_unless_a_child_was_asked_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _, seconds: waits.append(seconds))
    found = Interruptions()
    for seconds, error in (
        (0.0, ENDED),
        (0.005, ValueError()),
        (0.05, ValueError()),
        (600.0, ValueError()),
    ):
        assert not found.was_interrupted(error, attempt_that_ended(600.0, seconds=seconds))
    assert waits == pytest.approx([0.25, 0.005, 0.25])


def test_an_error_whose_causes_go_in_circles_or_whose_attributes_raise_is_a_failure() -> None:
    class Odd(Exception):
        @property
        def returncode(self) -> int:
            raise ValueError("unknown")

    first, second = Odd(), ValueError()
    first.__cause__, second.__context__ = second, first
    assert not Interruptions().was_interrupted(first, attempt_that_ended(0.0))


def test_without_a_drain_a_childs_death_is_a_failure_like_any_other() -> None:
    assert isinstance(Deliveries(raising(ENDED)).attempt(entry()), Park)


def test_what_goes_back_counts_as_no_failure() -> None:
    deliveries = Deliveries(raising(ENDED))
    deliveries.interruptions.drain_begins()
    assert deliveries.attempt(entry(failures=2, deliveries=3)) == HandBack(ID)
    assert deliveries.figures.counters == {}
    assert isinstance(Deliveries(raising(ENDED)).attempt(entry(failures=2, deliveries=3)), Bury)
