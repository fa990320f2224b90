"""What goes to those who wait for a message's result: a stream entry, a published text, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Final

from shared_sync import values
from shared_sync.errors import ConfigurationError, InvalidMessage, InvalidResult
from shared_sync.message import encode_fields, encode_json_object
from shared_sync.protocol.dead_letter_layout import Metadata
from shared_sync.protocol.messages import Answer, Entry, Finish

Fields = Mapping[str, str | bytes]

ENVELOPE: Final = frozenset({"message_id", "status"})
"""Fields of every result. Nothing else may have these names: waiting programs rely on them."""

RESULT: Final = "result"
"""The field of a result that is no mapping; what the places within a result begin with."""

LARGEST_CARRIED_BY_DEATH: Final = 64 * 1024
"""Characters or bytes of a field that goes along with the answer for a dead message."""


class Results:
    """Turns a result, or a message's death, into what is published. Safe from any thread."""

    def __init__(
        self,
        *,
        result_stream: str | None,
        result_channel: str | None,
        carry_fields: Sequence[str],
        binary_fields: Sequence[str],
        log_renamed: Callable[..., None] = lambda *_: None,
    ) -> None:
        self._to_stream = result_stream is not None
        self._channel = result_channel
        self._carry = tuple(carry_fields)
        self._log_renamed = log_renamed
        self.channel_fields = _channel_fields(result_channel) if result_channel else ()
        self.wanted = self._to_stream or result_channel is not None
        """Whether results go anywhere."""
        self._is_plain = self._channel is None and not self._carry
        self.reads_fields = bool(self._carry or self.channel_fields)
        """Whether fields of the message go along with its result, or name its channel."""
        unprintable = set(self._carry if result_channel else ()) & set(binary_fields)
        if unprintable or set(self.channel_fields) & set(binary_fields):
            raise ConfigurationError(
                "result_channel publishes JSON and cannot carry binary fields; "
                f"leave them out of carry_fields and the channel name: {sorted(binary_fields)}"
            )
        if not ENVELOPE.isdisjoint(self._carry):
            raise ConfigurationError(
                f"carry_fields may not name {sorted(ENVELOPE.intersection(self._carry))}, which "
                "every result has already; leave it out, or publish the field under another name"
            )
        if not self.wanted and self._carry:
            raise ConfigurationError("carry_fields needs a result_stream or a result_channel")

    def missing_field(self, fields: Fields) -> str | None:
        """Return the field that the channel's name needs and the message lacks, if any."""
        return next((name for name in self.channel_fields if name not in fields), None)

    def success(self, entry: Entry, fields: Fields, result: object) -> Finish:
        """Return the end of a message that is done; without anything to publish for None.

        Raises `InvalidResult` if the result has no form, or has not run, and what its own methods
        raise while it is read, such as that of a mapping which is loaded only then.

        What the processor returns wins over what is carried along under the same name.
        """
        if not self.wanted:
            refuse_unstarted(result)
            return Finish(entry.id)
        if result is None:
            return Finish(entry.id)
        own, owner = (result, RESULT) if type(result) is dict else _fields_of(result)
        try:
            is_named_apart = "message_id" not in own and "status" not in own
            if self._is_plain and is_named_apart:
                # The usual result, the shortest way: keywords would double the time of the call.
                items = encode_fields(own, owner) if own else ()
                return Finish(entry.id, items, "", b"", True, entry)
            if not is_named_apart:
                own = self._rename(own)
            content = {**self._envelope(entry.id, fields, "done"), **own}
            answer = self._answer(fields, content, owner)
            return Finish(entry.id, answer.items, answer.channel, answer.payload, entry=entry)
        except InvalidMessage as error:
            values.close_unstarted(values.find_unstarted(RESULT, result))
            raise InvalidResult(str(error), field=error.field) from None

    def death(self, message_id: str, fields: Fields, metadata: Metadata) -> Answer:
        """Return the answer for a message that became a dead letter.

        Large carried fields are left out: they may be why Redis does not take the result.
        """
        if not self.wanted:
            return Answer()
        small = {
            name: fields[name]
            for name in (*self._carry, *self.channel_fields)
            if name in fields and len(fields[name]) <= LARGEST_CARRIED_BY_DEATH
        }
        facts = {
            "reason": metadata.reason,
            "error_type": metadata.error_type,
            "error": metadata.error,
            "attempts": metadata.attempts,
        }
        return self._answer(small, {**self._envelope(message_id, small, "dead"), **facts})

    def _envelope(self, message_id: str, fields: Fields, status: str) -> dict[str, object]:
        carried = {name: fields[name] for name in self._carry if name in fields}
        return {"message_id": message_id, "status": status, **carried}

    def _rename(self, own: Mapping[str, object]) -> dict[str, object]:
        """Give fields of a result that are named as those of every result another name."""
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

    def _answer(self, fields: Fields, content: Mapping[str, object], owner: str = "") -> Answer:
        items = encode_fields(content, owner) if self._to_stream else ()
        if self._channel is None or self.missing_field(fields) is not None:
            return Answer(items=items)
        return Answer(
            items=items,
            channel=self._channel.format_map(fields),
            payload=_json_object(content, owner),
        )


def _channel_fields(template: str) -> tuple[str, ...]:
    """The fields named in a channel's name, which may be plain names only."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigurationError(f"result_channel {template!r} is malformed: {error}") from None
    names = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ConfigurationError(
                f"result_channel {template!r} may hold plain field names in braces only, "
                "such as 'results:{client_id}'"
            )
        names.append(name)
    return tuple(names)


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
