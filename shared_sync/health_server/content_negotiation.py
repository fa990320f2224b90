"""Chooses the form of an answer by the client's Accept headers (RFC 9110, section 12.5)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from werkzeug.http import parse_accept_header, parse_options_header


class Format(Enum):
    """A form of /metrics; the value is its name in `?format=`."""

    JSON = "json"
    PROMETHEUS = "prometheus"
    OPENMETRICS = "openmetrics"

    @property
    def content_type(self) -> str:
        """The Content-Type of the answer."""
        return _CONTENT_TYPES[self]


class UnknownFormat(Exception):
    """`?format=` names a format that does not exist."""

    def __init__(self) -> None:
        *words, last = (form.value for form in Format)
        super().__init__(f"format must be {', '.join(words)} or {last}")


_CONTENT_TYPES = {
    Format.JSON: "application/json",
    Format.PROMETHEUS: "text/plain; version=0.0.4; charset=utf-8",
    Format.OPENMETRICS: "application/openmetrics-text; version=1.0.0; charset=utf-8",
}


def choose(accept: str | None, format: str | None = None) -> Format:
    """Return the form to answer in: the one that `format` names, else the most accepted one.

    `accept` is the header and may be any text; media ranges in it that cannot be read are ignored.
    Of forms that are accepted equally, one that is named wins over one that only matches a
    wildcard, then JSON wins, then OpenMetrics. Without a header, or if it accepts none of them, the
    form is JSON. Raises `UnknownFormat` for another `format`.
    """
    if format is None:
        return _METRICS[_most_accepted(accept, tuple(_METRICS))]
    try:
        return Format(format)
    except ValueError:
        raise UnknownFormat from None


def prefers_html(accept: str | None) -> bool:
    """Return whether the client prefers a page to JSON, as browsers do and curl (`*/*`) does not.

    `accept` is as for `choose`. If both are accepted equally, JSON wins.
    """
    return _most_accepted(accept, (_JSON, _HTML)) is _HTML


def prefers_gzip(accept_encoding: str | None, *, is_large: bool) -> bool:
    """Return whether to compress an answer.

    `accept_encoding` is the header and may be any text. A large answer is compressed if the client
    accepts gzip, and does not like it less than the plain answer; a small one only if the client
    refuses plain answers.
    """
    weights: dict[str, float] = {}
    for coding, weight in parse_accept_header(_ESCAPES.sub("", accept_encoding or "")):
        weights.setdefault(coding.lower(), weight)  # of equal ones, the first has the most weight
    others = weights.get("*", 0.0)
    gzip = weights.get("gzip", weights.get("x-gzip", others))
    plain = weights.get("identity", others)
    refuses_plain = not plain and ("identity" in weights or "*" in weights)
    return gzip > 0 and (refuses_plain or (is_large and gzip >= plain))


@dataclass(frozen=True, eq=False)
class _Offer:
    """A media type that the server has, with the parameters by which a client may ask for it."""

    kind: str
    parameters: Mapping[str, str]


class _Range(NamedTuple):
    """One media range of the header, such as `text/*;q=0.5`."""

    kind: str
    parameters: Mapping[str, str]
    weight: float

    def precision(self, offer: _Offer) -> tuple[int, int] | None:
        """Return how precisely the range names the offer; None if it does not match."""
        wildcard = offer.kind.partition("/")[0] + "/*"
        named = {offer.kind: 2, wildcard: 1, "*/*": 0}.get(self.kind)
        if named is None or any(
            offer.parameters.get(name) != value for name, value in self.parameters.items()
        ):
            return None
        return named, len(self.parameters)


def _most_accepted(accept: str | None, offers: Sequence[_Offer]) -> _Offer:
    """Return the offer that the header accepts most; the first one if it accepts none."""
    header = _ESCAPES.sub("", accept or "")
    ranges = [_read(text, weight) for text, weight in parse_accept_header(header)]
    # max takes the first of equal ones.
    return max(offers, key=lambda offer: _rank(offer, ranges))


def _rank(offer: _Offer, ranges: Sequence[_Range]) -> tuple[float, int]:
    """Return how much the offer is accepted, by the range that names it most precisely."""
    matches = [
        (precision, media_range.weight)
        for media_range in ranges
        if (precision := media_range.precision(offer)) is not None
    ]
    precision, weight = max(matches, default=((0, 0), 0.0))
    return (weight, precision[0]) if weight else (0.0, 0)


def _read(text: str, weight: float) -> _Range:
    kind, parameters = parse_options_header(text)
    # How names beyond ASCII letters are escaped does not matter: the library has no such names.
    parameters.pop("escaping", None)
    lowered = {name: value.lower() for name, value in parameters.items()}
    return _Range(kind.lower(), lowered, weight)


# Only quoted values have escaped characters, and the server has no such value. Some versions of
# werkzeug take exponential time for an unclosed quote with many of them.
_ESCAPES = re.compile(r'\\["\\]?')
_UTF_8 = {"charset": "utf-8"}
_HTML = _Offer("text/html", _UTF_8)
_JSON = _Offer("application/json", _UTF_8)
_METRICS = {
    _JSON: Format.JSON,
    _Offer("application/openmetrics-text", {"version": "1.0.0", **_UTF_8}): Format.OPENMETRICS,
    _Offer("text/plain", {"version": "0.0.4", **_UTF_8}): Format.PROMETHEUS,
}
