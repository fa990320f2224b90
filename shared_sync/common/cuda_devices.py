"""What CUDA_VISIBLE_DEVICES names, read as CUDA reads it.

CUDA documents the variable; trailing letters are treated as CUDA does in practice, which PyTorch
has found out and follows as well.
"""

from __future__ import annotations

import re
from typing import Final

VARIABLE: Final = "CUDA_VISIBLE_DEVICES"

IDENTIFIERS: Final = ("GPU-", "MIG-")
"""How the identifiers of GPUs, and of MIG instances of them, begin."""

_INDEX: Final = re.compile(r"[+-]?\d+")


def named_devices(value: str) -> list[str]:
    """Return the devices that a value of the variable names: indices as digits, or identifiers.

    The form of the first entry holds for all of them. The list ends at the first entry of another
    form; the caller knows which devices there are, and so where it ends before. A repeated entry
    makes it empty if the list has not ended before.
    """
    entries = [entry.strip() for entry in value.split(",")]
    prefix = entries[0][:4]
    named: list[str] = []
    for entry in entries:
        if prefix in IDENTIFIERS:
            name = entry if entry.startswith(prefix) else None
        else:
            name = _index(entry)
        if name is None:
            break
        named.append(name)
    return named


def _index(entry: str) -> str | None:
    number = _INDEX.match(entry)
    return None if number is None or int(number[0]) < 0 else str(int(number[0]))
