"""RedisStreamConsumer: a pool of threads that works off a Redis Stream and loses nothing."""

from __future__ import annotations

import logging
import math
import os
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType, TracebackType
from typing import Any

from shared_sync.common import arguments, backoff
from shared_sync.common.guarded import GuardedLogger, GuardedRecorder, Recorder, RecorderOfOneThread
from shared_sync.common.loop import Loop
from shared_sync.connection import connection as redis_connection
from shared_sync.connection import discovery, url
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import (
    ConfigurationError,
    ConsumerBroken,
    ConsumerStateError,
    GroupMissing,
    RedisRefused,
    SharedSyncError,
)
from shared_sync.policies import RetryPolicy
from shared_sync.protocol import commands as stream_commands
from shared_sync.protocol import inspection
from shared_sync.protocol.commands import Ensured, GroupCommands, Keys, NameTaken
from shared_sync.protocol.process_identity import Holder
from shared_sync.redis_consumer import health as redis_consumer_health
from shared_sync.redis_consumer import identity
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.health import Verdict
from shared_sync.redis_consumer.heartbeat import Keeper
from shared_sync.redis_consumer.in_flight import InHand
from shared_sync.redis_consumer.job_budget import Budget
from shared_sync.redis_consumer.reader import Reader
from shared_sync.redis_consumer.recovery import Recoverer
from shared_sync.redis_consumer.results import Results
from shared_sync.redis_consumer.runner import MessageProcessor, ThreadProcessor
from shared_sync.redis_consumer.state import State
from shared_sync.redis_consumer.timeouts import Deadline, longest_step_seconds
from shared_sync.redis_consumer.watchdog import Progress, Sight

MAX_BLOCK_SECONDS = 2.0
MAX_PREFETCH = 1000
WATCH_SECONDS = 0.5
POLL_SECONDS = 0.05
GOODBYE_SECONDS = 3.0
"""How much longer than its limit stopping may take: to hand back and to leave."""
SHORTEST_GOODBYE_SECONDS = 0.5
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
"""Shown from the start, at zero; the rarer ones appear when there is something to tell."""


class RedisStreamConsumer:
    """Works off a stream with a pool of threads; every message ends as a result or a dead letter.

        def transcribe(message_id: str, message_data: dict[str, str | bytes]) -> dict[str, str]:
            return {"text": model.transcribe(message_data["audio"])}

        consumer = RedisStreamConsumer(
            "redis://localhost:6379/0", "audio:jobs", "stt-workers", "stt-1",
            logging.getLogger("stt"), transcribe, binary_fields=("audio",),
        )
        consumer.start_consuming()  # until SIGTERM or Ctrl-C

    A message is acknowledged only after its processor returned. If the process dies before, the
    message is run again elsewhere once the lease has ended: at least once therefore means
    sometimes twice, so a processor must bear being run again. Of several runs of one message,
    one result is published.

    What the processor raises is a failure: the message is tried again as `retry` says and ends as
    a dead letter. It may raise `Reject` (a dead letter now) or `Retry(delay_seconds)`.

    All durations are seconds. One consumer is one name in the group; give each process its own
    `consumer_id`. Methods may be called from any thread unless they say otherwise.

    Args:
        redis_url: `redis://[user:password@]host:port/db`, `rediss://...`, `unix:///path`,
            `redis+sentinel://host:port,host:port/master/db` or
            `redis+cluster://host:port,host:port`.
        stream_name: The stream to work off; it is created if it does not exist.
        consumer_group: The group; all workers that share the work name the same one.
        consumer_id: This process's name in the group.
        logger: Where to log; None for the logger `shared_sync`.
        message_processor: Called as `message_processor(message_id, message_data)` in a pool
            thread. `message_data` has text values, and bytes for `binary_fields`. What it
            returns is published; None publishes nothing.
        metrics: A `WorkerMetrics`, or anything with its three recording methods.
        threads: Messages run at the same time. The default suits a model that is not
            thread-safe or that fills its device alone. Raise it when the processor waits (for a
            network, for a GPU with room) or releases the interpreter lock.
        prefetch: Messages that a thread fetches at a time. 1 shares work best; 10 to 100 is
            faster for messages of a few milliseconds.
        binary_fields: Fields whose values stay bytes, such as audio.
        result_stream: Stream that gets an entry for each result: the fields of a mapping, or the
            field `result` for anything else, with `message_id`, `status` and `carry_fields`.
            A message that dies leaves an entry with status `dead`. In a cluster it must have the
            slot of the stream, as `{audio:jobs}:results` has that of `audio:jobs`.
        result_channel: Channel to publish the same as JSON, such as `results:{client_id}`,
            filled from the message's fields.
        carry_fields: Fields of the message that go along with its result.
        lease_seconds: How long after its last sign of life a consumer counts as dead and its
            messages are taken over.
        retry: How often and when to try a failing message again.
        max_crashes: Times a message may take its process down before it is a dead letter.
        job_deadline_seconds: How long a message may run. One that runs longer has failed and is
            given to others; its thread, which cannot be stopped, counts as stuck, and the
            consumer as degraded, until the processor returns. None for no limit.
        job_limit_seconds: After how long the consumer is not live any more, so that its process is
            restarted; only with `job_deadline_seconds`, and not below it. None for one and a half
            times `job_deadline_seconds`, where that is given.
        late_after_p99s: A job that takes so many times as long as 99 of 100 did so far is late, and
            the consumer degraded. For that `metrics` must know 100 of them; less than 30 s is never
            late. None to judge by `job_deadline_seconds` alone. This only ever degrades: what took
            seconds a thousand times may rightly take three hours once, and a process that is killed
            for it would be killed again and again, until the message is a dead letter.
        drain_seconds: How long `stop()` lets running messages finish before it hands them back.
        block_seconds: Longest wait of one read, up to 2; a bound on how late idle threads notice.

    Raises:
        ConfigurationError: An argument that cannot work.
    """

    def __init__(
        self,
        redis_url: str,
        stream_name: str,
        consumer_group: str,
        consumer_id: str,
        logger: logging.Logger | None,
        message_processor: MessageProcessor,
        *,
        metrics: Recorder | None = None,
        threads: int = 1,
        prefetch: int = 1,
        binary_fields: Collection[str] = (),
        result_stream: str | None = None,
        result_channel: str | None = None,
        carry_fields: Sequence[str] = (),
        lease_seconds: float = 30.0,
        retry: RetryPolicy | None = None,
        max_crashes: int = 3,
        job_deadline_seconds: float | None = None,
        job_limit_seconds: float | None = None,
        late_after_p99s: float | None = 10.0,
        drain_seconds: float = 25.0,
        block_seconds: float = 1.0,
    ) -> None:
        _check_numbers(
            threads=threads,
            prefetch=prefetch,
            max_crashes=max_crashes,
            lease_seconds=lease_seconds,
            job_deadline_seconds=job_deadline_seconds,
            job_limit_seconds=job_limit_seconds,
            late_after_p99s=late_after_p99s,
            drain_seconds=drain_seconds,
            block_seconds=block_seconds,
        )
        arguments.text("consumer_id", consumer_id)
        arguments.names("binary_fields", binary_fields)
        arguments.names("carry_fields", carry_fields)
        if result_stream is not None:
            arguments.text("result_stream", result_stream)
            discovery.check_one_slot(redis_url, stream_name, result_stream)
        if result_channel is not None:
            arguments.text("result_channel", result_channel)
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise ConfigurationError(f"retry must be a RetryPolicy, not {retry!r}")
        if consumer_id.startswith("~"):
            raise ConfigurationError(f"consumer_id {consumer_id!r} may not begin with '~'")
        if result_stream == stream_name:
            raise ConfigurationError("result_stream must be another stream than stream_name")

        # Fixed after construction.
        self.stream_name = stream_name
        self.consumer_group = consumer_group
        self.consumer_id = consumer_id
        self._logger = GuardedLogger(logger or logging.getLogger("shared_sync"))
        self._prefetch = prefetch
        self._drain_seconds = drain_seconds
        self._result_stream = result_stream
        self._recorder = GuardedRecorder(metrics, self._logger)
        self._commands = GroupCommands(
            keys=Keys.of(stream_name, consumer_group),
            consumer=consumer_id,
            lease_ms=round(lease_seconds * 1000),
            result_stream=result_stream,
        )
        reply_timeout = block_seconds + redis_connection.REPLY_MARGIN_SECONDS
        self._redis_url = redis_url
        self._connect = self._connector(reply_timeout)
        self._connectivity = Availability(url.safe_address(redis_url), self._logger)
        self._in_hand = InHand(longest_step_seconds=longest_step_seconds(job_deadline_seconds))
        delivery = Delivery(
            processor=ThreadProcessor(message_processor),
            results=Results(
                result_stream=result_stream,
                result_channel=result_channel,
                carry_fields=carry_fields,
                binary_fields=tuple(binary_fields),
            ),
            consumer=consumer_id,
            binary_fields=tuple(binary_fields),
            retry=retry or RetryPolicy(),
            max_crashes=max_crashes,
            recorder=self._recorder,
            logger=self._logger,
        )
        self._recoverer = Recoverer(
            commands=self._commands,
            in_hand=self._in_hand,
            own_idle_seconds=reply_timeout,
            max_crashes=max_crashes,
            recorder=self._recorder,
            logger=self._logger,
        )
        self._keeper = Keeper(
            name=f"{consumer_id}-keeper",
            # A connection that hangs must be given up on before the lease ends.
            link=Connection(
                self._connector(min(redis_connection.REPLY_MARGIN_SECONDS, lease_seconds / 4))
            ),
            commands=self._commands,
            connectivity=self._connectivity,
            recorder=self._recorder,
            logger=self._logger,
            lease_seconds=lease_seconds,
        )
        self._deadline = Deadline(
            link=self._keeper.link,
            commands=self._commands,
            in_hand=self._in_hand,
            delivery=delivery,
            recorder=self._recorder,
            job_deadline_seconds=math.inf if job_deadline_seconds is None else job_deadline_seconds,
        )
        self._group_view = inspection.GroupView(
            self._connector(inspection.REPLY_TIMEOUT_SECONDS), self._commands.keys
        )
        self._stop_reading = threading.Event()
        self._stop_keeping = threading.Event()
        self._abandon = threading.Event()
        self._stopped = threading.Event()
        self._readers = [
            Reader(
                f"{consumer_id}-reader-{number}",
                link=Connection(self._connect),
                commands=self._commands,
                delivery=delivery,
                in_hand=self._in_hand,
                recoverer=self._recoverer,
                connectivity=self._connectivity,
                recorder=RecorderOfOneThread(self._recorder),
                prefetch=prefetch,
                block_seconds=block_seconds,
            )
            for number in range(1, threads + 1)
        ]
        self._reader_loops = [
            Loop(
                reader.name,
                step=reader.step,
                stop=self._stop_reading,
                on_error=partial(self._trouble, reader.name),
                finish=partial(reader.finish, self._abandon),
            )
            for reader in self._readers
        ]
        self._keeper_loop = Loop(
            self._keeper.name,
            step=self._keep,
            stop=self._stop_keeping,
            on_error=partial(self._trouble, self._keeper.name),
            finish=self._keeper.link.close,
        )
        self._progress = Progress(
            keeper=(self._keeper_loop, self._keeper),
            readers=list(zip(self._reader_loops, self._readers, strict=True)),
            in_hand=self._in_hand,
            budget=Budget(
                deadline_seconds=job_deadline_seconds,
                limit_seconds=job_limit_seconds,
                late_after_p99s=late_after_p99s,
                recorder=self._recorder,
            ),
            connectivity=self._connectivity,
        )
        # Guarded by the lock, which is re-entrant: a signal handler may call stop() in start().
        self._lock = threading.RLock()
        self._state = State.NEW
        self._clean = True
        self._has_name = False
        self._broken: ConsumerBroken | None = None
        self._stop_by = math.inf  # moment on the monotonic clock
        # Owned by whoever connects.
        self._holder: Holder | None = None
        self._predecessor: Holder | None = None

    # --- life cycle ---

    def connect(self) -> None:
        """Reach Redis, create the stream and group if they do not exist, and take the name.

        Calling it is optional: `start()` does it. Blocks up to 5 s to connect, as long again
        where Sentinels or a cluster are asked for the server first, and up to `block_seconds`
        and 5 s for an answer; also up to a lease where the name is held by a process that may
        have died. Raises `RedisUnavailable`, `ConfigurationError` if a key exists and is not a
        stream, `ConsumerIdInUse` if another live process of the group has this `consumer_id`, and
        `ConsumerStateError` on a consumer that was started or stopped before.
        """
        with self._lock:
            if self._state is not State.NEW:
                raise self._not_new()
        self._reach(self._stopped.wait)

    def start(self) -> None:
        """Start the pool and return.

        Blocks and raises as `connect()` does; raises `ConsumerStateError` on a consumer that was
        started or stopped before: make a new one instead. Starts nothing if it is stopped
        meanwhile.
        """
        self._start(self._stopped.wait)

    def start_consuming(self) -> bool:
        """Start the pool unless it runs, block until it is stopped, and return what `stop()` does.

        Called from the main thread it drains on SIGTERM and SIGINT; a second signal hands running
        messages back at once. Raises what `start()` raises, and `ConsumerBroken` if the consumer
        could not go on by itself: a thread of the pool has ended, or (`ConsumerIdInUse`) another
        process has taken its name.
        """
        with _signals() as received:

            def give_up(seconds: float) -> bool:
                return self._stopped.wait(min(seconds, POLL_SECONDS)) or not received.empty()

            if self._state is not State.RUNNING:
                self._start(give_up)
            try:
                while not self._stopped.is_set():
                    try:
                        name = signal.Signals(received.get(timeout=WATCH_SECONDS)).name
                    except queue.Empty:
                        self._check_alive()
                        continue
                    self._logger.info("%s: draining", name)
                    self._begin_drain(self._drain_seconds)
                    while not self._stopped.wait(POLL_SECONDS) and not self._limit_has_passed():
                        if not received.empty():
                            self._begin_drain(0)
                    break
            except BaseException:
                self.stop()
                raise
        clean = self.stop()
        if self._broken is not None:
            raise self._broken
        return clean

    def stop(self, timeout: float | None = None) -> bool:
        """Drain: stop reading, let running messages finish, hand back the rest, leave the group.

        Blocks up to `timeout` (None for `drain_seconds`) and 3 s to tell Redis. Returns whether
        every thread ended; False if a processor still runs, whose message was handed back if
        Redis could be told. May be called from any thread and more than once; the shortest
        timeout counts. Called by a processor it only begins the drain, and returns False. In a
        process that was forked from the one that connected it does nothing, and returns False.
        """
        if self._is_forks_copy():
            return False
        self._begin_drain(self._drain_seconds if timeout is None else timeout)
        if threading.current_thread() in {loop.thread for loop in self._reader_loops}:
            return False
        while not self._stopped.wait(POLL_SECONDS):
            if self._limit_has_passed():
                return False
        return self._clean

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the consumer has stopped; whether it has. Somebody else must stop it."""
        return self._stopped.wait(timeout)

    def __enter__(self) -> RedisStreamConsumer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- what it says of itself ---

    @property
    def state(self) -> str:
        """`new`, `starting`, `running`, `draining` or `stopped`."""
        return self._state.value

    @property
    def redis_connected(self) -> bool:
        """Whether Redis answers: well the last time, and within 4 s. Never asks it; never blocks.

        A Redis that is silent is noticed so soon where somebody asks about every second, and else
        when the time limits of its connections have passed, after some 6 s.
        """
        return self._redis_answers(self._progress.look())

    @property
    def live(self) -> bool:
        """Whether this process makes progress by itself; restart it where not.

        False while a message runs past `job_limit_seconds`, or when a thread of the pool has been
        standing for 3 minutes outside of a job, as in a logger or metrics that never return; after
        a thread has ended by itself, and after another process has taken the name. Redis being
        away is no reason, nor is an interpreter that stood still as a whole. True before the start,
        while it drains, and after it has stopped. Never asks Redis; never blocks.
        """
        return self._judge(self._state, self._progress.look()).live

    @property
    def ready(self) -> bool:
        """Whether it takes messages: it runs, Redis answers, the group is there, a reader is free.

        A reader is free also while it runs a message; not when that is late, by its deadline or
        by `late_after_p99s`. Never asks Redis; never blocks.
        """
        return self._judge(self._state, self._progress.look()).ready

    def get_health_data(self) -> dict[str, Any]:
        """Figures for a health page. Never asks Redis; never blocks.

        Queue figures are those of the last beat, at most 2 s old while Redis answers; None
        before the first and where the server does not say. `status` and `reasons` are there while
        something is wrong: "unhealthy" where it is not `live`, Redis is away or the group is gone;
        "degraded" where it is not `ready` for another cause, or a job is late. `details` has
        addresses, texts of errors and where a thread hangs, which are not for everyone. `started`
        is whether `start()` went well.
        """
        figures = self._keeper.figures
        state = self._state
        sight = self._progress.look()
        verdict = self._judge(state, sight)
        running = [job.running for job in sight.jobs]
        return {
            **verdict.data(),
            "live": verdict.live,
            "ready": verdict.ready,
            "started": all(loop.was_started for loop in self._reader_loops),
            "redis_connected": self._redis_answers(sight),
            "consumer_state": state.value,
            "readers_alive": sum(loop.thread.is_alive() for loop in self._reader_loops),
            "readers_stuck": sum(job.given_up for job in running),
            "jobs_late": sight.jobs_late,
            "jobs_in_flight": len(running),
            "longest_job_seconds": round(max((job.seconds for job in running), default=0.0), 3),
            "jobs_unsettled": self._unsettled(),
            "queue_depth": figures.backlog if figures else None,
            "queue_waiting": figures.waiting if figures else None,
            "jobs_parked": figures.parked if figures else None,
            "dead_letters": figures.dead if figures else None,
        }

    def get_group_view(self) -> dict[str, Any]:
        """The whole group as a page shows it: consumers, parked messages and dead letters.

        Asks Redis, over a connection of its own that is closed again, and blocks up to 2 s to
        connect, 2 s more where Sentinels or a cluster are asked for the server first, and 2 s for
        the answer. Works whether or not the consumer runs. Raises `RedisUnavailable` or
        `RedisRefused`; what this user may not see is left out, and `reasons` says so.
        """
        return self._group_view.look()

    def get_views(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Tables for a dashboard, each as a function that returns the newest one.

        `readers` has what each reader does and the jobs that run; it never asks Redis nor blocks.
        `group` is `get_group_view()`, which does both.
        """
        return {"readers": self._view_readers, "group": self.get_group_view}

    # --- inside ---

    def _connector(self, reply_timeout_seconds: float) -> redis_connection.Connect:
        return discovery.connector(
            self._redis_url, key=self.stream_name, reply_timeout_seconds=reply_timeout_seconds
        )

    def _reach(self, give_up: Callable[[float], bool]) -> NameTaken | None:
        """Do what `connect()` promises; None if `give_up` ended the wait for the name."""
        if self._holder is None or self._holder.pid != os.getpid():
            # In the process that works, which may be a fork.
            self._holder = Holder.here(prefetch=self._prefetch)
            self._commands.holder = self._holder.text()
        link = Connection(self._connect)
        try:
            if stream_commands.ensure_group(link, self._commands) is Ensured.MAY_NOT_CREATE:
                self._logger.warning(
                    "this worker's user may not create group %s of stream %s anew if it is lost; "
                    "grant it +xgroup|create, or see to that yourself",
                    self.consumer_group,
                    self.stream_name,
                )
            stream_commands.check_rights(link, self._commands)
            stream_commands.learn_abilities(link, self._commands)
            if self._result_stream is not None:
                stream_commands.check_is_stream(link, self._result_stream, "result_stream")
            taken = identity.take(link, self._commands, self._logger, give_up=give_up)
            self._has_name = taken is not None
            if taken is not None and taken.before != self._commands.holder.encode():
                self._predecessor = Holder.parse(taken.before.decode(errors="replace"))
        finally:
            link.close()
        self._connectivity.succeeded(self.consumer_id)
        return taken

    def _start(self, give_up: Callable[[float], bool]) -> None:
        with self._lock:
            if self._state is not State.NEW:
                raise self._not_new()
            self._state = State.STARTING
        try:
            taken = self._reach(give_up)
        except BaseException:
            with self._lock:
                if self._state is State.STARTING:
                    self._state = State.NEW
            raise
        if taken is None:
            self._begin_drain(0)
            return
        self._recoverer.name_taken(taken.since_ms, self._predecessor)
        for name in COUNTERS:
            self._recorder.increment_counter(name, 0)
        if not self._run_pool():
            self._leave()
            return
        self._logger.info(
            "consumer %s of group %s works off %s with %d threads",
            self.consumer_id,
            self.consumer_group,
            self.stream_name,
            len(self._readers),
        )

    def _not_new(self) -> ConsumerStateError:
        return ConsumerStateError(
            f"consumer {self.consumer_id!r} is {self._state.value}, and only a new one can be "
            "connected or started; make a new RedisStreamConsumer"
        )

    def _run_pool(self) -> bool:
        """Start the threads; False if the consumer was stopped meanwhile."""
        loops = (self._keeper_loop, *self._reader_loops)
        with self._lock:
            if self._state is not State.STARTING:
                return False
            self._state = State.RUNNING
            try:
                for loop in loops:
                    loop.start()
            except RuntimeError as error:
                failure = ConsumerBroken(f"the pool's threads cannot be started: {error}")
            else:
                return True
        self._begin_drain(0)
        self._stopped.wait(GOODBYE_SECONDS)
        raise failure

    def _is_forks_copy(self) -> bool:
        """Whether this process has only a copy of a consumer that another process works with."""
        return self._holder is not None and self._holder.pid != os.getpid()

    def _limit_has_passed(self) -> bool:
        return time.monotonic() >= self._stop_by + GOODBYE_SECONDS

    def _keep(self) -> None:
        sight = self._progress.look()
        self._progress.learn()
        self._recorder.set_gauge("jobs_late", sight.jobs_late)
        self._recorder.set_gauge("jobs_unsettled", self._unsettled())
        self._deadline.look()
        self._keeper.step()
        self._deadline.send()
        self._stop_keeping.wait(min(self._keeper.interval_seconds, self._deadline.interval_seconds))

    def _judge(self, state: State, sight: Sight) -> Verdict:
        return redis_consumer_health.judge(
            state,
            sight,
            connectivity=self._connectivity,
            group=f"the group {self.consumer_group} of stream {self.stream_name}",
            broken=self._broken,
            ended=self._ended_by_themselves(),
        )

    def _redis_answers(self, sight: Sight) -> bool:
        at_work = self._state in (State.RUNNING, State.DRAINING)
        return self._connectivity.connected and not (at_work and sight.redis_is_silent)

    def _view_readers(self) -> dict[str, Any]:
        named = {"stream": self.stream_name, "group": self.consumer_group}
        return {**named, **self._progress.look().tables()}

    def _unsettled(self) -> int:
        return sum(reader.unsettled for reader in self._readers)

    def _trouble(self, who: str, error: BaseException, failures: int) -> float:
        """What a loop does about an error: tell it once, mend what can be mended, pause."""
        if isinstance(error, GroupMissing):
            self._connectivity.found_no_group(who)
            self._repair_group(who)
        elif isinstance(error, RedisRefused) and error.code == "HELD":
            holder = Holder.parse(str(error).partition("HELD ")[2])
            self._break(identity.in_use(self.consumer_id, holder))
        elif isinstance(error, SharedSyncError):
            self._connectivity.failed(who, error)
        else:
            self._recorder.record_error(error)
            self._logger.error("a consumer thread failed and goes on", exc_info=error)
        return backoff.exponential(
            failures,
            base_seconds=0.1,
            max_seconds=self._keeper.interval_seconds,
            jitter=0.5,
            chance=random.random,
        )

    def _repair_group(self, who: str) -> None:
        link = Connection(self._connect)
        try:
            if stream_commands.ensure_group(link, self._commands) is Ensured.CREATED:
                self._recorder.increment_counter("groups_recreated")
                self._logger.warning(
                    "the group %s of stream %s was gone and is created anew; messages that were "
                    "deleted with it are lost",
                    self.consumer_group,
                    self.stream_name,
                )
            self._connectivity.succeeded(who)
        except SharedSyncError as error:
            self._connectivity.failed(who, error)
        finally:
            link.close()

    def _break(self, error: ConsumerBroken) -> None:
        """Go no further: say why, and drain. `start_consuming()` raises it in the end."""
        with self._lock:
            if self._broken is not None:
                return
            self._broken = error
        self._logger.error("consumer %s stops: %s", self.consumer_id, error)
        self._begin_drain(self._drain_seconds)

    def _check_alive(self) -> None:
        ended = self._ended_by_themselves()
        if ended:
            self._break(ConsumerBroken(redis_consumer_health.threads_ended(ended)))

    def _ended_by_themselves(self) -> list[str]:
        if self._state is not State.RUNNING:
            return []
        loops = (self._keeper_loop, *self._reader_loops)
        ended = [loop.name for loop in loops if loop.has_ended]
        return ended if self._state is State.RUNNING else []

    def _begin_drain(self, seconds: float) -> None:
        """Drain in a thread of its own, which nothing that happens to the caller can break off."""
        with self._lock:
            self._stop_by = min(self._stop_by, time.monotonic() + seconds)
            before = self._state
            if before in (State.NEW, State.STARTING):
                self._state = State.STOPPED
                self._stopped.set()
            elif before is State.RUNNING:
                self._state = State.DRAINING
        if before is State.NEW and self._has_name:
            self._leave()  # it was connected only
        elif before is State.RUNNING:
            self._stop_reading.set()
            try:
                threading.Thread(target=self._drain, name="drain", daemon=True).start()
            except RuntimeError:
                self._drain()  # no more threads, as when the interpreter shuts down

    def _drain(self) -> None:
        clean = left = False
        try:
            # Reading ends first, so that nothing new arrives while the rest is put in order.
            self._stop_reading.set()
            self._in_hand.close()
            for reader in self._readers:
                reader.interrupt()
            # What was fetched and not started goes back now, not after the running messages.
            self._hand_back(self._in_hand.withdraw())
            clean = self._await_readers()
            self._abandon.set()
            # Presence ends last: until here the running messages were ours.
            self._stop_keeping.set()
            self._keeper_loop.join(self._stop_by + 2 * GOODBYE_SECONDS / 3)
            left = self._leave()
        finally:
            with self._lock:
                self._state = State.STOPPED
                self._clean = clean
            self._stopped.set()
            ending = "" if clean else "; not every thread has ended"
            if not left:
                ending += "; what it held is taken over by others when its lease has ended"
            self._logger.info("consumer %s has stopped%s", self.consumer_id, ending)

    def _await_readers(self) -> bool:
        """Wait for the readers until the limit, which may move; whether all have ended.

        Those that run past their deadline are not waited for.
        """
        while True:
            running = [loop for loop in self._reader_loops if not loop.join(0.0)]
            if not running:
                return True
            stuck = {job.reader for job in self._in_hand.running() if job.given_up}
            if stuck.issuperset(loop.name for loop in running):
                return False
            if time.monotonic() >= self._stop_by:
                return False
            running[0].join(time.monotonic() + POLL_SECONDS)

    def _hand_back(self, ids: Sequence[str]) -> None:
        if ids and self._connectivity.connected:
            self._say_goodbye(self._commands.hand_back(ids), GOODBYE_SECONDS / 3)

    def _leave(self) -> bool:
        return self._say_goodbye(self._commands.leave(), GOODBYE_SECONDS)

    def _say_goodbye(self, command: Command, grace: float) -> bool:
        """Hand something back, by the limit and a grace; whether that went well."""
        seconds_left = self._stop_by + grace - time.monotonic()
        link = Connection(
            self._connector(
                min(
                    max(seconds_left, SHORTEST_GOODBYE_SECONDS),
                    redis_connection.REPLY_MARGIN_SECONDS,
                )
            )
        )
        try:
            returned, lost_bodies = link.call(*command)
        except GroupMissing:
            return True
        except SharedSyncError as error:
            self._logger.warning("messages could not be handed back: %s", error)
            return False
        finally:
            link.close()
        if returned:
            self._recorder.increment_counter("jobs_handed_back", returned)
            self._logger.info("%d messages handed back", returned)
        if lost_bodies:
            self._recorder.increment_counter("lost_bodies", lost_bodies)
        return True


def _check_numbers(
    *,
    threads: int,
    prefetch: int,
    max_crashes: int,
    lease_seconds: float,
    job_deadline_seconds: float | None,
    job_limit_seconds: float | None,
    late_after_p99s: float | None,
    drain_seconds: float,
    block_seconds: float,
) -> None:
    arguments.whole_number("threads", threads, 1, 1000)
    arguments.whole_number("prefetch", prefetch, 1, MAX_PREFETCH)
    arguments.whole_number("max_crashes", max_crashes, 1)
    arguments.number("lease_seconds", lease_seconds, 1, 86_400)
    arguments.number("drain_seconds", drain_seconds, 0, 86_400)
    arguments.number("block_seconds", block_seconds, 0.01, MAX_BLOCK_SECONDS)
    if job_deadline_seconds is not None:
        arguments.number("job_deadline_seconds", job_deadline_seconds, 0.1, 365 * 86_400)
    if job_limit_seconds is not None:
        if job_deadline_seconds is None:
            raise ConfigurationError(
                "job_limit_seconds needs job_deadline_seconds: a message that hangs is charged for "
                "it at its deadline; without one it would stop one process after the other"
            )
        arguments.number(
            "job_limit_seconds", job_limit_seconds, job_deadline_seconds, 2 * 365 * 86_400
        )
    if late_after_p99s is not None:
        arguments.number("late_after_p99s", late_after_p99s, 1, 1_000_000)
    if max_crashes == 1 and threads * prefetch > 1:
        raise ConfigurationError(
            "max_crashes=1 needs threads=1 and prefetch=1: a crash is charged to every message "
            "that the process held, and with one allowed all of them would die"
        )


@contextmanager
def _signals() -> Iterator[queue.SimpleQueue[int]]:
    """Catch SIGTERM and SIGINT into a queue, whose put may interrupt itself; main thread only."""
    received: queue.SimpleQueue[int] = queue.SimpleQueue()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    installer = os.getpid()

    def note(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == installer:
            received.put(number)
        else:
            # A process that was forked meanwhile ends as it would have without us.
            signal.signal(number, previous.get(signal.Signals(number), signal.SIG_DFL))
            signal.raise_signal(number)

    previous = {
        number: handler
        for number in (signal.SIGTERM, signal.SIGINT)
        if (handler := signal.signal(number, note)) is not None
    }
    try:
        yield received
    except BaseException:
        # What asked the program to end while it was failing to start must not be forgotten.
        _restore(previous)
        if not received.empty():
            signal.raise_signal(received.get())
        raise
    finally:
        _restore(previous)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
