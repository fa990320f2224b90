"""Which devices a child process sees: CUDA_VISIBLE_DEVICES, set before anything is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from shared_sync.common.cuda_devices import VARIABLE, named_devices
from shared_sync.errors import ConfigurationError

_CUDA: Final = re.compile(r"cuda(?::(\d+))?")
_UUID: Final = re.compile(r"(GPU|MIG)-.+")
_FIRST: Final = "cuda:0"


class ChildDevice(NamedTuple):
    """A device as the child is to see it."""

    device: str | None
    """What the processor is told."""

    environment: Mapping[str, str]
    """What changes in the child's environment."""


def child_device(device: str | None, environment: Mapping[str, str]) -> ChildDevice:
    """Return how a child sees the device that the parent names, with the parent's environment.

        cuda:1                the second device that the parent sees; the child sees it as cuda:0
        GPU-8f6e..., MIG-...  this one; the child sees it as cuda:0
        cpu                   no device
        anything else         as it is, with all devices of the parent

    Raises `ConfigurationError` for a number of which the parent sees no device.
    """
    if device is None:
        return ChildDevice(None, {})
    if device == "cpu":
        return ChildDevice(device, {VARIABLE: ""})
    if _UUID.fullmatch(device):
        return ChildDevice(_FIRST, {VARIABLE: device})
    named = _CUDA.fullmatch(device)
    if named is None:
        return ChildDevice(device, {})
    number = int(named[1] or 0)
    visible = environment.get(VARIABLE)
    if visible is None:
        return ChildDevice(_FIRST, {VARIABLE: str(number)})
    known = named_devices(visible)
    if len(set(known)) < len(known):
        known = []
    if number >= len(known):
        raise ConfigurationError(
            f"devices names {device!r}, but {VARIABLE}={visible!r} shows {len(known)} devices to "
            "this process, which are named from cuda:0 on; name one of them, or change the variable"
        )
    return ChildDevice(_FIRST, {VARIABLE: known[number]})
