"""What goes to those who wait for a message's result: a stream entry, a published text, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter

from shared_sync.errors import ConfigurationError, InvalidMessage
from shared_sync.message import encode_fields, encode_json
from shared_sync.protocol.dead_letter_layout import Metadata
from shared_sync.protocol.messages import Answer, Finish

Fields = Mapping[str, str | bytes]


class Results:
    """Turns a result, or a message's death, into what is published. Safe from any thread."""

    def __init__(
        self,
        *,
        result_stream: str | None,
        result_channel: str | None,
        carry_fields: Sequence[str],
        binary_fields: Sequence[str],
    ) -> None:
        self._to_stream = result_stream is not None
        self._channel = result_channel
        self._carry = tuple(carry_fields)
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
        if not self.wanted and self._carry:
            raise ConfigurationError("carry_fields needs a result_stream or a result_channel")

    def missing_field(self, fields: Fields) -> str | None:
        """Return the field that the channel's name needs and the message lacks, if any."""
        return next((name for name in self.channel_fields if name not in fields), None)

    def success(self, message_id: str, fields: Fields, result: object) -> Finish:
        """Return the end of a message that is done; without anything to publish for None.

        Raises `InvalidMessage` if the result has no form.

        What the processor returns wins over what is carried along under the same name.
        """
        if result is None or not self.wanted:
            return Finish(message_id)
        # Of the two checks the first is quicker.
        own: Mapping[str, object] = (
            result if type(result) is dict or isinstance(result, Mapping) else {"result": result}
        )
        if self._is_plain and "message_id" not in own and "status" not in own:
            # The usual result, the shortest way.
            return Finish(message_id, encode_fields(own) if own else (), adds_header=True)
        content = {**self._envelope(message_id, fields, "done"), **own}
        return Finish(message_id, *self._answer(fields, content))

    def death(self, message_id: str, fields: Fields, metadata: Metadata) -> Answer:
        """Return the answer for a message that became a dead letter."""
        if not self.wanted:
            return Answer()
        facts = {
            "reason": metadata.reason,
            "error_type": metadata.error_type,
            "error": metadata.error,
            "attempts": metadata.attempts,
        }
        return self._answer(fields, {**self._envelope(message_id, fields, "dead"), **facts})

    def _envelope(self, message_id: str, fields: Fields, status: str) -> dict[str, object]:
        carried = {name: fields[name] for name in self._carry if name in fields}
        return {"message_id": message_id, "status": status, **carried}

    def _answer(self, fields: Fields, content: Mapping[str, object]) -> Answer:
        items = encode_fields(content) if self._to_stream else ()
        if self._channel is None or self.missing_field(fields) is not None:
            return Answer(items=items)
        return Answer(
            items=items,
            channel=self._channel.format_map(fields),
            payload=_json_object(content),
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


def _json_object(content: Mapping[str, object]) -> bytes:
    for name, value in content.items():
        if isinstance(value, (bytes, bytearray, memoryview)):
            raise InvalidMessage(
                f"field {name!r} of the result is bytes, which result_channel cannot publish; "
                "return text, or use result_stream alone",
                field=name,
            )
    return encode_json("result", content)
