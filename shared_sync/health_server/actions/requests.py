"""Reads the requests for actions: which action, and its arguments, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

MOST_IDS: Final = 1000
MOST_LISTED: Final = 200
LONGEST_NAME: Final = 80
"""Characters of the name of an operator."""

LONGEST_REASON: Final = 200
LONGEST_TEXT: Final = 2000
MOST_LETTERS: Final = 10**9

_ID: Final = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
_LARGEST_PART: Final = 2**64 - 1
"""Numbers of an id are smaller; Redis knows no larger ones."""


class BadRequest(Exception):
    """The body of a request is not what the action takes. The text says what it takes."""


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """An action that was asked for."""

    name: str
    arguments: Mapping[str, Any]
    """What the method of this name takes."""

    @property
    def by(self) -> str:
        """The name that the operator has typed; empty for an action that changes nothing."""
        return str(self.arguments.get("by", ""))

    @property
    def changes(self) -> bool:
        """Whether the action changes anything."""
        return "by" in self.arguments


def parse(name: str, body: bytes) -> ActionRequest:
    """Return the request. Raises `BadRequest`, and KeyError if there is no such action."""
    fields = _ACTIONS[name]
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body must be a JSON object") from None
    if not isinstance(given, dict):
        raise BadRequest("the body must be a JSON object")
    unknown = sorted(given.keys() - fields.keys())
    if unknown:
        raise BadRequest(f"{name} takes {', '.join(fields) or 'nothing'}, not {unknown[0]!r:.60}")
    arguments = {key: field.read(key, given) for key, field in fields.items()}
    if "ids" in arguments:
        _check_selection(name, arguments)
    return ActionRequest(name, arguments)


def _check_selection(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise `BadRequest` unless it is said which letters are meant, and how many at most."""
    # A condition such as an empty text or list would hold for every letter.
    where = [value for value in arguments["where"].values() if value not in ("", [], {})]
    if bool(arguments["ids"]) == bool(where):
        raise BadRequest(f"{name} takes either 'ids' or a 'where' that is not empty")
    if where and not (arguments["most"] and arguments["up_to"]):
        raise BadRequest(
            f"{name} with 'where' takes 'most', how many letters it may touch, and 'up_to', the id "
            "of the newest of them, so that it touches none that nobody has seen"
        )


# --- fields -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a body: what it must be, and what stands for one that is not given."""

    kind: str
    is_right: Callable[[Any], bool]
    default: Any = None
    """None if the field must be given."""

    def read(self, key: str, given: Mapping[str, Any]) -> Any:
        """Return the value. Raises `BadRequest`."""
        value = given.get(key, self.default)
        if value is None:
            raise BadRequest(f"{key!r} is missing: it must be {self.kind}")
        if not self.is_right(value):
            raise BadRequest(f"{key!r} must be {self.kind}")
        return value.strip() if isinstance(value, str) else value


def _is_text(value: object, longest: int = LONGEST_TEXT) -> bool:
    # JSON can also hold half a character, which Redis cannot be sent.
    return (
        isinstance(value, str)
        and len(value) <= longest
        and not any("\ud800" <= char <= "\udfff" for char in value)
    )


def _is_line(value: object, longest: int) -> bool:
    return _is_text(value, longest) and str(value).isprintable() and bool(str(value).strip())


def _is_id(value: object) -> bool:
    return (
        isinstance(value, str)
        and _ID.fullmatch(value) is not None
        and max(map(int, value.split("-"))) < _LARGEST_PART
    )


def _is_number(value: object, lowest: int, highest: int) -> bool:
    return type(value) is int and lowest <= value <= highest


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MOST_IDS and all(map(_is_id, value))


_WHERE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "fingerprint": _is_text,
    "reason": _is_text,
    "error": _is_text,
    "fields": lambda value: (
        isinstance(value, dict) and all(map(_is_text, [*value, *value.values()]))
    ),
    "message_ids": lambda value: (
        isinstance(value, list) and len(value) <= MOST_IDS and all(map(_is_text, value))
    ),
    "older_than_seconds": lambda value: type(value) in (int, float) and value >= 0,
    "newer_than_seconds": lambda value: type(value) in (int, float) and value >= 0,
}


def _is_where(value: object) -> bool:
    return isinstance(value, dict) and all(
        key in _WHERE and _WHERE[key](condition) for key, condition in value.items()
    )


_BY: Final = _Field(
    f"the name of whoever asks for it, one line of up to {LONGEST_NAME} characters",
    lambda value: _is_line(value, LONGEST_NAME),
)
_AFTER: Final = _Field(
    "the id of a dead letter, or empty", lambda value: value == "" or _is_id(value), ""
)
_WHERE_FIELD: Final = _Field(f"an object with some of {', '.join(_WHERE)}", _is_where, {})
_SELECTION: Final = {
    "by": _BY,
    "ids": _Field(f"up to {MOST_IDS} ids of dead letters", _is_ids, []),
    "where": _WHERE_FIELD,
    "most": _Field(
        f"a whole number up to {MOST_LETTERS}", lambda n: _is_number(n, 0, MOST_LETTERS), 0
    ),
    "up_to": _AFTER,
    "after": _AFTER,
}
_ACTIONS: Final[Mapping[str, Mapping[str, _Field]]] = {
    "causes": {"after": _AFTER},
    "letters": {
        "where": _WHERE_FIELD,
        "after": _AFTER,
        "limit": _Field(
            f"a whole number from 1 to {MOST_LISTED}", lambda n: _is_number(n, 1, MOST_LISTED), 50
        ),
    },
    "letter": {"id": _Field("the id of a dead letter", _is_id)},
    "replay": _SELECTION,
    "purge": _SELECTION,
    "find": {"message_id": _Field("the id of a message", lambda value: _is_line(value, 200))},
    "pause": {
        "by": _BY,
        "reason": _Field(
            f"one line of up to {LONGEST_REASON} characters",
            lambda value: _is_line(value, LONGEST_REASON),
        ),
    },
    "resume": {"by": _BY},
}
