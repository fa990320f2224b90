"""Each child sees its own device, whatever its parent sees."""

from __future__ import annotations

import pytest

from shared_sync.errors import ConfigurationError
from shared_sync.isolation.devices import VARIABLE, child_device


@pytest.mark.parametrize(
    ("device", "visible", "seen_as", "variable"),
    [
        (None, "0,1", None, None),
        ("cuda:1", None, "cuda:0", "1"),
        ("cuda", None, "cuda:0", "0"),
        ("cuda:1", "4, 6", "cuda:0", "6"),
        ("cuda:0", "GPU-8f6e,GPU-91ab", "cuda:0", "GPU-8f6e"),
        ("cuda:0", "MIG-1d2c", "cuda:0", "MIG-1d2c"),
        ("cuda:1", "+3,05", "cuda:0", "5"),
        ("GPU-8f6e", "0,1", "cuda:0", "GPU-8f6e"),
        ("MIG-1d2c", None, "cuda:0", "MIG-1d2c"),
        ("cpu", "0,1", "cpu", ""),
        ("mps", "0", "mps", None),
    ],
)
def test_a_child_sees_its_device_alone(
    device: str | None, visible: str | None, seen_as: str | None, variable: str | None
) -> None:
    environment = {} if visible is None else {VARIABLE: visible}
    found = child_device(device, environment)
    assert found.device == seen_as
    assert found.environment == ({} if variable is None else {VARIABLE: variable})


@pytest.mark.parametrize("visible", ["", "0", "-1,0", "0,-1,1", "0,GPU-8f6e", "0,0"])
def test_a_device_that_the_parent_does_not_see_is_refused(visible: str) -> None:
    with pytest.raises(ConfigurationError, match=r"'cuda:1'.*CUDA_VISIBLE_DEVICES"):
        child_device("cuda:1", {VARIABLE: visible})
