"""What stands in the key of a pause can be shown, whoever has written it."""

from __future__ import annotations

import pytest

from shared_sync.group_status.status import iso
from shared_sync.protocol.pause import Pause


@pytest.mark.parametrize("at", ["1e999", 10**30, -5, '"x"', "[" * 100_000, 1_796_128_914_515])
def test_a_pause_counts_and_can_be_shown_whatever_its_time_is(at: object) -> None:
    pause = Pause.parse(f'{{"by": "ann", "reason": "", "at": {at}}}'.encode())
    assert pause is not None
    assert iso(pause.at_ms)[:4] in ("1970", "2026")
    assert Pause.parse(pause.text().encode()) == pause
