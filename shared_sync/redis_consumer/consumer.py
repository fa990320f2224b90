"""RedisStreamConsumer: a pool of threads that processes a Redis Stream and loses nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shared_sync.batching import Batching
from shared_sync.circuit_breaker import CircuitBreaker
from shared_sync.common import arguments
from shared_sync.common.detached_logger import DetachedLogger
from shared_sync.common.fork import renew_in_forks
from shared_sync.common.guarded import RECORDING, GuardedLogger, GuardedRecorder, Recorder
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.errors import ConfigurationError, ConsumerBroken
from shared_sync.policies import RetryPolicy
from shared_sync.processors import (
    BatchProcessor,
    MessageProcessor,
    ProcessorFactory,
    ProcessorSource,
)
from shared_sync.redis_consumer import identity
from shared_sync.redis_consumer.lifecycle import Lifecycle
from shared_sync.redis_consumer.options import Isolation, Options
from shared_sync.redis_consumer.prefetch import Setting
from shared_sync.redis_consumer.report import Report
from shared_sync.redis_consumer.state import State

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class RedisStreamConsumer:
    """Processes a stream with a pool of threads; every message ends as a result or a dead letter.

        def transcribe(message_id: str, message_data: dict[str, str | bytes]) -> dict[str, str]:
            return {"text": model.transcribe(message_data["audio"])}

        consumer = RedisStreamConsumer(
            "redis://localhost:6379/0", "audio:jobs", "stt-workers", None,
            logging.getLogger("stt"), transcribe, binary_fields=("audio",),
        )
        consumer.start_consuming()  # until SIGTERM or Ctrl-C

    A message is acknowledged only after its processor returned. If the process dies before, the
    message is run again elsewhere once the lease has ended: at least once therefore means
    sometimes twice, so a processor must tolerate being run again. Of several runs of one message,
    one result is published.

    What the processor raises is a failure: the message is tried again as `retry` says and ends as
    a dead letter. It may raise `Reject` (a dead letter now) or `Retry(delay_seconds)`; and, so that
    the message is handed back uncharged, `WorkerBroken` or the `CircuitOpen` of a `CircuitBreaker`.

    All durations are seconds. One consumer is one name in the group. Methods may be called from any
    thread unless they say otherwise. A consumer may be made before a fork and started after it; one
    that was connected or started stays with its process, and its copies in forks do nothing.

    Args:
        redis_url: `redis://[user:password@]host:port/db`, `rediss://...`, `unix:///path`,
            `redis+sentinel://host:port,host:port/master/db` or
            `redis+cluster://host:port,host:port`.
        stream_name: The stream to process; it is created if it does not exist.
        consumer_group: The group; all workers that share the work name the same one.
        consumer_id: This process's name in the group. None, which suits most programs, makes a
            unique one of the group, the host and random digits; the attribute `consumer_id` has it.
            It is another one in each forked process that starts the consumer. A process that is
            given a name must be the only one that has it.
        logger: Where to log; None for the logger `shared_sync`.
        message_processor: Called as `message_processor(message_id, message_data)` in a pool
            thread. `message_data` has text values, and bytes for `binary_fields`. What it
            returns is published; None publishes nothing. It may be an import path,
            `"package.module:name"`, which is imported at the start. None if there is a
            `processor_factory` or a `batch_processor`.
        processor_factory: Makes a processor for each reader, as where each has a model of its own:
            called with a `ProcessorContext`, in the thread that will run what it returns, before
            anything is read. It returns a function such as `message_processor`, or an object with
            a method `process(message_id, message_data)`, or `process_batch(messages)` for batches,
            and perhaps `close()`, which is called in the same thread at the end. It may be an
            import path. The readers of a process load
            one after the other; with `isolation="process"` each child does so, all at the same
            time. SIGTERM, or `stop()`, does not wait for one that is loading.
        devices: Names of devices, such as `["cuda:0", "cuda:1"]`, dealt out to the readers in turn:
            the context of reader n has the n-th, and begins anew after the last. Needs a
            `processor_factory` or `isolation="process"`, and at least as many `threads` as there
            are devices. With `isolation="process"` a child sees its device only, as the first.
        max_jobs_per_processor: After how many messages a reader closes its processor and has the
            factory make a new one, against leaks: between two messages, and one reader at a time,
            while the others go on. A reader that gets no new one reads nothing and tries again. The
            consumer is degraded meanwhile. Needs a `processor_factory` or `isolation="process"`,
            which starts a new child. None for never.
        metrics: A `WorkerMetrics`, or anything with its three recording methods.
        threads: Messages run at the same time. The default suits a model that is not
            thread-safe or that fills its device alone. Raise it when the processor waits (for a
            network, for a GPU with room) or releases the interpreter lock.
        batch_processor: In place of `message_processor`: called as `batch_processor(messages)` with
            a list of `Message`, in a pool thread. Returns one result for each, in their order: what
            a `message_processor` would return, or an exception such as `Retry` or `Reject` in the
            place of a message that has failed. If it raises, the batch runs again by halves until
            the culprit is alone, and only that message has failed. It may be an import path.
        batch: How messages are collected for the batch processor, or for one that a factory has
            made. None for `Batching()`.
        prefetch: Messages that a thread fetches at a time. "auto" fetches 1 at first, more while
            jobs are short (about 50 ms of work, 512 KB, 100 messages), and 1 again after a long
            one; a number fixes it. Messages that were prefetched with one that kills the process
            may be charged with one crash. A thread that runs batches fetches what its next batch
            needs, and nothing while one runs.
        binary_fields: Fields whose values stay bytes, such as audio.
        result_stream: Stream that gets an entry for each result: the fields of a mapping, or the
            field `result` for anything else, with `message_id`, `status` and `carry_fields`.
            A message that dies leaves an entry with status `dead`. The name may contain fields of
            the message in braces, such as `results:{gateway}`. In a cluster it must have the
            slot of the stream, as `{audio:jobs}:results` has that of `audio:jobs`.
        result_channel: Channel to publish the same as JSON, such as `results:{client_id}`,
            filled from the message's fields.
        result_max_entries: How many entries the result stream keeps at most. The oldest beyond
            that are deleted within some seconds, even if nobody has read them. None for no limit.
        result_ttl_seconds: How long results are kept there, 1 or more. None for no limit.
        dead_max_entries: How many dead letters are kept at most. None for no limit.
        dead_ttl_seconds: How long dead letters are kept, 1 or more. None for no limit.
        progress_per_second: How many reports of progress are sent for each message per second at
            most, up to 1000. If a processor reports faster, only the newest report is sent.
        carry_fields: Fields of the message that go along with its result; neither `message_id`
            nor `status`, which every result has.
        lease_seconds: How long after its last heartbeat a consumer counts as dead, so that its
            messages are taken over.
        foreign_idle_seconds: After how long an idle message that was delivered to another library,
            which sends no heartbeats, is taken over; 1 or more. None for `lease_seconds`,
            `math.inf` for never. Choose more than the longest job of a library that still works in
            the same group.
        retry: How often and when to try a failing message again.
        max_age_seconds: A message that is older than this, by the time in its id, is not started
            any more, not even for a retry or after its worker has died: it ends with the status
            `expired`. If its publisher has set a shorter time, that counts. None for no limit of
            the consumer.
        dead_letter_expired: Whether expired messages become dead letters.
        max_crashes: Times a message may take its process down before it is a dead letter.
        job_deadline_seconds: How long a message may run. One that runs longer has failed and is
            given to others; its thread, which cannot be stopped, counts as stuck, and the
            consumer as degraded, until the processor returns. With `isolation="process"` the child
            is ended instead. None for no limit.
        job_limit_seconds: After how long the consumer is not live any more, so that its process is
            restarted; only with `job_deadline_seconds`, and not below it. None for one and a half
            times `job_deadline_seconds`, where that is given. With `isolation="process"` not below
            that and `kill_grace_seconds` together, and None for 10 s more than that at least.
        late_after_p99s: A job that takes so many times as long as 99 of 100 jobs did is late, and
            the consumer degraded. `metrics` must have recorded 100 jobs for that, and no job is
            late before 30 s. None judges by `job_deadline_seconds` alone. A late job only degrades:
            a recording of three hours may follow a thousand of seconds, and a process that is
            killed for it would be killed again and again, until the message is a dead letter.
        max_failure_share: The consumer is degraded while a larger share of its outcomes of the last
            5 minutes are failures or dead letters, if there were 20 outcomes. None for no limit.
        fatal_errors: Errors of the processor that say that this worker is broken and its messages
            are not at fault, besides `WorkerBroken` and known faults of CUDA devices: types, or
            names of types with or without their module, such as `AcceleratorError`. Their subtypes
            count, too, and errors raised from them. The message goes back uncharged, and the
            consumer ends: see `start_consuming()`.
        max_failures_in_a_row: When so many different messages in a row have failed here with the
            same kind of error, and none has succeeded meanwhile, the consumer takes no messages for
            1 s, and for twice as long after each further failure, up to 60 s; in between it tries
            one message at a time, until one succeeds. It is live and not ready then. `Reject` and
            `Retry` do not count. 2 or more; None for no limit.
        drain_seconds: How long `stop()` lets running messages finish before it hands them back.
        block_seconds: Longest wait of one read, up to 2.
        credential_provider: Is asked for user and password at each connect, so that they may change
            while the consumer runs; a `redis.CredentialProvider` or anything with its method
            `get_credentials()`. redis_url has none then. None for those in `redis_url`.
        connect_seconds: How long to try again if Redis is away when the consumer connects or
            starts: a number of at most a year, or `math.inf` for ever. None lets
            `start_consuming()` wait for ever, and `connect()` and `start()` make one attempt.
            Meanwhile the consumer is live and not ready. A wrong password or a missing right is an
            error at once.
        isolation: "process" runs the processor of each thread in a child process of its own. Code
            that keeps the interpreter lock then stops nothing else, several use several cores, and
            a crash costs one attempt of one message; each message takes some 0.1 ms longer. The
            child imports the processor, so that must be a function at the top level of a module,
            or an import path. "thread" runs it in the thread itself.
        kill_grace_seconds: How long a child may take to end after SIGTERM, until it gets SIGKILL,
            and for closing its processor; and how long a cancelled job may continue before its
            child is ended.
        max_memory_mb: A child that is larger between two messages is replaced by a new one, in MB
            of resident memory. None for no limit.
        circuit_breakers: The circuit breakers that the processor uses, to be shown in health and
            metrics, and to be shared with child processes. While a breaker is open that a message
            needs, whether it is given here or not, the consumer takes no messages, and charges none
            with a failure.
        tracing: Makes spans of OpenTelemetry for each message: True for the program's tracer
            provider, or a `TracerProvider`. Needs the extra `otel`. See `shared_sync.tracing`.
        release: The release of your program, such as "1.4.2" or the hash of a commit, 100
            characters at most. The page of the group shows which worker has which release, and
            when the first one of a new release started. None for the environment variable
            `SHARED_SYNC_RELEASE`.

    Raises:
        ConfigurationError: An argument that cannot work.
    """

    def __init__(
        self,
        redis_url: str,
        stream_name: str,
        consumer_group: str,
        consumer_id: str | None,
        logger: logging.Logger | None,
        message_processor: MessageProcessor | str | None = None,
        *,
        processor_factory: ProcessorFactory | str | None = None,
        devices: Sequence[str] = (),
        max_jobs_per_processor: int | None = None,
        metrics: Recorder | None = None,
        threads: int = 1,
        batch_processor: BatchProcessor | str | None = None,
        batch: Batching | None = None,
        prefetch: Setting = "auto",
        binary_fields: Collection[str] = (),
        result_stream: str | None = None,
        result_channel: str | None = None,
        result_max_entries: int | None = None,
        result_ttl_seconds: float | None = None,
        dead_max_entries: int | None = None,
        dead_ttl_seconds: float | None = None,
        progress_per_second: float = 10.0,
        carry_fields: Sequence[str] = (),
        lease_seconds: float = 30.0,
        foreign_idle_seconds: float | None = None,
        retry: RetryPolicy | None = None,
        max_crashes: int = 3,
        max_age_seconds: float | None = None,
        dead_letter_expired: bool = False,
        job_deadline_seconds: float | None = None,
        job_limit_seconds: float | None = None,
        late_after_p99s: float | None = 10.0,
        max_failure_share: float | None = 0.5,
        fatal_errors: Collection[type[BaseException] | str] = (),
        max_failures_in_a_row: int | None = 5,
        drain_seconds: float = 25.0,
        block_seconds: float = 1.0,
        credential_provider: CredentialProvider | None = None,
        connect_seconds: float | None = None,
        isolation: Isolation = "thread",
        kill_grace_seconds: float = 5.0,
        max_memory_mb: float | None = None,
        circuit_breakers: Sequence[CircuitBreaker] = (),
        tracing: bool | TracerProvider = False,
        release: str | None = None,
    ) -> None:
        # Fixed after construction.
        source = ProcessorSource.choose(
            message_processor=message_processor,
            batch_processor=batch_processor,
            processor_factory=processor_factory,
        )
        options = Options(
            redis_url=redis_url,
            stream_name=stream_name,
            consumer_group=consumer_group,
            consumer_id=identity.unique_name(str(consumer_group))
            if consumer_id is None
            else consumer_id,
            threads=threads,
            prefetch=prefetch,
            batch=batch,
            takes_batches=batch_processor is not None,
            binary_fields=binary_fields,
            result_stream=result_stream,
            result_channel=result_channel,
            result_max_entries=result_max_entries,
            result_ttl_seconds=result_ttl_seconds,
            dead_max_entries=dead_max_entries,
            dead_ttl_seconds=dead_ttl_seconds,
            progress_per_second=progress_per_second,
            carry_fields=carry_fields,
            lease_seconds=lease_seconds,
            foreign_idle_seconds=foreign_idle_seconds,
            retry=retry or RetryPolicy(),
            max_crashes=max_crashes,
            max_age_seconds=max_age_seconds,
            dead_letter_expired=dead_letter_expired,
            job_deadline_seconds=job_deadline_seconds,
            job_limit_seconds=job_limit_seconds,
            late_after_p99s=late_after_p99s,
            max_failure_share=max_failure_share,
            fatal_errors=fatal_errors,
            max_failures_in_a_row=max_failures_in_a_row,
            drain_seconds=drain_seconds,
            block_seconds=block_seconds,
            credential_provider=credential_provider,
            connect_seconds=connect_seconds,
            isolation=isolation,
            kill_grace_seconds=kill_grace_seconds,
            max_memory_mb=max_memory_mb,
            circuit_breakers=circuit_breakers,
            tracing=tracing,
            devices=devices,
            max_jobs_per_processor=max_jobs_per_processor,
            has_factory=source.argument == "processor_factory",
            has_own_id=consumer_id is not None,
            release=os.environ.get("SHARED_SYNC_RELEASE", "") if release is None else release,
        )
        if batch is not None and source.argument == "message_processor":
            raise ConfigurationError(
                "batch needs a batch_processor, or a processor_factory that makes one; a "
                "message_processor takes one message at a time"
            )
        arguments.logger("logger", logger)
        if metrics is not None:
            arguments.methods("metrics", metrics, RECORDING, "a WorkerMetrics, or None")
        self.stream_name = stream_name
        self.consumer_group = consumer_group
        self._source = source
        self._logger = DetachedLogger(GuardedLogger(logger or logging.getLogger("shared_sync")))
        self._recorder = GuardedRecorder(metrics, self._logger)
        # Fixed after construction; a forked process that has not started it replaces them once.
        self._build(options)
        renew_in_forks(self, RedisStreamConsumer._begin_anew)

    def _build(self, options: Options) -> None:
        self._options = options
        self.consumer_id = options.consumer_id
        self._life = Lifecycle(options, self._source, recorder=self._recorder, logger=self._logger)
        self._report = Report(options, self._life)
        self._group_view = self._life.pool.subscriptions[0].group_view

    def _begin_anew(self) -> None:
        """In a forked process: be another consumer, unless the parent has used this one."""
        if self._life.state is State.NEW:
            name = (
                self.consumer_id
                if self._options.has_own_id
                else identity.unique_name(self.consumer_group)
            )
            self._build(replace(self._options, consumer_id=name))

    # --- life cycle ---

    def connect(self) -> None:
        """Reach Redis, create the stream and group if they do not exist, and claim the name.

        From then on the name is kept, however long loading a model takes before the start; only
        `stop()` or the end of the process gives it up. Calling it is optional: `start()` does it.

        If Redis is away, it tries again for `connect_seconds` (None for one attempt). An attempt
        blocks up to 5 s to connect, as long again where Sentinels or a cluster are asked for the
        server first, and up to `block_seconds` and 5 s for an answer. If another process has the
        name and may have died, it waits for the end of its lease. A `stop()` meanwhile ends the
        wait at once.

        Raises `RedisUnavailable`; at once `RedisAccessDenied`, `ConfigurationError` if a key has
        another type, `ConsumerIdInUse` if another live process of the group has this
        `consumer_id`, and `ConsumerStateError` on a consumer that was started or stopped before,
        here or in the process that this one was forked from.
        """
        self._life.connect()

    def start(self) -> None:
        """Start the pool and return.

        Blocks and raises as `connect()` does, and then until every reader has its processor: with a
        `processor_factory`, or an import path. If one cannot be loaded, it raises `LoadingFailed`
        as soon as the others have closed theirs, and waits up to `drain_seconds` for that; the
        consumer has stopped then. Raises `ConsumerStateError` on a consumer that was started or
        stopped before: make a new one instead. Reads nothing if it is stopped meanwhile.

        The threads do not keep the program alive. When it ends, whether or not by an error, the
        interpreter drains as `stop()` does, for `drain_seconds` and 25 s at most; Ctrl-C then hands
        running messages back at once. A signal that nobody handles, such as SIGTERM by default,
        ends the process without that: it is a crash.
        """
        self._life.start()

    def start_consuming(self) -> bool:
        """Start the pool unless it runs, block until it is stopped, and return what `stop()` does.

        If Redis is away at the start, it waits for `connect_seconds` (None for ever). Called from
        the main thread it drains on SIGTERM, SIGINT and SIGHUP (unless the program ignores or
        handles that itself), and ends that wait at once; a second signal hands running messages
        back at once. Raises what `start()` raises, and `ConsumerBroken` if the consumer could not
        go on by itself: the worker is broken (`WorkerBroken`, `fatal_errors`), a thread of the pool
        has ended, or (`ConsumerIdInUse`) another process has claimed its name. End the program then
        with the `exit_code` of that error, so that its supervisor starts another process. A program
        that uses `start()` and `join()` learns it from `broken`.
        """
        return self._life.run()

    def stop(self, timeout: float | None = None) -> bool:
        """Drain: stop reading, let running messages finish, hand back the rest, leave the group.

        Blocks up to `timeout` (None for `drain_seconds`) and 3 s more to report to Redis. Returns
        whether every thread ended; False if a processor still runs, whose message was handed back
        if Redis could be reached. May be called from any thread and more than once; the shortest
        timeout counts. Called by a processor it only begins the drain, and returns False. In a
        process that was forked from the one that connected or started it does nothing, and returns
        False.
        """
        return self._life.stop(timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the consumer has stopped; return whether it has. Somebody else must stop
        it."""
        return self._life.join(timeout)

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

    # --- what it reports of itself ---

    @property
    def state(self) -> str:
        """`new`, `starting`, `running`, `draining` or `stopped`.

        `started in another process` in a process that was forked from that one meanwhile.
        """
        return self._life.state.value

    @property
    def broken(self) -> ConsumerBroken | None:
        """Why the consumer has stopped, or is stopping, by itself; None if it has not.

        Only a new process helps. `start_consuming()` raises this.
        """
        return self._life.broken

    @property
    def redis_connected(self) -> bool:
        """Whether Redis answers: well the last time, and within 4 s. Never asks it; never blocks.

        A Redis that is silent is noticed so soon if somebody asks about every second, and else when
        the time limits of its connections have passed, after some 6 s.
        """
        return self._report.redis_connected

    @property
    def live(self) -> bool:
        """Whether this process makes progress by itself; restart it if not.

        False while a message runs past `job_limit_seconds`, or when a thread of the pool has made
        no progress for 3 minutes outside of a job, as in a logger or metrics that never return;
        after a thread has ended by itself, and after another process has claimed the name. Redis
        being away is no reason, nor is an interpreter that stood still as a whole. True before the
        start, while it drains, after it has stopped, and in a process that was forked from the one
        that started it. Never asks Redis; never blocks.
        """
        return self._report.health().live

    @property
    def ready(self) -> bool:
        """Whether it takes messages: it runs, Redis answers, the group is there, a reader is free.

        A reader is free also while it runs a message; not when that is late, by its deadline or
        by `late_after_p99s`. Never asks Redis; never blocks.
        """
        return self._report.health().ready

    def get_health_data(self) -> dict[str, Any]:
        """Return values for a health page. Never asks Redis; never blocks.

        Sizes of the queue are those of the last heartbeat, at most 2 s old while Redis answers;
        None before the first and where the server does not say. `status` and `reasons` are there
        while something is wrong: "unhealthy" if it is not `live`, Redis is away or the group is
        gone; "degraded" if it is not `ready` for another cause, a job is late, too many messages
        fail, or something outside takes messages away or hides them. `details` has
        addresses, texts of errors and where a thread hangs, which are not for everyone. `started`
        is whether the start has come as far as it can: it went well, or waits for Redis or a name.
        In a process that was forked from the one that started the consumer, `redis_connected` is
        None.
        """
        return self._report.health_data()

    def get_group_view(self) -> dict[str, Any]:
        """Return the whole group as a page shows it: consumers, parked messages and dead letters.

        Asks Redis, over a connection of its own that is closed again, and blocks up to 2 s to
        connect, 2 s more where Sentinels or a cluster are asked for the server first, and 2 s for
        the answer. Works whether or not the consumer runs. Raises `RedisUnavailable` or
        `RedisRefused`; what this user may not see is left out, and `reasons` says so.
        """
        return self._group_view.read()

    def get_views(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return tables for a dashboard, each as a function that returns the newest one.

        `readers` has what each reader does, the jobs that run, and the circuit breakers if any were
        given; it never asks Redis nor blocks.
        `group` is `get_group_view()`, which does both.
        """
        self._group_view.is_shown = True
        return {"readers": self._report.readers, "group": self.get_group_view}
