"""An error of the child as plain data, and the error that the parent makes of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from shared_sync import errors
from shared_sync.common.exceptions import chain_of, name_of, text_of, traceback_of
from shared_sync.common.passages import Passage, add_passage, passages_of
from shared_sync.common.return_codes import return_codes
from shared_sync.isolation.errors import RemoteError

MAX_TEXT_CHARS: Final = 10_000
MAX_TRACEBACK_CHARS: Final = 20_000
MAX_BASES: Final = 20
MAX_CAUSES: Final = 10
MAX_TYPES: Final = 256
"""How many types of errors are remembered that this process does not know itself."""

_OURS: Final = errors.__name__


def describe(error: BaseException) -> dict[str, Any]:
    """Return an error and its causes as plain data. Never raises, whatever their methods do."""
    causes = chain_of(error)[:MAX_CAUSES]
    return {
        "chain": [_describe_one(one) for one in causes],
        "traceback": traceback_of(error)[-MAX_TRACEBACK_CHARS:],
        "codes": list(return_codes(error)),
    }


def _describe_one(error: BaseException) -> dict[str, Any]:
    described: dict[str, Any] = {
        "bases": bases_of(type(error)),
        "text": text_of(error)[:MAX_TEXT_CHARS],
        "breakers": [passage.name for passage in passages_of(error)],
    }
    if isinstance(error, errors.Retry):
        described["delay_seconds"] = error.delay_seconds
    elif isinstance(error, errors.InvalidMessage):
        described["field"] = error.field
    elif isinstance(error, errors.CircuitOpen):
        described["name"] = error.name
        described["retry_after_seconds"] = error.retry_after_seconds
    return described


def remake(described: Mapping[str, Any]) -> BaseException:
    """Return the error for the parent: the same if it is of this library, else a `RemoteError`.

    One of this library has the `RemoteError` as its cause, and keeps the name of its type. Causes
    are made anew in the same way.
    """
    first, *causes = described["chain"]
    cause: BaseException | None = None
    for one in reversed(causes):
        cause = _remake_one(one, cause)
    return _remake_one(first, cause, described["traceback"], described["codes"])


def _remake_one(
    described: Mapping[str, Any],
    cause: BaseException | None,
    traceback_text: str = "",
    codes: Sequence[int] = (),
) -> BaseException:
    bases = described["bases"]
    remote = RemoteError(
        described["text"],
        type_name=bases[0].rpartition(".")[2],
        base_names=bases,
        traceback_text=traceback_text,
        return_codes=codes,
    )
    remote.__cause__ = cause
    error = _own(described)
    if error is None:
        error = remote
    else:
        error.__cause__ = remote
    for name in described["breakers"]:
        add_passage(error, Passage(name))
    return error


def _own(described: Mapping[str, Any]) -> BaseException | None:
    """Return the error anew if it is of this library, and can be made of what was described."""
    bases, text = described["bases"], described["text"]
    ours = next((base for base in bases if base.startswith(f"{_OURS}.")), None)
    if ours is None:
        return None
    kind: Any = getattr(errors, ours.rpartition(".")[2])
    if ours != bases[0]:  # a type of the program's own, whose arguments are not known
        kind = type(bases[0].rpartition(".")[2], (kind,), {})
    made: BaseException | None = None
    if issubclass(kind, errors.Retry):
        made = kind(described["delay_seconds"], text)
    elif issubclass(kind, errors.CircuitOpen):
        made = kind(described["name"], described["retry_after_seconds"])
    elif issubclass(kind, errors.InvalidMessage):
        made = kind(text, field=described["field"])
    elif issubclass(kind, errors.JobCancelled) or kind.__init__ is Exception.__init__:
        made = kind(text)
    return made


def bases_of(kind: type[BaseException]) -> list[str]:
    """Return the names of a type of error and of its bases, nearest first."""
    return [name_of(base) for base in kind.__mro__[:-1]][:MAX_BASES]


def type_of(base_names: Sequence[str]) -> type[BaseException]:
    """Return the type of the child's error, to count it by; made anew if it is not known here.

    One that is made has the name of that type, and its nearest base that this process knows.
    """
    return _type_of(tuple(base_names))


@lru_cache(maxsize=MAX_TYPES)
def _type_of(base_names: tuple[str, ...]) -> type[BaseException]:
    kind: type[BaseException] = Exception
    for name in reversed(base_names):
        module, _, own_name = name.rpartition(".")
        known = _known(name)
        if known is not None:
            kind = known
        else:
            with suppress(Exception):  # a base of the program may refuse to be one
                kind = type(own_name, (kind,), {"__module__": module})
    return kind


def _known(name: str) -> type[BaseException] | None:
    """Return the type of this name if this process has loaded it; nothing is imported."""
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module or "builtins"), attribute, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None
