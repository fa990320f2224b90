"""A message as the processor sees it, and how its fields are written to and read from a stream.

A stream stores field names and values as bytes. Text travels as UTF-8; everything that is neither
text nor bytes travels as JSON, so that any reader in any language can make sense of it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass

from shared_sync.errors import ConsumerStateError, InvalidMessage

MAX_FIELDS = 1000
"""Most fields of one message that this library writes."""

MAX_VALUE_BYTES = 512 * 1024 * 1024
"""The largest value that Redis takes as it is delivered (`proto-max-bulk-len`)."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as handed to a processor."""

    id: str
    """The stream's id, `<milliseconds>-<sequence>`."""

    fields: dict[str, str | bytes]
    """Values are text, except those of the consumer's `binary_fields`."""

    attempt: int
    """1 when the message is run for the first time; failures and crashes count."""


current: ContextVar[Message] = ContextVar("shared_sync_current_message")


def current_message() -> Message:
    """The message that the calling processor was given, with its attempt number.

    Call it from the processor, in the thread that runs it; elsewhere it raises
    `ConsumerStateError`.
    """
    message = current.get(None)
    if message is None:
        raise ConsumerStateError(
            "current_message() is for a processor while it runs, in the thread that runs it"
        )
    return message


def encode_value(name: str, value: object) -> bytes:
    """The bytes stored for a value: bytes as they are, text as UTF-8, anything else as JSON.

    Raises `InvalidMessage` if JSON has no form for it.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise InvalidMessage(
                f"field {name!r} holds text that is not valid Unicode ({error.reason}); "
                "send it as bytes",
                field=name,
            ) from None
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return encode_json(name, value)


def encode_json(name: str, value: object) -> bytes:
    """The JSON form of a value, in UTF-8. Raises `InvalidMessage` naming the field if none."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(
            f"field {name!r} of type {type(value).__name__} cannot be written as JSON ({error}); "
            "convert it to text, numbers, lists or dicts first",
            field=name,
        ) from None


def encode_fields(fields: Mapping[str, object]) -> list[bytes]:
    """Names and values in turn, ready for XADD. Raises `InvalidMessage`."""
    if type(fields) is not dict and not isinstance(fields, Mapping):
        raise InvalidMessage(
            f"a message is a mapping of field names to values, not {type(fields).__name__}"
        )
    if not 0 < len(fields) <= MAX_FIELDS:
        raise InvalidMessage(f"a message has 1 to {MAX_FIELDS} fields, not {len(fields)}")
    items: list[bytes] = []
    for name, value in fields.items():
        if not isinstance(name, str):
            raise InvalidMessage(f"field names are text, not {type(name).__name__}: {name!r}")
        try:
            # Most values are text, which goes the shortest way.
            encoded_name = name.encode()
            encoded = value.encode() if type(value) is str else encode_value(name, value)
        except UnicodeEncodeError:
            encoded_name, encoded = encode_value(name, name), encode_value(name, value)
        if len(encoded) > MAX_VALUE_BYTES:
            raise InvalidMessage(
                f"field {name!r} has {len(encoded)} bytes, more than Redis takes "
                f"({MAX_VALUE_BYTES}); store it elsewhere and send its address",
                field=name,
            )
        items += (encoded_name, encoded)
    return items


def decode_fields(
    items: Sequence[bytes], binary_fields: Collection[str] = ()
) -> dict[str, str | bytes]:
    """The fields of an entry. Raises `InvalidMessage` naming the one that is not UTF-8."""
    fields: dict[str, str | bytes] = {}
    pairs: Iterable[bytes] = iter(items)
    for raw_name, raw_value in zip(pairs, pairs, strict=True):
        try:
            name = raw_name.decode()
        except UnicodeDecodeError:
            raise InvalidMessage(
                f"the field name {raw_name!r} is not UTF-8; publish field names as UTF-8 text"
            ) from None
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
    """Those fields of an entry that are UTF-8; never raises."""
    readable: dict[str, str | bytes] = {}
    for index in range(0, len(items) - 1, 2):
        with suppress(InvalidMessage):
            readable.update(decode_fields(items[index : index + 2]))
    return readable
