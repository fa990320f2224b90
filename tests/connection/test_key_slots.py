"""The slot of a key is the one that the server finds."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from shared_sync.connection.key_slots import slot_of


@pytest.mark.parametrize(
    "key",
    [
        "jobs",
        "{jobs}:next",
        "a{jobs}b{c}",
        "{}jobs",
        "{}{jobs}",
        "jobs{",
        "}{jobs}",
        "{a{b}c}",
        "ü",
    ],
)
def test_a_slot_is_that_of_the_hash_tag(key: str) -> None:
    assert slot_of(key) == key_slot(key.encode())
    assert slot_of("123456789") == 0x31C3
