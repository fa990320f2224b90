"""Where the result of a message goes: a reply stream, the result stream, a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Final, NamedTuple

from shared_sync.errors import ConfigurationError, InvalidMessage
from shared_sync.protocol.job_options import OPTIONS, JobOptions
from shared_sync.protocol.keys import hash_tag, is_reserved, may_reply_to
from shared_sync.protocol.messages import Address

Fields = Mapping[str, str | bytes]

_NO_OPTIONS: Final = JobOptions()


class Template:
    """A name with fields of a message in braces, such as `results:{client_id}`.

    `literal` is text in braces that is taken literally: the hash tag of a stream.
    """

    def __init__(self, argument: str, template: str, literal: str = "") -> None:
        """Raise `ConfigurationError`, which names the argument, for a malformed template."""
        self.argument = argument
        self.text = template
        self._literal = literal
        self._parts = template.split(literal) if literal else [template]
        self.fields = tuple(name for part in self._parts for name in self._fields_of(part))

    def fill(self, fields: Fields) -> str:
        """Return the name. Raises KeyError if the message lacks a field."""
        return self._literal.join([part.format_map(fields) for part in self._parts])

    def _fields_of(self, part: str) -> list[str]:
        try:
            parsed = list(Formatter().parse(part))
        except ValueError as error:
            raise ConfigurationError(
                f"{self.argument} {self.text!r} is malformed: {error}"
            ) from None
        names = []
        for _, name, spec, conversion in parsed:
            if name is None:
                continue
            if not name.isidentifier() or spec or conversion:
                raise ConfigurationError(
                    f"{self.argument} {self.text!r} may hold plain field names in braces only, "
                    "such as 'results:{client_id}'"
                )
            names.append(name)
        return names


def result_stream_template(stream: str, result_stream: str) -> Template:
    """Return the template of a consumer's result stream; a hash tag is taken literally.

    Raises `ConfigurationError` if it is malformed.
    """
    return Template("result_stream", result_stream, f"{{{hash_tag(stream)}}}")


class Fault(NamedTuple):
    """Why the result of a message could not be written to its address."""

    error: InvalidMessage
    summary: str
    """The same, without text from the message."""


class Route(NamedTuple):
    """Where the result of one message goes, and the options of the message."""

    options: JobOptions = _NO_OPTIONS
    to_stream: bool = False
    """Whether the result is written to a stream."""
    address: Address | None = None
    """The stream; None for the consumer's result stream."""


class Addresses:
    """Finds where results go. Safe from any thread.

    `stream` is the one that the consumer reads.
    """

    def __init__(
        self,
        *,
        stream: str,
        result_stream: str | None,
        result_channel: str | None,
        binary_fields: Sequence[str],
    ) -> None:
        self._stream = stream
        self._channel = Template("result_channel", result_channel) if result_channel else None
        template = result_stream_template(stream, result_stream) if result_stream else None
        self._template = template if template is not None and template.fields else None
        self._is_fixed = result_stream is not None and self._template is None
        self._fixed = Route(to_stream=self._is_fixed)
        named = [one for one in (self._channel, self._template) if one is not None]
        self.fields = tuple(dict.fromkeys(name for one in named for name in one.fields))
        """Fields of a message that are filled into the channel or the result stream."""
        self.wanted = result_stream is not None or result_channel is not None
        """Whether the results of messages without options go anywhere."""
        self.is_simple = self._template is None and self._channel is None
        """Whether all results of messages without options go to the fixed result stream."""
        for one in named:
            binary = sorted(set(one.fields) & set(binary_fields))
            if binary:
                raise ConfigurationError(
                    f"{one.argument} {one.text!r} cannot be filled with binary fields: {binary}; "
                    "name the stream or channel after a field that is text"
                )

    def find_fault(self, fields: Fields) -> Fault | None:
        """Return why the result of a message could not be written, or None if it can."""
        fault = self._fault_of_options(fields[OPTIONS]) if OPTIONS in fields else None
        if fault is not None or not self.fields:
            return fault
        template = self._template
        for one in (self._channel, template):
            missing = one and next((name for name in one.fields if name not in fields), None)
            if one and missing:
                text = (
                    f"field {missing!r}, which {one.argument} needs, is missing; publish it with "
                    "the message"
                )
                return Fault(InvalidMessage(text, field=missing), text)
        if template is not None and is_reserved(self._stream, template.fill(fields)):
            text = (
                f"result_stream {template.text!r}, filled from the message, is a key of the "
                "library; publish the message with other values"
            )
            return Fault(InvalidMessage(text, field=template.fields[0]), text)
        return None

    def _fault_of_options(self, value: str | bytes) -> Fault | None:
        try:
            options = JobOptions.parse(value)
        except InvalidMessage as invalid:
            return Fault(invalid, f"field {OPTIONS!r} cannot be read; the dead letters say why")
        if not options.reply_to or may_reply_to(self._stream, options.reply_to):
            return None
        begin = f"'{{{hash_tag(self._stream)}}}:replies:'"
        text = (
            f"field {OPTIONS!r} asks for a reply to {options.reply_to[:200]!r}, which is not a "
            f"reply stream; name one that begins with {begin}"
        )
        summary = f"field {OPTIONS!r} asks for a reply to what does not begin with {begin}"
        return Fault(InvalidMessage(text, field=OPTIONS), summary)

    def route(self, fields: Fields) -> Route:
        """Return where the result of a message goes; nowhere if that cannot be known."""
        options = _NO_OPTIONS
        if OPTIONS in fields:
            try:
                options = JobOptions.parse(fields[OPTIONS])
            except InvalidMessage:
                options = _NO_OPTIONS
            if options.reply_to and may_reply_to(self._stream, options.reply_to):
                return Route(options, True, Address(options.reply_to, may_create=False))
        if self._template is None:
            return self._fixed if options is _NO_OPTIONS else Route(options, self._is_fixed)
        if any(name not in fields for name in self._template.fields):
            return Route(options)
        name = self._template.fill(fields)
        if is_reserved(self._stream, name):
            return Route(options)
        return Route(options, True, Address(name))

    def channel(self, fields: Fields) -> str:
        """Return the channel of a message's result; empty if there is none, or it is unknown."""
        channel = self._channel
        if channel is None or any(name not in fields for name in channel.fields):
            return ""
        return channel.fill(fields)
