"""The slot of a cluster that a key belongs to. Loads nothing, so that child processes may ask."""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

SLOTS: Final = 16384


def slot_of(key: str) -> int:
    """Return the slot of a key, which its hash tag decides if it has one."""
    _, opening, rest = key.partition("{")
    tag, closing, _ = rest.partition("}")
    hashed = tag if opening and closing and tag else key
    return crc_hqx(hashed.encode(), 0) % SLOTS
