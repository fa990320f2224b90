"""Job: a message with the options that it is published with."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from shared_sync.common import arguments
from shared_sync.common.trace_context import TraceContext, check_traceparent
from shared_sync.errors import ConfigurationError, InvalidMessage
from shared_sync.message import encode_fields
from shared_sync.protocol import dead_letter_layout, job_options, keys
from shared_sync.protocol.job_options import JobOptions
from shared_sync.protocol.publishing import AT_ONCE, Placing

DEDUPLICATE_SECONDS: Final = 300.0
"""For how long a `deduplicate_key` is remembered, unless another time is given."""

LONGEST_SECONDS: Final = 10 * 366 * 86_400.0
"""The longest delay, expiry, and time to remember a key."""

LATEST: Final = 1e11
"""A time in seconds since 1970: the year 5138."""

NO_TRACE: Final = TraceContext()
"""What travels with a message that belongs to no trace."""

_RESERVED: Final = (job_options.PREFIX, dead_letter_layout.PREFIX)
"""Prefixes that `check_names()` refuses. Checking them here first takes a tenth of the time."""


@dataclass(frozen=True, slots=True)
class Job:
    """A message for `publish_many()`, with options of its own.

        producer.publish_many([Job({"text": "hello"}, expires_seconds=30), {"text": "plain"}])

    The options are the same as the arguments of `publish()`.
    """

    fields: Mapping[str, object]
    """The fields of the message."""
    _: KW_ONLY
    expires_seconds: float | None = None
    reply_to: str | None = None
    traceparent: str | None = None
    deduplicate_key: str | None = None
    deduplicate_seconds: float = DEDUPLICATE_SECONDS
    delay_seconds: float | None = None
    at: datetime | float | None = None


def encode(fields: Mapping[str, object]) -> list[bytes]:
    """Return the names and values of a message. Raises `InvalidMessage` if it cannot be stored."""
    try:
        items = encode_fields(fields)
    except InvalidMessage:
        if isinstance(fields, Job):
            raise InvalidMessage(
                "only publish_many() takes a Job; give other methods its fields, and its options "
                "as arguments, as in publish({'n': 1}, expires_seconds=30)"
            ) from None
        raise
    for name in fields:
        if name.startswith(_RESERVED):
            job_options.check_names(fields)
    return items


def encode_job(
    job: Job, stream: str, trace: TraceContext = NO_TRACE
) -> tuple[list[bytes], Placing]:
    """Return the names and values of a job for a stream, and its placing.

    `trace` travels with the job unless it has a `traceparent` of its own.

    Raises `InvalidMessage` for fields that cannot be stored, and `ConfigurationError` for an option
    that cannot work.
    """
    items = encode(job.fields)
    placing = _placing_of(job)
    if (
        placing.scheduled_id
        or job.reply_to is not None
        or job.expires_seconds is not None
        or job.traceparent is not None
        or trace.traceparent
    ):
        if job.traceparent is not None:
            check_traceparent("traceparent", job.traceparent)
            trace = TraceContext(job.traceparent)
        options = (stream, placing.scheduled_id, job.reply_to, job.expires_seconds, trace)
        try:
            items += (_OPTIONS_NAME, _options_item(*options))
        except TypeError:  # an option that cannot be hashed; the checks refuse it
            items += (_OPTIONS_NAME, _options_item.__wrapped__(*options))
    return items, placing


_OPTIONS_NAME: Final = job_options.OPTIONS.encode()


@lru_cache(maxsize=256, typed=True)
def _options_item(
    stream: str,
    job_id: str,
    reply_to: str | None,
    expires_seconds: float | None,
    trace: TraceContext,
) -> bytes:
    """Check the options of a job, and return them as they are stored.

    Cached, because most jobs of a process have the same options.
    """
    if reply_to is not None:
        arguments.text("reply_to", reply_to)
        if not keys.may_reply_to(stream, reply_to):
            raise ConfigurationError(
                f"reply_to {reply_to!r} is not a reply stream of {stream!r}; give a name that "
                f"begins with {keys.StreamKeys.of(stream).reply('')!r}, as submit() does"
            )
    if expires_seconds is not None:
        arguments.number("expires_seconds", expires_seconds, 0.001, LONGEST_SECONDS)
    return JobOptions(
        reply_to=reply_to or "",
        id=job_id,
        expires_seconds=expires_seconds,
        traceparent=trace.traceparent,
        tracestate=trace.tracestate,
    ).to_item()


def _placing_of(job: Job) -> Placing:
    if job.deduplicate_seconds != DEDUPLICATE_SECONDS:
        arguments.number("deduplicate_seconds", job.deduplicate_seconds, 1, LONGEST_SECONDS)
    if job.deduplicate_key is None and job.delay_seconds is None and job.at is None:
        return AT_ONCE
    if job.deduplicate_key is not None:
        arguments.text("deduplicate_key", job.deduplicate_key)
    due = _due(job)
    if not due and job.deduplicate_key is None:
        return AT_ONCE
    return Placing(
        deduplicate_key=job.deduplicate_key or "",
        deduplicate_ms=math.ceil(1000 * job.deduplicate_seconds),
        scheduled_id=_new_id() if due else "",
        due=due,
    )


def _due(job: Job) -> str:
    if job.delay_seconds is not None:
        arguments.number("delay_seconds", job.delay_seconds, 0, LONGEST_SECONDS)
        if job.at is not None:
            raise ConfigurationError("give delay_seconds or at, not both: each is a time")
        return f"+{math.ceil(1000 * job.delay_seconds)}" if job.delay_seconds > 0 else ""
    if job.at is None:
        return ""
    moment = job.at
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ConfigurationError(
                f"at must say its time zone, such as datetime.now(timezone.utc), not {moment!r}"
            )
        moment = moment.timestamp()
    try:
        arguments.number("at", moment, 0, LATEST)
    except ConfigurationError:
        raise ConfigurationError(
            f"at must be a datetime with a time zone, or seconds since 1970, not {moment!r}"
        ) from None
    return str(math.ceil(1000 * moment))


def _new_id() -> str:
    """Return an id for a scheduled job. The time in it is only for people to read."""
    return f"scheduled-{math.floor(1000 * time.time())}-{secrets.randbits(48)}"
