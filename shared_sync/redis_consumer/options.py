"""The options of a consumer, checked as soon as they are given."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from shared_sync.batching import DEFAULT_BATCH, Batching
from shared_sync.circuit_breaker import CircuitBreaker
from shared_sync.common import arguments
from shared_sync.connection import discovery
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.errors import ConfigurationError
from shared_sync.policies import RetryPolicy
from shared_sync.protocol.addresses import result_stream_template
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.retention import Limits
from shared_sync.redis_consumer import prefetch as prefetch_sizes
from shared_sync.redis_consumer.prefetch import Setting

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

MAX_BLOCK_SECONDS = 2.0
MAX_PREFETCH = 1000
LONGEST_WAIT_SECONDS = 365 * 86_400
LONGEST_DEADLINE_SECONDS = 365 * 86_400
LONGEST_TTL_SECONDS = 10 * 365 * 86_400
LONGEST_GRACE_SECONDS = 3600.0
LONGEST_RELEASE = 100
KILL_MARGIN_SECONDS = 10.0
"""How long a child may take to be gone after SIGKILL, on a busy machine."""

Isolation = Literal["thread", "process"]
"""Where a processor runs: in the thread of its reader, or in a child process of its reader."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `RedisStreamConsumer` is made with; its docstring explains each."""

    redis_url: str
    stream_name: str
    consumer_group: str
    consumer_id: str
    threads: int
    prefetch: Setting
    batch: Batching | None
    takes_batches: bool
    """Whether there is a `batch_processor`. A factory may make one, too, which shows later."""

    binary_fields: Collection[str]
    result_stream: str | None
    result_channel: str | None
    result_max_entries: int | None
    result_ttl_seconds: float | None
    dead_max_entries: int | None
    dead_ttl_seconds: float | None
    progress_per_second: float
    carry_fields: Sequence[str]
    lease_seconds: float
    foreign_idle_seconds: float | None
    retry: RetryPolicy
    max_crashes: int
    max_age_seconds: float | None
    dead_letter_expired: bool
    job_deadline_seconds: float | None
    job_limit_seconds: float | None
    late_after_p99s: float | None
    max_failure_share: float | None
    fatal_errors: Collection[type[BaseException] | str]
    max_failures_in_a_row: int | None
    drain_seconds: float
    block_seconds: float
    connect_seconds: float | None
    isolation: Isolation
    kill_grace_seconds: float
    max_memory_mb: float | None
    devices: Sequence[str]
    max_jobs_per_processor: int | None
    has_factory: bool
    """Whether a processor is made by a factory, once for each reader."""
    has_own_id: bool
    """Whether the program has chosen the `consumer_id`, so that a later process may have it too."""

    release: str
    """The release of the program, which the page of the group shows; '' for none."""

    credential_provider: CredentialProvider | None = None
    tracing: bool | TracerProvider = False
    circuit_breakers: Sequence[CircuitBreaker] = ()

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` for an option that cannot work."""
        self._check_names()
        self._check_numbers()
        self._check_retention()
        self._check_jobs()
        self._check_isolation()
        self._check_fatal_errors()
        self._check_circuit_breakers()
        self._check_processors()

    def device_of(self, reader: int) -> str | None:
        """Return the device of a reader (1, 2, ...); None if there are no devices."""
        return self.devices[(reader - 1) % len(self.devices)] if self.devices else None

    @property
    def keys(self) -> Keys:
        """The keys of the stream and group."""
        return Keys.of(self.stream_name, self.consumer_group)

    @property
    def result_limits(self) -> Limits:
        """The limits of the results."""
        return Limits(self.result_max_entries, self.result_ttl_seconds)

    @property
    def dead_letter_limits(self) -> Limits:
        """The limits of the dead letters."""
        return Limits(self.dead_max_entries, self.dead_ttl_seconds)

    @property
    def fixed_result_stream(self) -> str | None:
        """The result stream, if it is the same for all messages and not a template."""
        name = self.result_stream
        if name is None or result_stream_template(self.stream_name, name).fields:
            return None
        return name

    @property
    def effective_prefetch(self) -> Setting:
        """The prefetch; 1 instead of "auto" if a single crash is the limit."""
        return 1 if self.prefetch == "auto" and self.max_crashes == 1 else self.prefetch

    @property
    def effective_batch(self) -> Batching:
        """How messages are collected; one at a time if a single crash is the limit."""
        return self.batch or Batching(max_size=1 if self.max_crashes == 1 else DEFAULT_BATCH)

    @property
    def effective_foreign_idle_seconds(self) -> float:
        """After how long an idle message of another program is taken over."""
        idle = self.foreign_idle_seconds
        return self.lease_seconds if idle is None else idle

    @property
    def give_up_seconds(self) -> float | None:
        """After how long a running message is given to others, while its thread runs on.

        None for a child process: it is ended at the deadline, and its message has failed then.
        """
        return self.job_deadline_seconds if self.isolation == "thread" else None

    @property
    def kill_seconds(self) -> float | None:
        """How long it may take to end a job that is past its deadline; None for a thread."""
        return (
            self.kill_grace_seconds + KILL_MARGIN_SECONDS if self.isolation == "process" else None
        )

    @property
    def most_prefetched(self) -> int:
        """Most messages that a thread has at a time."""
        if self.takes_batches or self.batch is not None:
            return self.effective_batch.max_size
        return prefetch_sizes.most(self.effective_prefetch)

    def _check_names(self) -> None:
        arguments.text("consumer_id", self.consumer_id)
        if self.release:
            arguments.text("release", self.release)
        if len(self.release) > LONGEST_RELEASE:
            raise ConfigurationError(
                f"release has {len(self.release)} characters; give it {LONGEST_RELEASE} at most"
            )
        if self.consumer_id.startswith("~"):
            raise ConfigurationError(f"consumer_id {self.consumer_id!r} may not begin with '~'")
        arguments.names("binary_fields", self.binary_fields)
        arguments.names("carry_fields", self.carry_fields)
        if self.result_stream is not None:
            arguments.text("result_stream", self.result_stream)
            self._check_result_stream(self.result_stream)
        if self.result_channel is not None:
            arguments.text("result_channel", self.result_channel)
        if self.result_stream == self.stream_name:
            raise ConfigurationError("result_stream must be another stream than stream_name")
        if not isinstance(self.retry, RetryPolicy):
            raise ConfigurationError(f"retry must be a RetryPolicy, not {self.retry!r}")
        self.keys  # noqa: B018 - raises for names that cannot be used

    def _check_result_stream(self, result_stream: str) -> None:
        template = result_stream_template(self.stream_name, result_stream)
        # The values of fields may contain braces, which must not change the slot.
        name = template.fill(dict.fromkeys(template.fields, "{any}"))
        discovery.check_one_slot(self.redis_url, self.stream_name, result_stream, name)

    def _check_numbers(self) -> None:
        arguments.whole_number("threads", self.threads, 1, 1000)
        if self.prefetch != "auto":
            if isinstance(self.prefetch, str):
                raise ConfigurationError(
                    f'prefetch must be "auto" or a whole number, not {self.prefetch!r}'
                )
            arguments.whole_number("prefetch", self.prefetch, 1, MAX_PREFETCH)
        if self.batch is not None and not isinstance(self.batch, Batching):
            raise ConfigurationError(f"batch must be a Batching, or None, not {self.batch!r}")
        if self.prefetch != "auto" and (self.takes_batches or self.batch is not None):
            raise ConfigurationError(
                'prefetch must stay "auto" where messages run in batches: a thread fetches what '
                "its next batch needs; set max_size of Batching instead"
            )
        arguments.whole_number("max_crashes", self.max_crashes, 1)
        if self.max_age_seconds is not None:
            arguments.number("max_age_seconds", self.max_age_seconds, 0.001)
        if not isinstance(self.dead_letter_expired, bool):
            raise ConfigurationError(
                f"dead_letter_expired must be True or False, not {self.dead_letter_expired!r}"
            )
        arguments.number("lease_seconds", self.lease_seconds, 1, 86_400)
        if self.foreign_idle_seconds not in (None, math.inf):
            arguments.number("foreign_idle_seconds", self.foreign_idle_seconds, 1)
        arguments.number("drain_seconds", self.drain_seconds, 0, 86_400)
        arguments.number("block_seconds", self.block_seconds, 0.01, MAX_BLOCK_SECONDS)
        if self.connect_seconds is not None and self.connect_seconds != math.inf:
            arguments.number("connect_seconds", self.connect_seconds, 0, LONGEST_WAIT_SECONDS)
        if self.late_after_p99s is not None:
            arguments.number("late_after_p99s", self.late_after_p99s, 1, 1_000_000)
        if self.max_failure_share is not None:
            arguments.number("max_failure_share", self.max_failure_share, 0, 1)
        if self.max_failures_in_a_row is not None:
            arguments.whole_number("max_failures_in_a_row", self.max_failures_in_a_row, 2)

    def _check_retention(self) -> None:
        for name in ("result_max_entries", "dead_max_entries"):
            if (most := getattr(self, name)) is not None:
                arguments.whole_number(name, most, 1)
        for name in ("result_ttl_seconds", "dead_ttl_seconds"):
            if (ttl := getattr(self, name)) is not None:
                arguments.number(name, ttl, 1, LONGEST_TTL_SECONDS)
        if self.result_limits.are_set and self.result_stream is None:
            raise ConfigurationError(
                "result_max_entries and result_ttl_seconds limit the entries of result_stream, "
                "and there is none; set it, or leave them out"
            )

    def _check_circuit_breakers(self) -> None:
        given = self.circuit_breakers
        if not isinstance(given, Sequence) or not all(
            isinstance(one, CircuitBreaker) for one in given
        ):
            raise ConfigurationError(
                f"circuit_breakers must be a sequence of CircuitBreaker, not {given!r}"
            )
        names = [one.name for one in given]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(
                f"two of circuit_breakers are named {twice!r}; give each a name of its own"
            )

    def _check_jobs(self) -> None:
        arguments.number("progress_per_second", self.progress_per_second, 0.01, 1000)
        deadline, limit = self.job_deadline_seconds, self.job_limit_seconds
        if deadline is not None:
            arguments.number("job_deadline_seconds", deadline, 0.1, LONGEST_DEADLINE_SECONDS)
        if limit is not None:
            if deadline is None:
                raise ConfigurationError(
                    "job_limit_seconds needs job_deadline_seconds: a message that hangs is charged "
                    "for it at its deadline; without one it would stop one process after the other"
                )
            arguments.number("job_limit_seconds", limit, deadline, 2 * LONGEST_DEADLINE_SECONDS)
        if self.max_crashes == 1 and self.threads * self.most_prefetched > 1:
            raise ConfigurationError(
                'max_crashes=1 needs threads=1, prefetch=1 or "auto", and batches of 1: a crash is '
                "charged to every message that the process had, and with one allowed all of them "
                "would die"
            )

    def _check_isolation(self) -> None:
        if self.isolation not in get_args(Isolation):
            raise ConfigurationError(
                f'isolation must be "thread" or "process", not {self.isolation!r}'
            )
        arguments.number("kill_grace_seconds", self.kill_grace_seconds, 0, LONGEST_GRACE_SECONDS)
        deadline, limit = self.job_deadline_seconds, self.job_limit_seconds
        if self.isolation == "process" and deadline is not None and limit is not None:
            least = deadline + self.kill_grace_seconds
            if limit < least:
                raise ConfigurationError(
                    f'job_limit_seconds must be {least:g} or more with isolation="process", not '
                    f"{limit!r}: a child may take job_deadline_seconds + kill_grace_seconds to end"
                )
        if self.max_memory_mb is not None:
            arguments.number("max_memory_mb", self.max_memory_mb, 1)
            if self.isolation != "process":
                raise ConfigurationError(
                    'max_memory_mb needs isolation="process": the memory of a thread cannot be '
                    "told from that of the others, nor given back"
                )

    def _check_processors(self) -> None:
        if isinstance(self.devices, str) or not isinstance(self.devices, Sequence):
            raise ConfigurationError(
                f'devices must be a list of names, such as ["cuda:0"], not {self.devices!r}'
            )
        for device in self.devices:
            arguments.text("each of devices", device)
        may_differ = self.has_factory or self.isolation == "process"
        if self.devices and not may_differ:
            raise ConfigurationError(
                "devices needs processor_factory, which is told the device of its reader, or "
                'isolation="process", whose children see their device only'
            )
        if len(self.devices) > self.threads:
            raise ConfigurationError(
                f"devices has {len(self.devices)} devices and threads is {self.threads}, so that "
                f"{self.devices[-1]!r} would have no reader; set threads to {len(self.devices)} or "
                "more, or leave devices out"
            )
        if self.max_jobs_per_processor is not None:
            arguments.whole_number("max_jobs_per_processor", self.max_jobs_per_processor, 1)
            if not may_differ:
                raise ConfigurationError(
                    "max_jobs_per_processor needs processor_factory, which makes the new "
                    'processor, or isolation="process", which starts a new child'
                )

    def _check_fatal_errors(self) -> None:
        named = self.fatal_errors
        if isinstance(named, str) or not isinstance(named, Collection):
            raise ConfigurationError(
                "fatal_errors must be a list or another collection of types of errors, or of their "
                f"names, not {named!r}"
            )
        for one in named:
            is_type = isinstance(one, type) and issubclass(one, BaseException)
            is_name = isinstance(one, str) and all(part.isidentifier() for part in one.split("."))
            if not (is_type or is_name):
                raise ConfigurationError(
                    "fatal_errors must contain types of errors, or names such as "
                    f"'AcceleratorError' or 'torch.AcceleratorError', not {one!r}"
                )
            if one in (BaseException, Exception, "BaseException", "Exception"):
                raise ConfigurationError(
                    f"fatal_errors must not contain {one!r}: every failure would end the consumer"
                )
