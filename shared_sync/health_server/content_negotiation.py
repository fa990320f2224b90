"""In which form a client wants an answer, by its Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Format(Enum):
    """A form of /metrics; the value is its name in `?format=`."""

    JSON = "json"
    PROMETHEUS = "prometheus"
    OPENMETRICS = "openmetrics"

    @property
    def content_type(self) -> str:
        """What the answer's Content-Type says."""
        return _CONTENT_TYPES[self]


class UnknownFormat(Exception):
    """`?format=` says something else than the words there are."""

    def __init__(self) -> None:
        *words, last = (form.value for form in Format)
        super().__init__(f"format must be {', '.join(words)} or {last}")


_CONTENT_TYPES = {
    Format.JSON: "application/json",
    Format.PROMETHEUS: "text/plain; version=0.0.4; charset=utf-8",
    Format.OPENMETRICS: "application/openmetrics-text; version=1.0.0; charset=utf-8",
}


def choose(accept: str | None, format: str | None = None) -> Format:
    """Return the form to answer in: the one that `format` names, else the one accepted most.

    `accept` is the header, several joined by commas, and may be any text; what cannot be read in
    it counts as not said. Of forms that are accepted equally the one that was named wins over one
    under a wildcard, then JSON, then OpenMetrics. Without a header, or where it accepts none, it is
    JSON. Raises `UnknownFormat` for another `format`. Takes time in proportion to the header.
    """
    if format is None:
        return _METRICS[_favourite(accept, tuple(_METRICS))]
    try:
        return Format(format)
    except ValueError:
        raise UnknownFormat from None


def prefers_html(accept: str | None) -> bool:
    """Whether a page is wanted rather than JSON: as by browsers, and not by curl's `*/*`.

    JSON wins where both are wanted equally. `accept` is as for `choose`.
    """
    return _favourite(accept, (_JSON, _HTML)) is _HTML


# --- what there is, and what is wanted --------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Offer:
    """A media type of ours, with the parameters that it may be asked for by."""

    kind: str
    parameters: Mapping[str, str]


class _Range(NamedTuple):
    """One media range of the header, such as `text/*;q=0.5`."""

    kind: str
    parameters: tuple[tuple[str, str], ...]
    weight: float

    def precision(self, offer: _Offer) -> tuple[int, int] | None:
        """How precisely it means the offer; None for not at all."""
        named = (self.kind == offer.kind) * 2 or self.kind == _wildcard_of(offer.kind)
        if not named and self.kind != "*/*":
            return None
        if any(offer.parameters.get(name) != value for name, value in self.parameters):
            return None
        return int(named), len(self.parameters)


def _wildcard_of(kind: str) -> str:
    return kind.partition("/")[0] + "/*"


def _favourite(accept: str | None, offers: Sequence[_Offer]) -> _Offer:
    """Return the offer accepted most, the first one if none is."""
    ranges = _read(accept or "")
    marks = {offer: _mark(offer, ranges) for offer in offers}
    return max(offers, key=marks.__getitem__)  # max takes the first of equal ones


def _mark(offer: _Offer, ranges: Iterable[_Range]) -> tuple[float, int]:
    """Return how much the offer is wanted, by the range that means it most precisely."""
    precision, weight = max(
        (
            (precision, media_range.weight)
            for media_range in ranges
            if (precision := media_range.precision(offer)) is not None
        ),
        default=((0, 0), 0.0),
    )
    return (weight, precision[0]) if weight else (0.0, 0)


# --- reading the header -----------------------------------------------------------------------


def _read(accept: str) -> list[_Range]:
    return [read for text in _split(accept, ",") if (read := _read_range(text)) is not None]


def _read_range(text: str) -> _Range | None:
    """Return the media range; None for one that cannot be read."""
    if "/" not in text:
        return None
    kind, *rest = (part.strip() for part in _split(text, ";"))
    weight: float | None = 1.0
    parameters = []
    for parameter in rest:
        name, _, value = parameter.partition("=")
        name, value = name.strip().lower(), _unquoted(value.strip()).lower()
        if name == "q":
            weight = _read_weight(value)
        # How names beyond ASCII letters are to be written does not matter: ours have none.
        elif name and name != "escaping":
            parameters.append((name, value))
    return None if weight is None else _Range(kind.lower(), tuple(parameters), weight)


def _read_weight(value: str) -> float | None:
    """Return a number from 0 to 1, or None: float() reads much that is none, such as "nan"."""
    if not value or not set(value) <= set("0123456789."):
        return None
    try:
        weight = float(value)
    except ValueError:
        return None
    return weight if weight <= 1 else None


def _split(text: str, separator: str) -> list[str]:
    """Split at each separator that is not within a quoted string. Looks at each character once."""
    parts = []
    begin = 0
    quoted = escaped = False
    for at, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == '"':
            quoted = not quoted
        elif quoted:
            escaped = character == "\\"
        elif character == separator:
            parts.append(text[begin:at])
            begin = at + 1
    parts.append(text[begin:])
    return parts


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    characters = iter(value[1:-1])
    return "".join(next(characters, "") if each == "\\" else each for each in characters)


_UTF_8 = {"charset": "utf-8"}
_HTML = _Offer("text/html", _UTF_8)
_JSON = _Offer("application/json", _UTF_8)
_METRICS = {
    _JSON: Format.JSON,
    _Offer("application/openmetrics-text", {"version": "1.0.0", **_UTF_8}): Format.OPENMETRICS,
    _Offer("text/plain", {"version": "0.0.4", **_UTF_8}): Format.PROMETHEUS,
}
