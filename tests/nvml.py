"""A stand-in for the module `pynvml`: GPUs whose values are set by the test."""

# ruff: noqa: N801, N802 (the names are NVIDIA's)

from __future__ import annotations

import threading
from types import ModuleType, SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


class NVMLError_DriverNotLoaded(NVMLError):
    pass


class NVMLError_FunctionNotFound(NVMLError):
    pass


class NVMLError_NoPermission(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_InvalidArgument(NVMLError):
    pass


class NVMLError_NotFound(NVMLError):
    pass


class NVMLError_Uninitialized(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


def uuid_of(number: int) -> str:
    return f"GPU-{number:x}a{number:x}b0000-d72c-4106-c12f-20bd9faed9f6"


class FakeNvml(ModuleType):
    """So many GPUs; `processes` and `instances` have what runs on them and their MIG instances.

    What is in `errors` is raised by the function of that name. A call of the function in `hangs`
    says so by `hanging`, and returns when `go_on` is set.
    """

    NVML_TEMPERATURE_GPU = 0
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, gpus: int = 8) -> None:
        super().__init__("pynvml")
        self.errors: dict[str, Exception] = {}
        self.hangs = ""
        self.hanging, self.go_on = threading.Event(), threading.Event()
        self.read_once = threading.Event()  # up to its last value
        self.devices = [f"gpu {number}" for number in range(gpus)]
        self.uuids = {device: uuid_of(number) for number, device in enumerate(self.devices)}
        self.processes: dict[str, list[Any]] = {}  # by device
        self.instances: dict[str, list[str | None]] = {}  # by device, those that there are
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.begun = False
        for error in (NVMLError, *NVMLError.__subclasses__()):
            setattr(self, error.__name__, error)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.threads.add(threading.get_ident())
        if name == self.hangs:
            self.hanging.set()
            assert self.go_on.wait(20)
        if name in self.errors:
            raise self.errors[name]
        if name != "nvmlInit" and not self.begun:
            raise NVMLError_Uninitialized

    def nvmlInit(self) -> None:
        self._called("nvmlInit")
        self.begun = True

    def nvmlDeviceGetCount(self) -> int:
        self._called("nvmlDeviceGetCount")
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self._called(f"nvmlDeviceGetHandleByIndex {index}")
        return self.devices[index]

    def nvmlDeviceGetMemoryInfo(self, device: str) -> Any:
        self._called(f"nvmlDeviceGetMemoryInfo {device}")
        return SimpleNamespace(used=3000, total=8000, free=5000)

    def nvmlDeviceGetUtilizationRates(self, device: str) -> Any:
        self._called(f"nvmlDeviceGetUtilizationRates {device}")
        return SimpleNamespace(gpu=75, memory=20)

    def nvmlDeviceGetTemperature(self, device: str, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        self._called(f"nvmlDeviceGetTemperature {device}")
        if device == self.devices[-1]:
            self.read_once.set()
        return 61

    def nvmlDeviceGetUUID(self, device: str) -> str:
        self._called(f"nvmlDeviceGetUUID {device}")
        return self.uuids[device]

    def nvmlDeviceGetName(self, device: str) -> str:
        self._called(f"nvmlDeviceGetName {device}")
        return "NVIDIA A100 MIG 1g.5gb" if "/" in device else "NVIDIA A100"

    def nvmlDeviceGetComputeRunningProcesses(self, device: str) -> list[Any]:
        self._called(f"nvmlDeviceGetComputeRunningProcesses {device}")
        return self.processes.get(device, [])

    def nvmlDeviceGetMigMode(self, device: str) -> list[int]:
        self._called(f"nvmlDeviceGetMigMode {device}")
        if device not in self.instances:
            raise NVMLError_NotSupported
        return [self.NVML_DEVICE_MIG_ENABLE, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: str) -> int:
        self._called(f"nvmlDeviceGetMaxMigDeviceCount {device}")
        return len(self.instances.get(device, ()))

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: str, index: int) -> str:
        self._called(f"nvmlDeviceGetMigDeviceHandleByIndex {device} {index}")
        instance = self.instances[device][index]
        if instance is None:
            raise NVMLError_NotFound
        return instance

    def nvmlDeviceGetGpuInstanceId(self, instance: str) -> int:
        return int(instance.split("/")[1])

    def nvmlDeviceGetComputeInstanceId(self, instance: str) -> int:
        return int(instance.split("/")[2])
