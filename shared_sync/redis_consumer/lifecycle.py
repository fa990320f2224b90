"""The life of a consumer: new, starting, running, draining, stopped."""

from __future__ import annotations

import math
import queue
import signal
import threading
import time

from shared_sync.common.detached_logger import DetachedLogger
from shared_sync.common.fork import renew_in_forks
from shared_sync.common.guarded import GuardedRecorder
from shared_sync.errors import ConsumerBroken, ConsumerStateError, LoadingFailed
from shared_sync.isolation.importing import check_may_start
from shared_sync.processors import ProcessorSource
from shared_sync.redis_consumer import at_exit, signals
from shared_sync.redis_consumer.connecting import GiveUp
from shared_sync.redis_consumer.draining import POLL_SECONDS, SHUTDOWN_GRACE_SECONDS
from shared_sync.redis_consumer.health import threads_ended
from shared_sync.redis_consumer.options import Options
from shared_sync.redis_consumer.pool import Pool
from shared_sync.redis_consumer.state import State

CHECK_SECONDS = 0.5
"""How often `run()` checks that every thread is alive."""

COUNTERS = (
    "jobs_processed",
    "jobs_failed",
    "jobs_retried",
    "jobs_dead",
    "jobs_recovered",
    "jobs_handed_back",
    "redis_operations",
    "redis_reconnects",
)
"""Shown from the start, at zero; the rarer ones appear when there is something to count."""


class Lifecycle:
    """Starts, watches and drains a pool. Any thread may call any method.

    `RedisStreamConsumer` documents the methods that it hands on.
    """

    def __init__(
        self,
        options: Options,
        source: ProcessorSource,
        *,
        recorder: GuardedRecorder,
        logger: DetachedLogger,
    ) -> None:
        # Fixed after construction.
        self._options = options
        self._recorder = recorder
        self._logger = logger
        self.pool = Pool(options, source, recorder=recorder, logger=logger, on_broken=self._break)
        self._stopped = threading.Event()
        # Guarded by the lock, which is re-entrant: a signal handler may call stop() in start().
        self._lock = threading.RLock()
        self.state = State.NEW
        self._clean = True
        self.broken: ConsumerBroken | None = None
        """Why the consumer cannot go on by itself."""
        self._stop_by = math.inf  # moment on the monotonic clock
        renew_in_forks(self, Lifecycle._leave_to_parent)

    def connect(self) -> None:
        """Claim the name, and keep it alive from now on."""
        check_may_start()
        with self._lock:
            if self.state is not State.NEW:
                raise self._not_new()
        if not self.pool.connect(self._stopped.wait, self._options.connect_seconds or 0.0):
            return
        with self._lock:
            failure = self._keep_names()
        if self._stopped.is_set():
            self.pool.leave(self._stop_by)
        if failure is not None:
            self._begin_drain(0)
            raise failure

    def start(self) -> None:
        """Start the pool and return."""
        self._start(self._stopped.wait, self._options.connect_seconds or 0.0)

    def run(self) -> bool:
        """Start the pool unless it runs, and block until it has stopped."""
        if threading.current_thread() is not threading.main_thread():
            self._logger.info(
                "start_consuming() was called outside of the main thread, so no signal stops this "
                "consumer: call stop()"
            )
        with signals.caught() as received:

            def give_up(seconds: float) -> bool:
                return self._stopped.wait(min(seconds, POLL_SECONDS)) or not received.empty()

            if self.state is not State.RUNNING:
                seconds = self._options.connect_seconds
                self._start(give_up, math.inf if seconds is None else seconds)
            try:
                self._wait_for(received)
            except BaseException:
                self.stop()
                raise
        clean = self.stop()
        if self.broken is not None:
            raise self.broken
        return clean

    def stop(self, timeout: float | None = None) -> bool:
        """Drain, and return whether every thread has ended."""
        if self.state is State.ELSEWHERE:
            return False
        self._begin_drain(self._options.drain_seconds if timeout is None else timeout)
        if self.pool.is_reader(threading.current_thread()):
            return False
        while not self._stopped.wait(POLL_SECONDS):
            if self._limit_has_passed():
                return False
        return self._clean

    @property
    def is_at_work(self) -> bool:
        """Whether it has threads, in this process: it loads, runs or drains."""
        return self.state in (State.RUNNING, State.DRAINING) or (
            self.state is State.STARTING and self.pool.was_started
        )

    def end_with_process(self, longest_seconds: float) -> None:
        """Begin to drain because the interpreter exits; from now on no failure is charged.

        From Python 3.12 on no more threads can be started then, so it blocks until it has drained.
        """
        self.pool.interruptions.process_ends()
        self._begin_drain(min(self._options.drain_seconds, longest_seconds))

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the consumer has stopped; return whether it has."""
        return self._stopped.wait(timeout)

    def ended_by_themselves(self) -> list[str]:
        """Return the threads that have ended although nobody stopped the consumer."""
        if self.state is not State.RUNNING:
            return []
        ended = self.pool.ended_threads()
        return ended if self.state is State.RUNNING else []

    # --- inside ---

    def _leave_to_parent(self) -> None:
        """In a forked process: leave everything that was started to the parent."""
        self._lock = threading.RLock()
        if self.state is State.STOPPED:
            return
        if self.state is State.NEW and not self.pool.has_name:
            self.pool.forget_names()
        else:
            self.pool.abandon()
            self.state = State.ELSEWHERE
            self.broken = None
            self._stopped = threading.Event()
            self._stopped.set()

    def _keep_names(self) -> ConsumerBroken | None:
        """Keep the name alive, unless the consumer was started or stopped meanwhile."""
        if self.state is State.NEW:
            try:
                self.pool.keep_names()
            except RuntimeError as error:
                return _no_threads(error)
        return None

    def _start(self, give_up: GiveUp, connect_seconds: float) -> None:
        check_may_start()
        with self._lock:
            if self.state is not State.NEW:
                raise self._not_new()
            self.state = State.STARTING
        try:
            has_name = self.pool.connect(give_up, connect_seconds)
        except BaseException:
            with self._lock:
                if self.state is State.STARTING:
                    self.state = State.NEW
            raise
        if not has_name:
            self._begin_drain(0)
            if self.pool.has_name:
                self.pool.leave(self._stop_by)  # it was connected before
            return
        for name in COUNTERS:
            self._recorder.increment_counter(name, 0)
        try:
            runs = self._start_pool() and self._load(give_up)
        except BaseException as error:  # also Ctrl-C
            if self.is_at_work:
                self._begin_drain(self._options.drain_seconds)
            if isinstance(error, ConsumerBroken):
                while not give_up(POLL_SECONDS) and not self._limit_has_passed():
                    pass  # the readers close what they have loaded
            raise
        if not runs:
            if not self.pool.was_started:
                self.pool.leave(self._stop_by)
            return
        self._logger.info(
            "consumer %s of group %s processes %s with %d thread%s",
            self._options.consumer_id,
            self._options.consumer_group,
            self._options.stream_name,
            self._options.threads,
            "" if self._options.threads == 1 else "s",
        )

    def _not_new(self) -> ConsumerStateError | ConsumerBroken:
        if self.broken is not None:
            return self.broken
        is_state = "was" if self.state is State.ELSEWHERE else "is"
        return ConsumerStateError(
            f"consumer {self._options.consumer_id!r} {is_state} {self.state.value}, and only a new "
            "one can be connected or started; make a new RedisStreamConsumer"
        )

    def _start_pool(self) -> bool:
        """Start the threads; return False if the consumer was stopped before."""
        with self._lock:
            if self.state is not State.STARTING:
                return False
            at_exit.drain_at_exit(self)
            try:
                self.pool.start()
            except RuntimeError as error:
                raise _no_threads(error) from error
        return True

    def _load(self, give_up: GiveUp) -> bool:
        """Wait until all processors are loaded; drain, and return False, if it is to stop instead.

        Raises why the consumer cannot go on if that happens before.
        """
        try:
            is_loaded = self.pool.loading.wait(give_up)
        except LoadingFailed as error:
            self._break(error)
            raise
        with self._lock:
            if is_loaded and self.state is State.STARTING:
                self.state = State.RUNNING
                return True
        self._begin_drain(self._options.drain_seconds)
        if self.broken is not None and not self.pool.loading.is_complete:
            raise self.broken
        return False

    def _wait_for(self, received: queue.SimpleQueue[int]) -> None:
        """Wait until the consumer has stopped, or drain at a signal."""
        while not self._stopped.is_set():
            try:
                name = signal.Signals(received.get(timeout=CHECK_SECONDS)).name
            except queue.Empty:
                ended = self.ended_by_themselves()
                if ended:
                    self._break(ConsumerBroken(threads_ended(ended)))
                continue
            self._begin_drain(self._options.drain_seconds)
            self._logger.info("%s: draining", name)
            while not self._stopped.wait(POLL_SECONDS) and not self._limit_has_passed():
                if not received.empty():
                    self._begin_drain(0)
            return

    def _limit_has_passed(self) -> bool:
        return time.monotonic() >= self._stop_by + SHUTDOWN_GRACE_SECONDS

    def _break(self, error: ConsumerBroken) -> None:
        """Go no further: note why, and drain. `start_consuming()` raises it in the end."""
        with self._lock:
            if self.broken is not None:
                return
            self.broken = error
            self.pool.events.broken = error.reason
        self._begin_drain(self._options.drain_seconds)
        self._logger.error("consumer %s stops: %s", self._options.consumer_id, error)

    def _begin_drain(self, seconds: float) -> None:
        """Drain in a thread of its own, which nothing that happens to the caller can break off."""
        if not self.pool.is_reader(threading.current_thread()):
            self.pool.interruptions.drain_begins()
        with self._lock:
            self._stop_by = min(self._stop_by, time.monotonic() + seconds)
            before = self.state
            to_drain = before is not State.DRAINING and self.is_at_work
            if to_drain:
                self.state = State.DRAINING
            elif before in (State.NEW, State.STARTING):
                self.state = State.STOPPED
                self._stopped.set()
        if before is State.NEW and self.pool.has_name:
            self.pool.leave(self._stop_by)  # it was connected only
        elif to_drain:
            self.pool.stop_reading()
            try:
                threading.Thread(target=self._drain, name="drain", daemon=True).start()
            except RuntimeError:
                self._drain()  # no more threads, as when the interpreter shuts down

    def _drain(self) -> None:
        clean = left = False
        try:
            try:
                clean, left = self.pool.drain(lambda: self._stop_by)
            except KeyboardInterrupt:  # if no thread could be started, the main thread drains
                self._stop_by = time.monotonic()
                clean, left = self.pool.drain(lambda: self._stop_by)
        finally:
            with self._lock:
                self.state = State.STOPPED
                self._clean = clean
            ending = "" if clean else "; not every thread has ended"
            if not left:
                ending += "; others take over what it had when its lease has ended"
            try:
                self._logger.info("consumer %s has stopped%s", self._options.consumer_id, ending)
            finally:
                # Last: the program may end now. Until 3.11.3 Python crashes if it ends while a
                # thread is just starting, such as the one that writes this line.
                self._stopped.set()


def _no_threads(error: RuntimeError) -> ConsumerBroken:
    return ConsumerBroken(f"the pool's threads cannot be started: {error}")
