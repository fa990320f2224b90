"""What the tests of the protocol share."""

from __future__ import annotations

import pytest
from group_views import view_of

from shared_sync.protocol.inspection import GroupView


@pytest.fixture
def view(redis_url: str) -> GroupView:
    return view_of(redis_url)
