"""The forms in which values are stored, and the place of a part that cannot be stored.

JSON expresses text, numbers, true, false, null, lists and mappings with text for keys. These types
have a form beside that, within a value and as the value of a field:

    date, time, datetime   ISO 8601
    timedelta              seconds
    Path, UUID, Decimal    the text that str() returns
    Enum                   its value
    dataclass, Mapping     a mapping
    set, frozenset         a sorted list, so that equal sets look the same in every process
    scalars of numpy       a number; a time as ISO 8601
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import io
import json
import math
import types
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Set,
)
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, NamedTuple
from uuid import UUID

_PLAIN_TYPES: Final = frozenset({type(None), bool, bytes, float, int, str})
"""Types of values that have certainly run, and contain no others."""

_NUMPY_SCALAR: Final = ("numpy", "generic")
"""Module and name of the base class of numpy's scalars; numpy itself is not imported."""

_FUNCTIONS: Final = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
)


class Fault(NamedTuple):
    """A part of a value that cannot be stored."""

    place: str
    """Where it stands, such as `segments[3].score`."""

    reason: str
    """What it is and what to do, as the end of a sentence that begins with the place."""

    unstarted: object = None
    """The part itself, if it only promises to do its work, such as a generator."""

    def __str__(self) -> str:
        return f"{self.place} {self.reason}"


# --- the forms of values ----------------------------------------------------------------------


def simplify(value: object) -> object:
    """Return the form of a value that JSON does not know, one level deep.

    Raises TypeError if it has none.
    """
    for kind, form in _FORMS:
        if isinstance(value, kind):
            return form(value)
    if is_dataclass(value):
        return {name: getattr(value, name) for name in names_of(value)}
    if any((base.__module__, base.__name__) == _NUMPY_SCALAR for base in type(value).__mro__):
        return _simplify_numpy(value)
    raise TypeError(type(value).__name__)


def is_dataclass(value: object) -> bool:
    """Return whether a value is an instance of a dataclass."""
    return hasattr(type(value), "__dataclass_fields__")


def names_of(value: Any) -> list[str]:
    """Return the names of the fields of a dataclass."""
    return [one.name for one in dataclasses.fields(value)]


def _sorted(members: Set[Any]) -> list[Any]:
    try:
        return sorted(members)
    except TypeError:  # members of several types have no order of their own
        return sorted(members, key=repr)


def _finite_text(number: Decimal) -> str:
    if not number.is_finite():
        raise TypeError(f"the Decimal {number}")
    return str(number)


_FORMS: Final[tuple[tuple[Any, Callable[[Any], object]], ...]] = (
    (Enum, lambda member: member.value),
    ((datetime.date, datetime.time), lambda moment: moment.isoformat()),  # with datetime
    (datetime.timedelta, datetime.timedelta.total_seconds),
    ((PurePath, UUID), str),
    (Decimal, _finite_text),
    (Mapping, dict),
    ((set, frozenset), _sorted),
)


def _simplify_numpy(scalar: Any) -> object:
    kind: str = scalar.dtype.kind
    text = str(scalar)
    if kind == "M" and text != "NaT":
        return text
    convert = {"b": bool, "i": int, "u": int, "f": float}.get(kind)
    if convert is None:
        raise TypeError(type(scalar).__name__)
    return convert(scalar)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=simplify).encode
"""`json.dumps` would make an encoder for each call."""

_NUMERALS: Final[dict[type, Callable[[Any], str]]] = {
    int: int.__repr__,
    float: lambda number: float.__repr__(number) if math.isfinite(number) else _encode(number),
    bool: lambda is_true: "true" if is_true else "false",
}
"""How numbers are written as JSON, in less than half of the time that the encoder takes."""


def to_json(value: object) -> str:
    """Return a value as JSON. Raises what the encoder raises if JSON cannot express it."""
    return _NUMERALS.get(type(value), _encode)(value)


# --- what cannot be stored --------------------------------------------------------------------


def has_run(value: object) -> bool:
    """Return whether a value, and all that is in it, is certainly no promise of work.

    Quick for what processors usually return.
    """
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return True
    parts: Iterable[object]
    if kind is dict:
        parts = value.values()  # type: ignore[attr-defined]
    elif kind is list or kind is tuple:
        parts = value  # type: ignore[assignment]
    else:
        return False
    try:
        return _PLAIN_TYPES.issuperset(map(type, parts)) or all(map(has_run, parts))
    except RecursionError:
        return False


def find_fault(place: str, value: object) -> Fault | None:
    """Return the first part of a value that cannot be stored, as JSON in a field, or None."""
    try:
        return next(_faults(place, value, ()), None)
    except RecursionError:
        return Fault(place, "is nested too deeply; write it in fewer levels, or as text")
    except Exception as error:  # noqa: BLE001 - its methods may raise whatever they like
        return Fault(place, f"cannot be read ({type(error).__name__})")


def find_unstarted(place: str, value: object) -> list[Fault]:
    """Return all parts of a value that have not run, such as generators and futures."""
    try:
        return [fault for fault in _faults(place, value, ()) if fault.unstarted is not None]
    except Exception:  # noqa: BLE001 - as above; what cannot be read is no promise of work
        return []


def close_unstarted(faults: Iterable[Fault]) -> None:
    """Close generators and coroutines, which otherwise warn that they were never awaited."""
    for fault in faults:
        if isinstance(fault.unstarted, (Coroutine, Generator)):
            fault.unstarted.close()


def place_of(owner: str, name: object) -> str:
    """Return where an item of a mapping stands."""
    if isinstance(name, str) and name.isidentifier():
        return f"{owner}.{name}" if owner else name
    return f"{owner}[{name!r}]"


def _faults(place: str, value: object, above: tuple[int, ...]) -> Iterator[Fault]:
    """Yield the faults in a value; `above` has the ids of the values that contain it."""
    if isinstance(value, (str, bytes, bytearray, memoryview, int, float, type(None))):
        reason = _reason_of_leaf(value)
        if reason:
            yield Fault(place, reason)
    elif id(value) in above:
        yield Fault(place, "contains itself")
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _faults(f"{place}[{index}]", part, (*above, id(value)))
    elif isinstance(value, dict):
        for name, part in value.items():
            if name is not None and not isinstance(name, (str, int, float)):
                kind = type(name).__name__
                yield Fault(place, f"has the key {name!r} of type {kind}; make it text")
            yield from _faults(place_of(place, name), part, (*above, id(value)))
    else:
        yield from _faults_of_others(place, value, above)


def _reason_of_leaf(value: object) -> str:
    """Why text, a number or bytes cannot be stored in JSON; empty if they can."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"is text that is not valid Unicode ({error.reason})"
    elif isinstance(value, (bytes, bytearray, memoryview)):
        return (
            f"is of type {type(value).__name__}, which JSON cannot hold; give it a field of its "
            "own, or encode it as text, such as base64"
        )
    elif isinstance(value, float) and not math.isfinite(value):
        return f"is {value!r}, for which JSON has no number; use None or text"
    return ""


def _faults_of_others(place: str, value: object, above: tuple[int, ...]) -> Iterator[Fault]:
    kind = type(value).__name__
    if _is_unstarted(value):
        article = "an" if kind[0].lower() in "aeiou" else "a"
        remedy = "run it to its end and return what it gives, such as a list"
        yield Fault(place, f"is {article} {kind}, which has not run; {remedy}", value)
        return
    try:
        simple = simplify(value)
    except Exception as error:  # noqa: BLE001 - its methods may raise whatever they like
        why = "" if isinstance(error, TypeError) else f" ({type(error).__name__}: {error})"
        yield Fault(
            place,
            f"is of type {kind}, which has no form as text{why}; "
            "convert it to text, numbers, lists or dicts first",
        )
        return
    yield from _faults(place, simple, (*above, id(value)))


def _is_unstarted(value: object) -> bool:
    """Whether a value only promises to do its work: its message would count as done without it."""
    if isinstance(value, io.IOBase):  # a file, whose lines can be iterated over
        return False
    if isinstance(value, (Awaitable, Iterator, AsyncIterator, *_FUNCTIONS)):
        return True
    kind = type(value)
    # Futures of this and other libraries; results of multiprocessing, and of task queues.
    return hasattr(kind, "add_done_callback") or (
        hasattr(kind, "get") and hasattr(kind, "ready") and hasattr(kind, "wait")
    )
