"""Message and current_message(), and the encoding of fields.

A stream stores field names and values as bytes. Text is stored as UTF-8, and everything that is
neither text nor bytes as JSON, so that readers in any language can decode it. `values.py` says
which values have a form.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from shared_sync import values
from shared_sync.errors import ConsumerStateError, InvalidMessage

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

Fields = dict[str, "str | bytes"]
"""The fields of a message: names, and values that are text or bytes."""


@dataclass(slots=True)
class Message:
    """One message, as a processor receives it."""

    id: str
    """The id of its entry in the stream, `<milliseconds>-<sequence>`."""

    fields: dict[str, str | bytes]
    """Field names and values. Values are text, and bytes for the consumer's `binary_fields`."""

    attempt: int
    """How often the message has been started: 1 for the first time. Failures and crashes count,
    being handed back does not."""


class Running:
    """What a thread runs just now: the parts of a `Message`, or nothing.

    Whatever runs the processor in a thread writes here what `current_message()` returns there. The
    message itself is made only if it is asked for. A context variable would do the same, at ten
    times the cost.
    """

    __slots__ = ("is_batch", "parts")

    def __init__(self) -> None:
        self.is_batch = False
        """Whether it runs several messages together, so that none is the current one."""
        self.parts: tuple[str, Fields, int] | None = None


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
    return Message(*parts)


def encode_value(name: str, value: object, *, owner: str = "") -> bytes:
    """Return the bytes to store for a value: bytes as they are, text as UTF-8, the rest as JSON.

    What JSON does not know is stored in the form that `values.py` gives it. Raises
    `InvalidMessage`, which names the field and the place within it, for a value without a form;
    `owner` is what the place begins with.
    """
    try:
        while not isinstance(value, _STORED_AS_IS):
            if isinstance(value, _STORED_AS_JSON):
                return values.to_json(value).encode()
            value = values.simplify(value)
        return value.encode() if isinstance(value, str) else bytes(value)
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


def encode_fields(fields: Mapping[str, object], owner: str = "") -> list[bytes]:
    """Return the names and values of a message, alternating, as XADD takes them.

    Raises `InvalidMessage` for fields that cannot be written; `owner` is what the places that it
    names begin with.
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
            encoded = (
                value.encode() if type(value) is str else encode_value(name, value, owner=owner)
            )
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
