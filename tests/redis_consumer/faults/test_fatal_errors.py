"""Which errors say that the worker is broken, and which say nothing of it."""

from __future__ import annotations

import pytest

from shared_sync import Reject, Retry, SharedSyncError, WorkerBroken
from shared_sync.isolation.errors import RemoteError
from shared_sync.redis_consumer.faults.fatal_errors import FatalErrors

ILLEGAL = "CUDA error: an illegal memory access was encountered"


def error_type(name: str, base: type[Exception] = Exception) -> type[Exception]:
    """A type as a library has it that is not installed here."""
    module, _, own_name = name.rpartition(".")
    return type(own_name, (base,), {"__module__": module})


def is_fatal(error: BaseException, *named: type[BaseException] | str) -> bool:
    return FatalErrors(named).find(error) is not None


# --- known faults of devices --------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"{ILLEGAL}\nSearch for `cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/",
        "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously",
        "CUDA error: unspecified launch failure",
        "CUDA error: misaligned address",
        "CUDA error: an illegal instruction was encountered",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: no CUDA-capable device is detected",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "CUDA error: unknown error",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "HIP error: an illegal memory access was encountered",
        "cuda runtime error (38) : no CUDA-capable device is detected at THCGeneral.cpp:70",
        "No CUDA GPUs are available",
        "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing",
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "CUDA failed with error an illegal memory access was encountered",
        "CUDA failed with error unknown error",
        "cuBLAS failed with status CUBLAS_STATUS_NOT_INITIALIZED",
        "copy_if failed to synchronize: cudaErrorIllegalAddress: an illegal memory access was "
        "encountered",
        f"Caught RuntimeError in replica 0 on device 0.\nTraceback:\nRuntimeError: {ILLEGAL}\n",
    ],
)
def test_a_runtime_error_with_the_text_of_a_device_fault_is_one(text: str) -> None:
    assert is_fatal(RuntimeError(text))
    assert is_fatal(error_type("torch.AcceleratorError", RuntimeError)(text))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException",
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while "
            "running Gemm node. Name:'Gemm_128' Status Message: CUDA failure 700: an illegal "
            "memory access was encountered ; GPU=0 ; hostname=gpu-7 ; expr=cudaMemcpy(...)",
        ),
        (
            "cupy_backends.cuda.api.runtime.CUDARuntimeError",
            "cudaErrorIllegalAddress: an illegal memory access was encountered",
        ),
        ("jaxlib.xla_extension.XlaRuntimeError", "INTERNAL: CUDA_ERROR_LAUNCH_FAILED: unspecified"),
        (
            "tensorflow.python.framework.errors_impl.InternalError",
            "Failed to synchronize: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access",
        ),
        (
            "numba.cuda.cudadrv.driver.CudaAPIError",
            "[700] Call to cuMemcpyDtoH results in CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
        (
            "pycuda._driver.LogicError",
            "cuStreamSynchronize failed: an illegal memory access was encountered",
        ),
        ("pynvml.NVMLError_GpuIsLost", "GPU is lost"),
    ],
)
def test_the_errors_of_other_libraries_are_known_too(kind: str, text: str) -> None:
    assert is_fatal(error_type(kind)(text))
    assert not is_fatal(error_type("mine.OwnError")(text)), "a type that is none of a library"


def test_paddle_reports_a_fault_as_an_os_error() -> None:
    text = "(External) CUDA error(700), an illegal memory access was encountered."
    assert is_fatal(OSError(text))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("CUDA error: invalid argument"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("unknown error"),
        RuntimeError("the gateway failed: unknown error"),
        error_type("torch.OutOfMemoryError", RuntimeError)("CUDA out of memory."),
        error_type("tensorflow.python.framework.errors_impl.UnknownError")("unknown error"),
        MemoryError(),
    ],
    ids=str,
)
def test_memory_that_ran_out_and_errors_of_the_program_are_no_faults_of_a_device(
    error: Exception,
) -> None:
    assert not is_fatal(error)


def test_a_text_that_quotes_a_fault_says_nothing_in_an_error_of_another_type() -> None:
    assert not is_fatal(ValueError(ILLEGAL))
    assert not is_fatal(KeyError(ILLEGAL))
    assert not is_fatal(RuntimeError(f"cannot translate {ILLEGAL!r}"))
    assert not is_fatal(Reject(ILLEGAL))


# --- what programs say --------------------------------------------------------------------------


def test_a_program_says_so_itself() -> None:
    assert is_fatal(WorkerBroken("the model is gone"))
    assert not issubclass(WorkerBroken, SharedSyncError)


def test_types_that_are_named_count_and_so_do_their_subtypes() -> None:
    lost = error_type("my.gpu.DeviceLost")
    sub = error_type("my.gpu.FanStopped", lost)
    for named in (lost, "my.gpu.DeviceLost", "gpu.DeviceLost", "DeviceLost"):
        assert is_fatal(lost("x"), named)
        assert is_fatal(sub("x"), named)
        assert not is_fatal(error_type("my.gpu.TooHot")("x"), named)
    assert not is_fatal(error_type("my.gpu.NoDeviceLost")("x"), "DeviceLost")
    assert not is_fatal(lost("x"), "other.DeviceLost")
    assert is_fatal(BrokenPipeError("x"), ConnectionError)


def test_an_error_that_was_raised_from_such_an_error_means_the_same() -> None:
    fault = RuntimeError(ILLEGAL)
    wrapped = ValueError("cannot transcribe")
    wrapped.__cause__ = fault
    outer = Retry(5.0)
    outer.__context__ = wrapped
    assert FatalErrors().find(outer) is fault
    outer.__suppress_context__ = True
    assert not is_fatal(outer)


def test_a_chain_that_goes_round_in_a_circle_ends() -> None:
    one, other = ValueError("1"), ValueError("2")
    one.__cause__, other.__cause__ = other, one
    assert not is_fatal(one)


def test_the_errors_of_a_child_process_are_judged_by_the_names_of_their_types() -> None:
    def remote(text: str, *bases: str) -> RemoteError:
        return RemoteError(text, type_name=bases[0].rpartition(".")[2], base_names=bases)

    assert is_fatal(remote(ILLEGAL, "torch.AcceleratorError", "RuntimeError", "Exception"))
    assert is_fatal(remote(ILLEGAL, "RuntimeError", "Exception"))
    assert not is_fatal(remote(ILLEGAL, "ValueError", "Exception"))
    wrapped = remote("cannot transcribe", "ValueError", "Exception")
    wrapped.__cause__ = remote(ILLEGAL, "RuntimeError", "Exception")
    assert is_fatal(wrapped)
    assert is_fatal(remote("x", "my.gpu.Lost", "my.gpu.DeviceError", "Exception"), "DeviceError")
    assert is_fatal(remote("x", "ConnectionResetError", "ConnectionError"), ConnectionError)


def test_an_error_whose_text_cannot_be_read_is_no_fault() -> None:
    class Unreadable(RuntimeError):
        def __str__(self) -> str:
            raise ValueError

    assert not is_fatal(Unreadable())
