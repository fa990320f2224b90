"""GPUs as a stand-in for NVIDIA's library reports them."""

from __future__ import annotations

import sys

import nvml
import pytest

from shared_sync.metrics.gpu import Gpus, GpuSample, may_have_gpus


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> nvml.FakeNvml:
    library = nvml.FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def whole(index: int) -> GpuSample:
    return GpuSample(
        index=index,
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

    assert shown("nvmlDeviceGetMemoryInfo") == GpuSample(0, None, None, 0.75, 61)
    assert shown("nvmlDeviceGetUtilizationRates") == GpuSample(0, 3000, 8000, None, 61)
    assert shown("nvmlDeviceGetTemperature") == GpuSample(0, 3000, 8000, 0.75, None)


def test_a_gpu_that_was_given_to_others_is_left_out(library: nvml.FakeNvml) -> None:
    library.errors = {"nvmlDeviceGetHandleByIndex 0": nvml.NVMLError_NoPermission()}
    assert Gpus().read() == (whole(1),)


@pytest.mark.parametrize(
    "function",
    ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex 1", "nvmlDeviceGetTemperature gpu 1"],
)
def test_other_errors_are_raised_and_the_next_read_tries_again(
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
