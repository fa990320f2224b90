"""GPUs as a stand-in for NVIDIA's library reports them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import nvml
import pytest

from shared_sync.metrics.gpu import Gpus, GpuSample, may_have_gpus


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> nvml.FakeNvml:
    return install(monkeypatch, gpus=2)


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> nvml.FakeNvml:
    return install(monkeypatch, gpus=8)


def install(monkeypatch: pytest.MonkeyPatch, gpus: int) -> nvml.FakeNvml:
    library = nvml.FakeNvml(gpus)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return library


def whole(index: int) -> GpuSample:
    return GpuSample(
        index=index,
        uuid=nvml.uuid_of(index),
        name="NVIDIA A100",
        memory_used_bytes=3000,
        memory_total_bytes=8000,
        utilization_ratio=0.75,
        temperature_celsius=61,
    )


def test_each_gpu_has_its_values(library: nvml.FakeNvml) -> None:
    gpus = Gpus()
    assert not gpus.available
    assert gpus.read() == (whole(0), whole(1))
    assert gpus.available


def test_the_library_is_begun_once(library: nvml.FakeNvml) -> None:
    gpus = Gpus()
    for _ in range(3):
        gpus.read()
    assert library.calls.count("nvmlInit") == 1


def test_making_it_touches_nothing(library: nvml.FakeNvml) -> None:
    Gpus()
    assert may_have_gpus()
    assert library.calls == []


@pytest.mark.parametrize(
    "error",
    [nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission, nvml.NVMLError_FunctionNotFound],
)
def test_a_value_that_is_not_supported_is_none_and_the_others_are_there(
    library: nvml.FakeNvml, error: type[Exception]
) -> None:
    def shown(function: str) -> GpuSample:
        library.errors = {f"{function} gpu 0": error()}
        first, second = Gpus().read()
        assert second == whole(1)
        return first

    gpu = whole(0)
    assert shown("nvmlDeviceGetMemoryInfo") == replace(
        gpu, memory_used_bytes=None, memory_total_bytes=None
    )
    assert shown("nvmlDeviceGetUtilizationRates") == replace(gpu, utilization_ratio=None)
    assert shown("nvmlDeviceGetTemperature") == replace(gpu, temperature_celsius=None)
    assert shown("nvmlDeviceGetName") == replace(gpu, name=None)
    assert shown("nvmlDeviceGetComputeRunningProcesses") == gpu


def test_a_gpu_that_was_given_to_others_is_left_out(library: nvml.FakeNvml) -> None:
    library.errors = {"nvmlDeviceGetHandleByIndex 0": nvml.NVMLError_NoPermission()}
    assert Gpus().read() == (whole(1),)


@pytest.mark.parametrize(
    "function",
    ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex 1", "nvmlDeviceGetTemperature gpu 1"],
)
def test_errors_of_all_gpus_are_raised_and_the_next_read_tries_again(
    library: nvml.FakeNvml, function: str
) -> None:
    gpus = Gpus()
    library.errors = {
        function: nvml.NVMLError_GpuIsLost(),
        "nvmlDeviceGetHandleByIndex 0": nvml.NVMLError_GpuIsLost(),
    }
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        gpus.read()
    assert gpus.available
    library.errors = {}
    assert gpus.read() == (whole(0), whole(1))


@pytest.mark.parametrize(
    "function", ["nvmlDeviceGetHandleByIndex 1", "nvmlDeviceGetTemperature gpu 1"]
)
def test_a_gpu_that_is_lost_is_counted_and_the_others_are_there(
    library: nvml.FakeNvml, function: str
) -> None:
    gpus = Gpus()
    library.errors = {function: nvml.NVMLError_GpuIsLost()}
    assert gpus.read() == gpus.read() == (whole(0),)
    assert gpus.failures == 2
    library.errors = {}
    assert gpus.read() == (whole(0), whole(1))
    assert gpus.failures == 2


def test_without_the_module_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setattr(sys, "path", [])
    sys.path_importer_cache.clear()
    gpus = Gpus()
    assert not may_have_gpus()
    assert gpus.read() == ()
    assert not gpus.available


def test_without_a_driver_there_are_no_gpus_and_it_is_not_tried_again(
    library: nvml.FakeNvml,
) -> None:
    gpus = Gpus()
    library.errors = {"nvmlInit": nvml.NVMLError_DriverNotLoaded()}
    for _ in range(3):
        assert gpus.read() == ()
    assert not gpus.available
    assert library.calls == ["nvmlInit"]


def test_a_library_that_is_broken_is_reported_once(library: nvml.FakeNvml) -> None:
    gpus = Gpus()
    library.errors = {"nvmlInit": ZeroDivisionError()}
    with pytest.raises(ZeroDivisionError):
        gpus.read()
    assert gpus.read() == ()
    assert library.calls == ["nvmlInit"]


def test_a_library_that_others_have_ended_is_begun_again(library: nvml.FakeNvml) -> None:
    gpus = Gpus()
    gpus.read()
    library.begun = False
    assert gpus.read() == (whole(0), whole(1))
    assert library.calls.count("nvmlInit") == 2


def test_the_texts_of_older_releases_of_the_library_are_read(
    library: nvml.FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "nvmlDeviceGetUUID", lambda device: b"GPU-" + device.encode())
    monkeypatch.setattr(library, "nvmlDeviceGetName", lambda device: b"Tesla T4")
    assert [(gpu.uuid, gpu.name) for gpu in Gpus().read()] == [
        ("GPU-gpu 0", "Tesla T4"),
        ("GPU-gpu 1", "Tesla T4"),
    ]


# --- the devices of this process ----------------------------------------------------------------


def test_only_the_gpus_that_cuda_shows_are_read(
    eight: nvml.FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = Gpus()
    assert gpus.read() == tuple(whole(index) for index in range(8))
    eight.errors = {"nvmlDeviceGetMemoryInfo gpu 0": ZeroDivisionError()}
    for variable, indices in [
        ("5,2", (5, 2)),
        (nvml.uuid_of(7)[:10], (7,)),
        ("3,99,4", (3,)),
        ("", ()),
        ("-1", ()),
    ]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
        assert gpus.read() == tuple(whole(index) for index in indices)
    assert gpus.available


def test_an_index_counts_the_gpus_that_were_given_to_this_container(
    eight: nvml.FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight.errors = {
        f"nvmlDeviceGetHandleByIndex {index}": nvml.NVMLError_NoPermission()
        for index in (0, 1, 2, 4)
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert Gpus().read() == (whole(3), whole(5))


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex 1", "nvmlDeviceGetUUID gpu 1"])
@pytest.mark.parametrize("by_uuid", [False, True])
def test_a_lost_gpu_hides_none_of_those_behind_it(
    eight: nvml.FakeNvml, monkeypatch: pytest.MonkeyPatch, function: str, by_uuid: bool
) -> None:
    eight.errors = {function: nvml.NVMLError_GpuIsLost()}
    entries = [nvml.uuid_of(index) if by_uuid else str(index) for index in (1, 6)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(entries))
    gpus = Gpus()
    assert gpus.read() == (whole(6),)
    assert gpus.failures == 1


def test_the_lost_gpu_of_another_process_is_no_failure(
    eight: nvml.FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight.errors = {"nvmlDeviceGetHandleByIndex 0": nvml.NVMLError_GpuIsLost()}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpus = Gpus()
    assert gpus.read() == (whole(1),)
    assert gpus.failures == 0


def test_a_mig_instance_has_its_own_values_and_the_temperature_of_its_gpu(
    eight: nvml.FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight.instances = {"gpu 3": [None, "mig/7/0", "mig/9/0"]}
    eight.uuids |= {"mig/7/0": "MIG-7e05", "mig/9/0": "MIG-9e05"}
    eight.errors = {
        "nvmlDeviceGetUtilizationRates mig/9/0": nvml.NVMLError_NotSupported(),
        "nvmlDeviceGetTemperature mig/9/0": nvml.NVMLError_InvalidArgument(),
    }
    instance = GpuSample(
        index=3,
        mig_index=2,
        uuid="MIG-9e05",
        name="NVIDIA A100 MIG 1g.5gb",
        memory_used_bytes=3000,
        memory_total_bytes=8000,
        utilization_ratio=None,
        temperature_celsius=61,
    )
    gpus = Gpus()
    for variable in ("MIG-9e05", f"MIG-{nvml.uuid_of(3)}/9/0", "MIG-9e05,MIG-none,MIG-7e05"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
        assert gpus.read() == (instance,)
    assert instance.number == "3:2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-9e05,MIG-7e05")
    assert [gpu.number for gpu in gpus.read()] == ["3:2", "3:1"]


@pytest.mark.parametrize("variable", [None, "3,4", f"{nvml.uuid_of(3)},{nvml.uuid_of(4)}"])
def test_of_a_gpu_in_mig_mode_the_first_instance_is_shown(
    eight: nvml.FakeNvml, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    eight.instances = {"gpu 3": [None, "mig/7/0", "mig/9/0"], "gpu 4": [None]}
    eight.uuids |= {"mig/7/0": "MIG-7e05", "mig/9/0": "MIG-9e05"}
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [gpu.number for gpu in Gpus().read() if gpu.index in (3, 4)] == ["3:1", "4"]


def test_a_gpu_that_is_lost_hides_no_instance_of_another(
    eight: nvml.FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight.instances = {"gpu 0": ["mig/1/0"], "gpu 3": ["mig/7/0"]}
    eight.uuids |= {"mig/1/0": "MIG-1e05", "mig/7/0": "MIG-7e05"}
    eight.errors = {"nvmlDeviceGetMaxMigDeviceCount gpu 0": nvml.NVMLError_GpuIsLost()}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1e05,MIG-7e05")
    gpus = Gpus()
    assert [gpu.number for gpu in gpus.read()] == ["3:0"]
    assert gpus.failures == 1


# --- the memory of this process -----------------------------------------------------------------


@pytest.fixture
def child() -> Iterator[int]:
    """The id of a grandchild of this process."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as one:
        assert one.stdout is not None
        yield int(one.stdout.readline())


def process(pid: int, memory: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=memory)


def test_the_memory_of_this_process_and_its_descendants_is_known(
    library: nvml.FakeNvml, child: int
) -> None:
    library.processes = {
        "gpu 0": [process(os.getpid(), 500), process(child, 40), process(os.getppid(), 7)],
        "gpu 1": [process(os.getppid(), 7)],
    }
    assert [gpu.process_memory_bytes for gpu in Gpus().read()] == [540, None]


def test_memory_that_the_driver_does_not_reveal_is_unknown_and_not_0(
    library: nvml.FakeNvml, child: int
) -> None:
    nobody = 2**22 + 1  # above any process id of Linux
    library.processes = {
        "gpu 0": [process(os.getpid(), 500), process(child, None)],
        "gpu 1": [process(nobody, 500)],
    }
    assert [gpu.process_memory_bytes for gpu in Gpus().read()] == [None, None]
