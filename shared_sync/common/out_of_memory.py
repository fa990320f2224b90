"""Whether an error says that memory ran out, that of the process or that of a device; then it is to
hold no more of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Set
from functools import lru_cache
from typing import Any, Final

from shared_sync.common.exceptions import LONGEST_CHAIN, text_of

_TYPES: Final = frozenset({"MemoryError", "OutOfMemoryError", "ResourceExhaustedError"})
"""Names of such types: Python's and numpy's, torch's and CuPy's, TensorFlow's."""

_TEXTS: Final = ("out of memory", "failed to allocate memory")
"""What a plain RuntimeError says then: CTranslate2's and older torch's, ONNX Runtime's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or a cause of it, says that memory ran out.

    An error that came out of another process has the names of its types as `base_names`.
    """
    one: BaseException | None = error
    for _ in range(LONGEST_CHAIN):
        if one is None:
            return False
        names = _type_names(one)
        if not _TYPES.isdisjoint(names) or ("RuntimeError" in names and _says_so(one)):
            return True
        one = one.__cause__
    return False


def release_memory(error: BaseException) -> None:
    """If memory ran out, drop what the failed call refers to: reporting it needs some."""
    before = error.__context__
    # Types first: to compare names needs memory, too.
    if (
        isinstance(error, MemoryError)
        or isinstance(before, MemoryError)
        or is_out_of_memory(error)
        or (before is not None and is_out_of_memory(before))
    ):
        if error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__.tb_next)  # the first frame is the caller's
        if before is not None:
            traceback.clear_frames(before.__traceback__)


def _type_names(error: BaseException) -> Set[str]:
    names: Any = getattr(error, "base_names", None)
    if isinstance(names, tuple):
        return {str(name).rpartition(".")[2] for name in names}
    return _names_of(type(error))


def _find_names(kind: type) -> Set[str]:
    return frozenset(one.__name__ for one in kind.__mro__)


_names_of: Final[Callable[[type], Set[str]]] = lru_cache(maxsize=1000)(_find_names)
"""Returns the names of a type and of its base types. Kept: many errors have few types."""


def _says_so(error: BaseException) -> bool:
    text = text_of(error).lower()
    for one in _TEXTS:  # noqa: SIM110 - any() takes longer, and each failed attempt comes here
        if one in text:
            return True
    return False
