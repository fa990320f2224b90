"""Message and current_message(), and the encoding of fields.

A stream stores field names and values as bytes. Text is stored as UTF-8, and everything that is
neither text nor bytes as JSON, so that readers in any language can decode it. `values.py` says
which values have a form.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from shared_sync import values
from shared_sync.errors import ConsumerStateError, InvalidMessage, JobCancelled
from shared_sync.job_control import CancelledEvent, ControlSource, JobControl

MAX_FIELDS = 1000
"""The most fields that a published message may have."""

MAX_VALUE_BYTES = 512 * 1024 * 1024
"""The largest value that Redis accepts with its default settings (`proto-max-bulk-len`)."""

MAX_MESSAGE_BYTES = 960 * 1024 * 1024
"""The largest sum of values. Redis stores an entry of up to 1 GiB; the rest is for what is stored
beside the values, and for the values that are too small to be counted."""

COUNTED_BYTES = 64 * 1024
"""Values up to this size are not counted: a message has few fields."""


_STORED_AS_IS: Final = (str, bytes, bytearray, memoryview)
_NO_FORM: Final = (TypeError, ValueError, RecursionError, AttributeError)
"""What a value without a form raises. Errors of the value's own methods, such as of a mapping that
is loaded when it is read, are passed on."""
_STORED_AS_JSON: Final = (dict, list, tuple, int, float, type(None))

JSON: Final = "json"
BYTES: Final = "bytes"
"""How values are stored that are not text."""

Fields = dict[str, "str | bytes"]
"""The fields of a message: names, and values that are text or bytes."""


class _HasSource:
    """Holds the source of a message, which is neither copied nor compared."""

    __slots__ = ("_source",)
    _source: ControlSource | None
    """Makes the control of the message, when it is first needed."""


@dataclass(slots=True, init=False)
class Message(_HasSource):
    """One message, as a processor receives it.

    You can also make one yourself, to test a processor, or copy one. Such a message has no
    consumer: it is never cancelled, and `report_progress()` and `emit()` raise
    `ConsumerStateError`.
    """

    id: str
    """The id of its entry in the stream, `<milliseconds>-<sequence>`."""

    fields: dict[str, str | bytes]
    """Field names and values. Values are text, and bytes for the consumer's `binary_fields`."""

    attempt: int
    """How often the message has been started: 1 for the first time. Failures and crashes count,
    being handed back does not."""

    def __init__(
        self,
        id: str,
        fields: dict[str, str | bytes],
        attempt: int,
        source: ControlSource | None = None,
    ) -> None:
        self.id = id
        self.fields = fields
        self.attempt = attempt
        self._source = source  # type: ignore[misc]  # a slot of the base class

    def __reduce__(self) -> tuple[object, ...]:
        return Message, (self.id, self.fields, self.attempt)

    @property
    def cancelled(self) -> CancelledEvent:
        """An event that is set once the message is cancelled.

        It is set with the next heartbeat, within 2 s. It has `is_set()` and `wait(timeout)`, like a
        `threading.Event`. If the processor returns nevertheless, the message is done.
        """
        control = self._control()
        return threading.Event() if control is None else control.cancelled

    def raise_if_cancelled(self) -> None:
        """Raise `JobCancelled` if the message is cancelled. Do not catch it: it ends the message.

        Never blocks.
        """
        control = self._control()
        if control is not None and control.cancelled.is_set():
            raise JobCancelled(f"message {self.id} was cancelled")

    def report_progress(self, value: float | None = None, /, **fields: object) -> None:
        """Report the progress of the work: a number from 0 to 1, and any fields.

        A result with the status `progress` goes to the same place as the final result: the caller's
        reply stream, `result_stream` or `result_channel`. The consumer sends at most
        `progress_per_second` reports a second: if you report faster, it sends only the newest. It
        always sends the last one before the final result. Reports arrive in order, and none arrives
        after the final result or after another worker has taken the message over.

        If this attempt does not succeed, the last report is the `resume_data` of the next attempt.

        Never waits for Redis and raises no error of Redis: reports that Redis refuses are dropped.
        Raises `InvalidMessage` for values that cannot be stored, and `ConsumerStateError` if the
        message has no consumer or has ended.
        """
        self._required("report_progress()").report_progress(value, fields)

    @property
    def resume_data(self) -> dict[str, Any] | None:
        """The last report of an earlier attempt, or None.

        A dict with `progress` and the reported fields, which keep their types.
        """
        control = self._control()
        return None if control is None else control.resume_data

    def emit(
        self, stream: str, fields: Mapping[str, object], *, forward_reply: bool = False
    ) -> None:
        """Publish a message to another stream when this one is done, in the same step.

        Both happen or neither: if the attempt fails, nothing is published.

        With `forward_reply=True` the result of the new message goes to the caller of this one, and
        this message has no result, whatever the processor returns. The new message gets the
        caller's reply stream, the id by which the caller knows the job, and the rest of
        `expires_seconds`. This needs a stream with the same hash tag, such as `{jobs}:translate`
        for the stream `jobs`.

        Never blocks. Raises `InvalidMessage` for fields that cannot be stored,
        `ConfigurationError` for a stream that cannot be written in the same step, and
        `ConsumerStateError` if the message has no consumer or has ended, or if its reply is
        forwarded already.
        """
        self._required("emit()").emit(stream, fields, forward_reply=forward_reply)

    @property
    def reply_to(self) -> str:
        """The reply stream of the caller; "" if the result goes to `result_stream`."""
        control = self._control()
        return "" if control is None else control.reply_to

    @property
    def traceparent(self) -> str:
        """The W3C trace context that the publisher has given, or ""."""
        control = self._control()
        return "" if control is None else control.traceparent

    @property
    def expires_at(self) -> float | None:
        """When the message expires, in seconds since 1970 by the server's clock, or None."""
        control = self._control()
        return None if control is None else control.expires_at

    def _control(self) -> JobControl | None:
        return None if self._source is None else self._source.control(self.id)

    def _required(self, method: str) -> JobControl:
        control = self._control()
        if control is None:
            raise ConsumerStateError(
                f"{method} needs a message that a consumer runs; this one was made by hand"
            )
        return control


class Running:
    """The message that a thread is running, from which `current_message()` makes a `Message`.

    The runner of the thread sets it. Only the parts are stored, because few processors ask for the
    message. A context variable would do the same, at ten times the cost.
    """

    __slots__ = ("control_of", "is_batch", "parts")

    def __init__(self) -> None:
        self.is_batch = False
        """Whether the thread runs a batch, so that no message is the current one."""
        self.parts: tuple[str, Fields, int, object] | None = None
        """The id, fields and attempt of the message, and what `control_of` is called with."""
        self.control_of: Callable[[Any], ControlSource | None] = _has_no_control
        """Returns the control source of the running message. Called when the message is made."""


def _has_no_control(_: object) -> None:
    return None


_here = threading.local()


def running_in_this_thread() -> Running:
    """Return the one object that says what the calling thread runs."""
    running: Running | None = getattr(_here, "running", None)
    if running is None:
        running = _here.running = Running()
    return running


def current_message() -> Message:
    """Return the message that the calling processor is running, with its attempt number.

    Call it in a processor, in the thread that runs it. Never blocks. Raises `ConsumerStateError`
    anywhere else, and in a batch processor, which has its messages as its argument.
    """
    running = running_in_this_thread()
    parts = running.parts
    if parts is None:
        if running.is_batch:
            raise ConsumerStateError(
                "a batch processor runs several messages at once, so none is the current one; use "
                "those that it was called with"
            )
        raise ConsumerStateError(
            "call current_message() from a running processor, in the thread that runs it"
        )
    message_id, fields, attempt, run = parts
    return Message(message_id, fields, attempt, running.control_of(run))


def encode_value(name: str, value: object, *, owner: str = "") -> bytes:
    """Return the bytes to store for a value: bytes as they are, text as UTF-8, the rest as JSON.

    What JSON does not know is stored in the form that `values.py` gives it. Raises
    `InvalidMessage`, which names the field and the place within it, for a value without a form;
    `owner` is what the place begins with.
    """
    return _encode(name, value, owner)[0]


def _encode(name: str, value: object, owner: str) -> tuple[bytes, str]:
    """As `encode_value()`, with the kind of what is stored: "json", "bytes", or "" for text."""
    try:
        while not isinstance(value, _STORED_AS_IS):
            if isinstance(value, _STORED_AS_JSON):
                return values.to_json(value).encode(), JSON
            value = values.simplify(value)
        return (value.encode(), "") if isinstance(value, str) else (bytes(value), BYTES)
    except _NO_FORM as error:
        raise _unfit(name, value, owner, error) from None


def encode_json_object(content: Mapping[str, object], *, owner: str = "") -> bytes:
    """Return fields as one JSON object in UTF-8. Raises as `encode_value()` does, also for bytes.

    `owner` is what the places of values begin with.
    """
    try:
        return values.to_json(content).encode()
    except _NO_FORM as error:
        for name, value in content.items():
            fault = values.find_fault(values.place_of(owner, name), value)
            if fault is not None:
                raise _unfit(name, value, owner, error) from None
        raise InvalidMessage(f"the fields cannot be written as JSON ({error})") from None


def _unfit(name: str, value: object, owner: str, error: Exception) -> InvalidMessage:
    """The error for a value that cannot be stored, which names the place within it."""
    fault = values.find_fault(values.place_of(owner, name), value)
    why = fault or f"it cannot be written as JSON ({error})"
    remedy = "; send it as bytes" if isinstance(value, str) else ""
    return InvalidMessage(f"field {name!r} cannot be stored: {why}{remedy}", field=name)


def encode_fields(
    fields: Mapping[str, object], owner: str = "", kinds: list[str] | None = None
) -> list[bytes]:
    """Return the names and values of a message, alternating, as XADD takes them.

    Raises `InvalidMessage` for fields that cannot be written; `owner` is what the places that it
    names begin with. For each value that is stored as JSON or as bytes, `JSON` or `BYTES` and the
    name are added to `kinds`.
    """
    if type(fields) is not dict and not isinstance(fields, Mapping):
        raise InvalidMessage(
            f"a message is a mapping of field names to values, not {type(fields).__name__}"
        )
    if not 0 < len(fields) <= MAX_FIELDS:
        raise InvalidMessage(f"a message has 1 to {MAX_FIELDS} fields, not {len(fields)}")
    items: list[bytes] = []
    large_bytes = 0
    for name, value in fields.items():
        if not isinstance(name, str):
            raise InvalidMessage(f"field names are text, not {type(name).__name__}: {name!r}")
        try:
            # Most values are text, which goes the shortest way.
            encoded_name = name.encode()
            if type(value) is str:
                encoded = value.encode()
            else:
                encoded, kind = _encode(name, value, owner)
                if kind and kinds is not None:
                    kinds += (kind, name)
        except UnicodeEncodeError:
            encoded_name = encode_value(name, name)
            encoded = encode_value(name, value, owner=owner)
        if len(encoded) > COUNTED_BYTES:
            large_bytes += len(encoded)
            _check_size(name, len(encoded), large_bytes)
        items += (encoded_name, encoded)
    return items


def _check_size(name: str, size: int, sum_of_sizes: int) -> None:
    if size > MAX_VALUE_BYTES:
        raise InvalidMessage(
            f"field {name!r} has {size} bytes, more than Redis accepts "
            f"({MAX_VALUE_BYTES}); store it elsewhere and publish its location",
            field=name,
        )
    if sum_of_sizes > MAX_MESSAGE_BYTES:
        raise InvalidMessage(
            f"the fields up to {name!r} have {sum_of_sizes} bytes together, more than Redis "
            f"accepts in one entry ({MAX_MESSAGE_BYTES}); store them elsewhere and publish their "
            "location",
            field=name,
        )


def decode_fields(
    items: Sequence[bytes], binary_fields: Collection[str] = ()
) -> dict[str, str | bytes]:
    """Return the fields of an entry, given as alternating names and values.

    Values are decoded as UTF-8, except those of `binary_fields`. Raises `InvalidMessage`, which
    names the field, if a name or a value is not UTF-8.
    """
    fields: Fields = {}
    raw = iter(items)
    for raw_name in raw:
        try:
            name = raw_name.decode()
        except UnicodeDecodeError:
            raise InvalidMessage(
                f"the field name {raw_name!r} is not UTF-8; publish field names as UTF-8 text"
            ) from None
        raw_value = next(raw)
        if name in binary_fields:
            fields[name] = raw_value
            continue
        try:
            fields[name] = raw_value.decode()
        except UnicodeDecodeError as error:
            raise InvalidMessage(
                f"field {name!r} is not UTF-8 (byte {error.start} of {len(raw_value)}); "
                f"name it in binary_fields to receive it as bytes",
                field=name,
            ) from None
    return fields


def decode_readable(items: Sequence[bytes]) -> dict[str, str | bytes]:
    """Return those fields of an entry that are UTF-8, and leave out the others. Never raises."""
    readable: dict[str, str | bytes] = {}
    for index in range(0, len(items) - 1, 2):
        with suppress(InvalidMessage):
            readable.update(decode_fields(items[index : index + 2]))
    return readable
