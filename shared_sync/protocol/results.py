"""The form of a result: an entry of a stream, JSON for a channel, or both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from shared_sync import values
from shared_sync.errors import ConfigurationError, InvalidMessage, InvalidResult
from shared_sync.message import encode_fields, encode_json_object
from shared_sync.protocol.addresses import Addresses, Fault, Route
from shared_sync.protocol.dead_letter_layout import Metadata
from shared_sync.protocol.job_options import OPTIONS, PREFIX, TYPES
from shared_sync.protocol.messages import DONE, Address, Answer, Entry, Finish, Output

Fields = Mapping[str, str | bytes]

_TYPES_NAME: Final = TYPES.encode()

ENVELOPE: Final = frozenset({"message_id", "status", TYPES})
"""Fields of every result. No other field may have these names, because callers rely on them."""

RESULT: Final = "result"
"""The field of a result that is no mapping; what the places within a result begin with."""

LARGEST_CARRIED_BY_DEATH: Final = 64 * 1024
"""The largest field, in characters or bytes, that the result of a dead message carries."""


class Results:
    """Turns a result, or the end of a message, into what is published. Safe from any thread."""

    def __init__(
        self,
        *,
        stream: str,
        result_stream: str | None,
        result_channel: str | None,
        carry_fields: Sequence[str],
        binary_fields: Sequence[str],
        log_renamed: Callable[..., None] = lambda *_: None,
    ) -> None:
        """`stream` is the stream of the messages."""
        self._addresses = Addresses(
            stream=stream,
            result_stream=result_stream,
            result_channel=result_channel,
            binary_fields=binary_fields,
        )
        self._has_channel = result_channel is not None
        self._carry = tuple(carry_fields)
        self._log_renamed = log_renamed
        self.wanted = self._addresses.wanted
        """Whether results of messages without options go anywhere."""
        self._is_plain = self._addresses.is_simple and not self._carry
        self.reads_fields = bool(self._carry or self._addresses.fields)
        """Whether the result of a message depends on its fields: carried ones, or a template."""
        self._check_carried(binary_fields)

    def find_fault(self, fields: Fields) -> Fault | None:
        """Return why the result of a message could not be written; None if it can."""
        return self._addresses.find_fault(fields)

    def success(
        self,
        entry: Entry,
        fields: Fields,
        result: object,
        outputs: Sequence[Output] = (),
        *,
        forwards_reply: bool = False,
    ) -> Finish:
        """Return the end of a message that is done, with what its processor has emitted.

        There is nothing to publish for None, unless a caller waits for the answer; nor with
        `forwards_reply`, as another message answers under the same id then.

        Raises `InvalidResult` if the result has no form, or has not run, and what its own methods
        raise while it is read, such as that of a mapping which is loaded only then.

        What the processor returns wins over what is carried along under the same name.
        """
        has_more = outputs or forwards_reply or OPTIONS in fields
        if has_more or result is None or not self.wanted:
            return self._special_success(entry, fields, result, outputs, forwards_reply)
        own, owner = (result, RESULT) if type(result) is dict else _fields_of(result)
        try:
            if self._is_plain and not ("message_id" in own or "status" in own or TYPES in own):
                # The usual result, the shortest way: keywords would double the time of the call.
                kinds: list[str] = []
                items = encode_fields(own, owner, kinds) if own else []
                if kinds:
                    items += _types_of(tuple(kinds))
                return Finish(entry.id, items, "", b"", True, entry)
            return self._finish(entry, fields, self._addresses.route(fields), own, owner)
        except InvalidMessage as error:
            values.close_unstarted(values.find_unstarted(RESULT, result))
            raise InvalidResult(str(error), field=error.field) from None

    def _special_success(
        self,
        entry: Entry,
        fields: Fields,
        result: object,
        outputs: Sequence[Output],
        forwards_reply: bool,
    ) -> Finish:
        """As `success()`, if there is more to it than a result."""
        if forwards_reply:
            refuse_unstarted(result)
            return Finish(entry.id, entry=entry, outputs=outputs)
        route = self._addresses.route(fields)
        if result is None and not route.options.reply_to:
            return Finish(entry.id, entry=entry, outputs=outputs)
        if not self.wanted and not route.to_stream:
            refuse_unstarted(result)
            return Finish(entry.id, entry=entry, outputs=outputs)
        own, owner = ({}, RESULT) if result is None else _fields_of(result)
        try:
            return self._finish(entry, fields, route, own, owner, outputs=outputs)
        except InvalidMessage as error:
            values.close_unstarted(values.find_unstarted(RESULT, result))
            raise InvalidResult(str(error), field=error.field) from None

    def ended(self, entry: Entry, fields: Fields, status: str, reason: str) -> Finish:
        """Return the outcome of a message with the `status` "expired" or "cancelled"."""
        route = self._addresses.route(fields)
        small = self._small(fields)
        return self._finish(entry, small, route, {"reason": reason}, status=status)

    def death(self, message_id: str, fields: Fields, metadata: Metadata) -> Answer:
        """Return the result of a message that became a dead letter.

        Large carried fields are left out: they may be why Redis does not take the result.
        """
        small = self._small(fields)
        facts = {
            "reason": metadata.reason,
            "error_type": metadata.error_type,
            "error": metadata.error,
            "attempts": metadata.attempts,
        }
        route = self._addresses.route(fields)
        content = {**self._envelope(message_id, small, "dead", route), **facts}
        return self._answer(small, route, content)

    def progress(
        self, message_id: str, fields: Fields, value: float | None, own: Mapping[str, object]
    ) -> Answer:
        """Return the result with the progress of a running message.

        Raises `InvalidMessage` if a field cannot be stored.
        """
        if not ENVELOPE.isdisjoint(own):
            own = self._rename(own)
        route = self._addresses.route(fields)
        content = self._envelope(message_id, fields, "progress", route)
        if value is not None:
            content["progress"] = value
        return self._answer(fields, route, {**content, **own})

    def address(self, fields: Fields) -> Address | None:
        """Return where the result of a message goes, if not to the fixed result stream."""
        return self._addresses.route(fields).address

    def _check_carried(self, binary_fields: Sequence[str]) -> None:
        unprintable = sorted(set(self._carry) & set(binary_fields)) if self._has_channel else []
        if unprintable:
            raise ConfigurationError(
                "result_channel publishes JSON and cannot carry binary fields; "
                f"leave them out of carry_fields: {unprintable}"
            )
        taken = [one for one in self._carry if one in ENVELOPE or one.startswith(PREFIX)]
        if taken:
            raise ConfigurationError(
                f"carry_fields may not name {sorted(taken)}, which every result has already; "
                "leave it out, or publish the field under another name"
            )

    def _small(self, fields: Fields) -> Fields:
        """Return the fields that a result needs, without large ones."""
        return {
            name: fields[name]
            for name in (*self._carry, *self._addresses.fields)
            if name in fields and len(fields[name]) <= LARGEST_CARRIED_BY_DEATH
        }

    def _envelope(
        self, message_id: str, fields: Fields, status: str, route: Route
    ) -> dict[str, object]:
        content: dict[str, object] = {
            "message_id": route.options.id or message_id,
            "status": status,
        }
        content.update((name, fields[name]) for name in self._carry if name in fields)
        if route.options.traceparent:
            content["traceparent"] = route.options.traceparent
        return content

    def _rename(self, own: Mapping[str, object]) -> dict[str, object]:
        """Rename fields of the processor that have the name of a field of every result."""
        renamed: dict[str, object] = {}
        for name, value in own.items():
            new_name = name
            while new_name in ENVELOPE or (new_name != name and new_name in own):
                new_name = f"{RESULT}.{new_name}"
            if new_name != name:
                self._log_renamed(
                    "a result has the field %r, which every result has already; it is published "
                    "as %r. Rename it in the processor. This is logged once",
                    name,
                    new_name,
                )
            renamed[new_name] = value
        return renamed

    def _answer(
        self, fields: Fields, route: Route, content: Mapping[str, object], owner: str = ""
    ) -> Answer:
        items = _encode(content, owner) if route.to_stream else ()
        channel = self._addresses.channel(fields) if self._has_channel else ""
        payload = _json_object(content, owner) if channel else b""
        return Answer(items, channel, payload, route.address if items else None)

    def _finish(
        self,
        entry: Entry,
        fields: Fields,
        route: Route,
        own: Mapping[str, object],
        owner: str = "",
        *,
        status: str = DONE,
        outputs: Sequence[Output] = (),
    ) -> Finish:
        if not ENVELOPE.isdisjoint(own):
            own = self._rename(own)
        content = {**self._envelope(entry.id, fields, status, route), **own}
        answer = self._answer(fields, route, content, owner)
        return Finish(
            entry.id,
            answer.items,
            answer.channel,
            answer.payload,
            entry=entry,
            status=status,
            address=answer.address,
            outputs=outputs,
        )


def _encode(content: Mapping[str, object], owner: str) -> list[bytes]:
    """Return the items of a result."""
    kinds: list[str] = []
    items = encode_fields(content, owner, kinds)
    if kinds:
        items += _types_of(tuple(kinds))
    return items


@lru_cache(maxsize=1000)
def _types_of(kinds: tuple[str, ...]) -> tuple[bytes, bytes]:
    """The last field of a result, which names the values that are not text.

    Many results have fields of the same names and types.
    """
    names: dict[str, list[str]] = {}
    for kind, name in zip(kinds[::2], kinds[1::2], strict=True):
        names.setdefault(kind, []).append(name)
    return _TYPES_NAME, json.dumps(names).encode()


def _fields_of(result: object) -> tuple[Mapping[str, object], str]:
    """Return the fields that a result becomes, and what the places within them begin with."""
    if isinstance(result, str):  # the usual result comes first
        return {RESULT: result}, ""
    if isinstance(result, Mapping):
        return result, RESULT
    if values.is_dataclass(result):
        return {name: getattr(result, name) for name in values.names_of(result)}, RESULT
    return {RESULT: result}, ""


def refuse_unstarted(result: object) -> None:
    """Raise `InvalidResult` if a result, or a part of it, has not run."""
    faults = values.find_unstarted(RESULT, result)
    if faults:
        values.close_unstarted(faults)
        raise InvalidResult(str(faults[0]))


def _json_object(content: Mapping[str, object], owner: str) -> bytes:
    for name, value in content.items():
        if isinstance(value, (bytes, bytearray, memoryview)):
            raise InvalidMessage(
                f"field {name!r} of the result is bytes, which result_channel cannot publish; "
                "return text, or use result_stream alone",
                field=name,
            )
    return encode_json_object(content, owner=owner)
