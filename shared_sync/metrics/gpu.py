"""The GPUs, as NVIDIA's management library sees them; none where it is not installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

_MODULE = "pynvml"  # of the package nvidia-ml-py


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment. A figure it does not support, or may not tell us, is None.

    `index` is the number that nvidia-smi shows. Memory and utilization are of the whole device,
    whoever uses it; `utilization_ratio` is the share of the last moments, 0 to 1, in which anything
    ran on it, and says nothing of how much.
    """

    index: int
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    utilization_ratio: float | None
    temperature_celsius: float | None


def may_have_gpus() -> bool:
    """Whether the library's module is installed. Imports nothing."""
    return _MODULE in sys.modules or find_spec(_MODULE) is not None


class Gpus:
    """Reads all GPUs of this machine. For one thread at a time, and not one that is in a hurry.

    The library's driver may take seconds to begin, and may hang.
    """

    def __init__(self) -> None:
        # Owned by the thread that reads; `available` and `failures` may be read by any.
        self.failures = 0
        """GPUs that failed, one for each read, where others did not."""
        self._asked = False
        self._nvml: Any = None

    @property
    def available(self) -> bool:
        """Whether the library and a driver are there; not before the first `read`."""
        return self._nvml is not None

    def read(self) -> tuple[GpuSample, ...]:
        """Return a sample of each GPU that we may look at. May block for long.

        The first call imports the library and begins it. Where either is not possible, there are
        no GPUs from then on, and it is not tried again. A GPU that fails, such as one that fell off
        the bus, is left out; if no other is there, what the library raised is raised.
        """
        if not self._asked:
            self._asked = True
            self._nvml = _begin()
        if self._nvml is None:
            return ()
        try:
            return self._samples()
        except self._nvml.NVMLError_Uninitialized:
            # Others in this process use the library too, and one of them has ended it for all.
            self._nvml.nvmlInit()
            return self._samples()

    def _samples(self) -> tuple[GpuSample, ...]:
        samples, errors = [], []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                sample = _sample(self._nvml, index)
            except self._nvml.NVMLError_Uninitialized:
                raise
            except self._nvml.NVMLError as error:
                errors.append(error)
            else:
                if sample is not None:
                    samples.append(sample)
        if errors and not samples:
            raise errors[0]
        self.failures += len(errors)
        return tuple(samples)


def _begin() -> Any:
    """Return the library, ready for use, or None if it is not here or finds no driver."""
    try:
        nvml = importlib.import_module(_MODULE)
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _sample(nvml: Any, index: int) -> GpuSample | None:
    try:
        device = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError_NoPermission:
        return None  # the count has GPUs in it that were given to other containers

    def figure(read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(device, *arguments)
        except (
            nvml.NVMLError_NotSupported,
            nvml.NVMLError_NoPermission,
            nvml.NVMLError_FunctionNotFound,  # by a driver older than the library
        ):
            return None

    memory = figure(nvml.nvmlDeviceGetMemoryInfo)
    utilization = figure(nvml.nvmlDeviceGetUtilizationRates)
    return GpuSample(
        index=index,
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        utilization_ratio=None if utilization is None else utilization.gpu / 100,
        temperature_celsius=figure(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
    )
