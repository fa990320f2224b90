"""The GPUs of this process, as NVIDIA's management library (NVML) reports them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import psutil

from shared_sync.common.cuda_devices import VARIABLE
from shared_sync.metrics.visible_gpus import Gpu, select_visible

_MODULE = "pynvml"  # of the package nvidia-ml-py


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU, or one MIG instance of it, at one moment. A value that is not known is None.

    `index` is the number that nvidia-smi shows, and `mig_index` that of the instance. Memory and
    utilization are of the whole device, whoever uses it; `process_memory_bytes` is what this
    process and its descendants use of it. That is unknown until they use any, and in a container
    whose driver reports the process ids of the host. `utilization_ratio` is the share of the last
    moments, 0 to 1, in which anything ran on the device, whether it was busy with little or with
    much.
    """

    index: int
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    utilization_ratio: float | None
    temperature_celsius: float | None
    mig_index: int | None = None
    uuid: str | None = None
    name: str | None = None
    process_memory_bytes: int | None = None

    @property
    def number(self) -> str:
        """The index as text; that of a MIG instance has its own behind it, such as "0:1"."""
        return str(self.index) if self.mig_index is None else f"{self.index}:{self.mig_index}"


def may_have_gpus() -> bool:
    """Whether the library's module is installed. Imports nothing."""
    return _MODULE in sys.modules or find_spec(_MODULE) is not None


class Gpus:
    """Reads the GPUs that this process may use. One thread at a time may read.

    These are the devices that the environment variable CUDA_VISIBLE_DEVICES names, or all; see
    `select_visible`. A read may block for seconds while the driver begins, and may hang.
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
        """Return a sample of each GPU that this process may use. May block for long.

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
        nvml = self._nvml
        gpus = list(_list_gpus(nvml))
        visible = select_visible(
            os.environ.get(VARIABLE), gpus, lambda: list(_list_instances(nvml, gpus))
        )
        samples, errors = [], [gpu.error for gpu in visible if gpu.error is not None]
        for gpu in visible:
            if gpu.error is not None:
                continue
            try:
                samples.append(_sample(nvml, _part_in_use(nvml, gpu)))
            except nvml.NVMLError_Uninitialized:
                raise
            except nvml.NVMLError as error:
                errors.append(error)
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


def _list_gpus(nvml: Any) -> Iterator[Gpu]:
    """Yield the GPUs, in NVML's order, without those that were given to other containers."""
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _query(nvml, nvml.nvmlDeviceGetUUID, handle)
        except nvml.NVMLError_NoPermission:
            continue
        except nvml.NVMLError_Uninitialized:
            raise
        except nvml.NVMLError as error:
            yield Gpu(index, error=error)
        else:
            ids = () if uuid is None else (_text(uuid),)
            yield Gpu(index, handle=handle, board=handle, ids=ids)


def _list_instances(nvml: Any, gpus: list[Gpu]) -> Iterator[Gpu]:
    """Yield the MIG instances of all GPUs; for a GPU that fails, the GPU itself with its error."""
    for gpu in gpus:
        if gpu.error is not None:
            yield gpu
            continue
        try:
            instances = list(_instances(nvml, gpu))
        except nvml.NVMLError_Uninitialized:
            raise
        except nvml.NVMLError as error:
            yield Gpu(gpu.index, error=error)
        else:
            yield from instances


def _part_in_use(nvml: Any, gpu: Gpu) -> Gpu:
    """Return what CUDA uses of a GPU: if it is in MIG mode, the first instance that we may use."""
    if gpu.mig_index is not None:
        return gpu
    mode = _query(nvml, nvml.nvmlDeviceGetMigMode, gpu.handle)  # the current and the next one
    if not mode or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return gpu
    return next(_instances(nvml, gpu), gpu)


def _instances(nvml: Any, gpu: Gpu) -> Iterator[Gpu]:
    """Yield the MIG instances of a GPU that this process may use. Raises what NVML does."""
    for index in range(_query(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, gpu.handle) or 0):
        instance = _instance(nvml, gpu, index)
        if instance is not None:
            yield instance


def _instance(nvml: Any, gpu: Gpu, index: int) -> Gpu | None:
    """Return the MIG instance; None if there is none of that index, or it was given to others."""
    try:
        handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, index)
    except (nvml.NVMLError_NotFound, nvml.NVMLError_NoPermission):
        return None
    parts = nvml.nvmlDeviceGetGpuInstanceId(handle), nvml.nvmlDeviceGetComputeInstanceId(handle)
    older_form = tuple(f"MIG-{board}/{parts[0]}/{parts[1]}" for board in gpu.ids)
    ids = (_text(nvml.nvmlDeviceGetUUID(handle)), *older_form)
    return Gpu(gpu.index, mig_index=index, handle=handle, board=gpu.handle, ids=ids)


def _sample(nvml: Any, gpu: Gpu) -> GpuSample:
    memory = _query(nvml, nvml.nvmlDeviceGetMemoryInfo, gpu.handle)
    utilization = _query(nvml, nvml.nvmlDeviceGetUtilizationRates, gpu.handle)
    name = _query(nvml, nvml.nvmlDeviceGetName, gpu.handle)
    processes = _query(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, gpu.handle)
    return GpuSample(
        index=gpu.index,
        mig_index=gpu.mig_index,
        uuid=gpu.ids[0] if gpu.ids else None,
        name=None if name is None else _text(name),
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        process_memory_bytes=_used_by_us(processes or ()),
        utilization_ratio=None if utilization is None else utilization.gpu / 100,
        # An instance has no sensor of its own.
        temperature_celsius=_query(
            nvml, nvml.nvmlDeviceGetTemperature, gpu.board, nvml.NVML_TEMPERATURE_GPU
        ),
    )


def _query(nvml: Any, read: Callable[..., Any], *arguments: Any) -> Any:
    """Return the value, or None if the device or the driver does not support or allow it."""
    try:
        return read(*arguments)
    except (
        nvml.NVMLError_NotSupported,
        nvml.NVMLError_NoPermission,
        nvml.NVMLError_InvalidArgument,  # a MIG instance does not have it
        nvml.NVMLError_FunctionNotFound,  # by a driver older than the library
    ):
        return None


def _used_by_us(processes: Any) -> int | None:
    """Return the memory that this process and its descendants use; None if that is not known."""
    used = [process.usedGpuMemory for process in processes if _is_ours(process.pid)]
    return sum(used) if used and None not in used else None


def _is_ours(pid: int) -> bool:
    own = os.getpid()
    if pid == own:
        return True
    try:
        return any(parent.pid == own for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False  # it has ended, or the id is one of the host


def _text(value: str | bytes) -> str:
    """Return the text; older releases of the library return bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
