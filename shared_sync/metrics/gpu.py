"""The GPUs, as NVIDIA's management library reports them; none if it is not installed."""

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
    """One GPU at one moment. A value that it does not support, or that we may not read, is None.

    `index` is the number that nvidia-smi shows. Memory and utilization are of the whole device,
    whoever uses it. `utilization_ratio` is the share of the last moments, 0 to 1, in which anything
    ran on the device, whether it was busy with little or with much.
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
    """Reads all GPUs of this machine. One thread at a time may read.

    A read may block for seconds while the driver begins, and may hang.
    """

    def __init__(self) -> None:
        # Owned by the thread that reads; `available` and `failures` may be read by any.
        self.failures = 0
        """GPUs that failed in a read in which others did not."""
        self._began = False
        self._nvml: Any = None

    @property
    def available(self) -> bool:
        """Whether there are the library and a driver; False before the first `read`."""
        return self._nvml is not None

    def read(self) -> tuple[GpuSample, ...]:
        """Return a sample of each GPU that this process may read. May block for long.

        The first call imports and initializes the library. If that is not possible, there are no
        GPUs from then on, and it is not tried again. A GPU that fails, such as one that fell off
        the bus, is left out; if there is no other, the error of the library is raised.
        """
        if not self._began:
            self._began = True
            self._nvml = _begin()
        if self._nvml is None:
            return ()
        try:
            return self._samples()
        except self._nvml.NVMLError_Uninitialized:
            # Other code in this process uses the library too, and has shut it down for all.
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
    """Return the library, initialized, or None if it is not installed or finds no driver."""
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
        return None  # the count includes GPUs that were given to other containers

    def query(read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(device, *arguments)
        except (
            nvml.NVMLError_NotSupported,
            nvml.NVMLError_NoPermission,
            nvml.NVMLError_FunctionNotFound,  # by a driver older than the library
        ):
            return None

    memory = query(nvml.nvmlDeviceGetMemoryInfo)
    utilization = query(nvml.nvmlDeviceGetUtilizationRates)
    return GpuSample(
        index=index,
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        utilization_ratio=None if utilization is None else utilization.gpu / 100,
        temperature_celsius=query(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
    )
