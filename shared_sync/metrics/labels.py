"""Labels, such as `{"language": "en"}`: they tell the series of one metric from each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

from shared_sync.errors import ConfigurationError

Labels: TypeAlias = "Mapping[str, str] | None"
"""Labels as a program gives them."""

LabelSet: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values, sorted by name; empty for a series without labels."""

MAX_LABEL_SETS = 200
"""Label sets that are distinguished for each metric; the others count under the value "other"."""

OTHER = "other"
_EMPTY = "unknown"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_RESERVED = frozenset({"instance_id", "le", "quantile"})
_MAX_VALUE_CHARS = 200


def label_set(metric: str, labels: Mapping[str, str]) -> LabelSet:
    """Return the labels as a label set. Raises ConfigurationError for those that cannot be.

    Names are restricted to what Prometheus accepts. Values often come with the data, so an odd one
    is corrected and not refused: what is no text becomes one, such as 200 becomes "200"; it is cut
    to 200 characters, surrogates are replaced, and None and an empty text, which Prometheus takes
    for a missing label, become "unknown".
    """
    try:
        pairs = [(name, _text(value)) for name, value in labels.items()]
    except Exception as error:  # that of the user's own class, whatever it is
        raise ConfigurationError(
            f"labels of {shown(metric)} are a dict such as {{'language': 'en'}}, "
            f"not {shown(labels)}"
        ) from error
    for name, _ in pairs:
        check_name(metric, name)
    return tuple(sorted(pairs))


def check_name(metric: str, name: object) -> None:
    """Raise ConfigurationError unless this can be the name of a label."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("__"):
        raise ConfigurationError(
            f"a label's name is ASCII letters, digits and _, not a digit or __ first; "
            f"{shown(metric)} has {shown(name)}"
        )
    if name in _RESERVED:
        raise ConfigurationError(
            f"label {name!r} of {shown(metric)} is set by the library itself; choose another name"
        )


def other_label_set(labels: LabelSet) -> LabelSet:
    """Return the label set that counts what is beyond MAX_LABEL_SETS."""
    return tuple((name, OTHER) for name, _ in labels)


def _text(value: object) -> str:
    if value is None:
        return _EMPTY
    text = value if isinstance(value, str) else str(value)
    return clean(text[:_MAX_VALUE_CHARS]) or _EMPTY


def clean(text: str) -> str:
    """Return the text without surrogates, which no encoding can write."""
    return str.__str__(text).encode(errors="replace").decode()


def shown(value: object) -> str:
    """Return a value for the text of an error, whatever it is and however long."""
    try:
        return repr(value)[:200]
    except Exception:  # noqa: BLE001 - such as of an int with more digits than may be written
        return f"a {type(value).__name__}"
