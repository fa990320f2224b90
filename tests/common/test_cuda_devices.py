"""What CUDA_VISIBLE_DEVICES names is read as CUDA reads it."""

from __future__ import annotations

import pytest

from shared_sync.common.cuda_devices import named_devices


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("", []),
        ("-1", []),
        ("none", []),
        ("5, 2", ["5", "2"]),
        ("+1,02,3abc", ["1", "2", "3"]),
        ("0,-1,2", ["0"]),
        ("0,GPU-1", ["0"]),
        ("1,1", ["1", "1"]),
        ("GPU-8f,GPU-9e", ["GPU-8f", "GPU-9e"]),
        ("MIG-7,GPU-8f", ["MIG-7"]),
        ("GPU-8f,0", ["GPU-8f"]),
    ],
)
def test_the_list_ends_at_the_first_entry_of_another_form(value: str, named: list[str]) -> None:
    assert named_devices(value) == named
