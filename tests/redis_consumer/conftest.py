"""What the tests of consumers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers import Gate


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A processor that stays inside until the end of the test."""
    made = Gate()
    yield made
    made.opened.set()
