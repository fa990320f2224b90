"""Which errors say that a device, and with it this process, can do no more work.

After most of these faults the CUDA context of the process is lost: every later call fails, whatever
message it is for, and only a new process helps. Some say that there is no device, or none that can
be used. Memory that ran out is none of them: it is the message, or the batch, that was too large.

Texts are only looked for in errors of the types that the libraries raise, and only where a library
puts them: a message may contain any text, and so may an error that quotes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple


class KnownText(NamedTuple):
    """What a library writes, and where that was seen."""

    text: str
    seen_in: str


_CUDA_DOCS: Final = (
    "https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html, cudaError"
)

CAUSES: Final = (
    KnownText("an illegal memory access was encountered", "vllm-project/vllm#39373"),
    KnownText("device-side assert triggered", "vllm-project/vllm#11931"),
    KnownText("unspecified launch failure", "opendatalab/MinerU#426"),
    KnownText("misaligned address", "state-spaces/mamba#492"),
    KnownText("an illegal instruction was encountered", "index-tts/index-tts#336"),
    KnownText("uncorrectable ECC error encountered", "vllm-project/vllm#5222"),
    KnownText("no CUDA-capable device is detected", "wentaozhu/DeepLung#1"),
    KnownText("hardware stack error", _CUDA_DOCS),
    KnownText("invalid program counter", _CUDA_DOCS),
    KnownText("operation not supported on global/shared address space", _CUDA_DOCS),
    KnownText("the launch timed out and was terminated", _CUDA_DOCS),
    KnownText("uncorrectable NVLink error detected during the execution", _CUDA_DOCS),
    KnownText("CUDA-capable device(s) is/are busy or unavailable", _CUDA_DOCS),
    KnownText("CUBLAS_STATUS_NOT_INITIALIZED", "QwenLM/Qwen#120"),
    KnownText("CUDNN_STATUS_NOT_INITIALIZED", "NVIDIA/TensorRT#2911"),
)
"""What stands behind one of the beginnings below: mostly what cudaGetErrorString() returns."""

VAGUE_CAUSES: Final = (
    KnownText("unknown error", "SYSTRAN/faster-whisper#708, proteneer/timemachine#1203"),
)
"""The same, if they mean a device only behind one of the beginnings."""

BEGINNINGS: Final = (
    KnownText(r"(?:CUDA|HIP) error: ", "PyTorch, pytorch/pytorch#36668"),
    KnownText(r"cuda runtime error \(\d+\) ?: ", "PyTorch before 1.5, microsoft/nni#2916"),
    KnownText(r"cuDNN error: ", "PyTorch, open-mmlab/mmdeploy#87"),
    KnownText(r"CUDA failed with error ", "CTranslate2, SYSTRAN/faster-whisper#708"),
    KnownText(r"(?:cuBLAS|cuDNN) failed with status ", "CTranslate2, OpenNMT/CTranslate2#311"),
    KnownText(r"Triton Error \[CUDA\]: ", "Triton, triton-lang/triton#1302"),
    KnownText(r"CUDA failure \d+: ", "CNTK, microsoft/CNTK#3073"),
    KnownText(r"\(External\) CUDA error\(\d+\), ", "Paddle, PaddlePaddle/PaddleNLP#6031"),
    KnownText(r"\w+ failed to synchronize: ?\w+: ", "Thrust in PyTorch, xg-chu/CrowdDet#26"),
)
"""Patterns of how a text begins, or a line of it, in a `RuntimeError` or in Paddle's `OSError`."""

WHOLE_TEXTS: Final = (
    KnownText("No CUDA GPUs are available", "PyTorch, Grace9994/CoMoSVC#6"),
    KnownText("CUDA unknown error - ", "PyTorch, pytorch/pytorch#49327"),
    KnownText(
        "Unexpected error from cudaGetDeviceCount()", "PyTorch, CompVis/stable-diffusion#439"
    ),
    KnownText("CUDA driver initialization failed", "PyTorch, c10/cuda/CUDAFunctions.cpp"),
    KnownText("Found no NVIDIA driver on your system", "PyTorch, c10/cuda/CUDAFunctions.cpp"),
)
"""How a text begins, or a line of it, that needs no cause behind it."""

SYMBOLS: Final = (
    KnownText("ILLEGAL_ADDRESS", "jax-ml/jax#28710, cupy/cupy#7615"),
    KnownText("ASSERT", "its name in cuda.h"),
    KnownText("LAUNCH_FAILED", "numba/numba#3788, tensorflow/tensorflow#25866"),
    KnownText("MISALIGNED_ADDRESS", "tensorflow/tensorflow#3224"),
    KnownText("ILLEGAL_INSTRUCTION", "tensorflow/tensorflow#17747"),
    KnownText("ECC_UNCORRECTABLE", "nagadit/DeepFaceLab_Linux#89"),
    KnownText("NO_DEVICE", "its name in cuda.h"),
    KnownText("HARDWARE_STACK_ERROR", "its name in cuda.h"),
    KnownText("INVALID_PC", "its name in cuda.h"),
    KnownText("INVALID_ADDRESS_SPACE", "its name in cuda.h"),
    KnownText("LAUNCH_TIMEOUT", "its name in cuda.h"),
    KnownText("NVLINK_UNCORRECTABLE", "its name in cuda.h"),
)
"""Errors of the driver, in front of which CUDA_ERROR_ stands. Only in types of these libraries."""

LIBRARIES: Final = (
    KnownText("torch", "PyTorch: AcceleratorError, DeferredCudaCallError"),
    KnownText("triton", "Triton"),
    KnownText("onnxruntime", "ONNX Runtime: RuntimeException, Fail; hacksider/Deep-Live-Cam#627"),
    KnownText("tensorflow", "TensorFlow: InternalError, UnknownError"),
    KnownText("jaxlib", "JAX: XlaRuntimeError; jax-ml/jax#28710"),
    KnownText("jax", "JAX: JaxRuntimeError, the same type in later releases"),
    KnownText("cupy", "CuPy"),
    KnownText("cupy_backends", "CuPy: CUDARuntimeError, CUDADriverError; cupy/cupy#7482"),
    KnownText("numba", "Numba: CudaAPIError; numba/numba#3788"),
    KnownText("pycuda", "PyCUDA: LogicError, LaunchError; NVIDIA/TensorRT#1469"),
    KnownText("pynvml", "NVML: NVMLError_GpuIsLost"),
)
"""Top-level packages of the types in whose texts a cause may stand anywhere."""

TYPES: Final = (
    KnownText("pynvml.NVMLError_GpuIsLost", "the name in pynvml"),
    KnownText("pynvml.NVMLError_LibRmVersionMismatch", "the name in pynvml"),
)
"""Types that say so by themselves."""


def _any_of(*known: KnownText) -> str:
    return "|".join(re.escape(one.text) for one in known)


_BEGINNING: Final = "|".join(one.text for one in BEGINNINGS)
_LINE: Final = re.compile(
    r"^(?:[\w.]+(?:Error|Exception): )?"
    rf"(?:(?:{_BEGINNING})(?:{_any_of(*CAUSES, *VAGUE_CAUSES)})|{_any_of(*WHOLE_TEXTS)})",
    re.MULTILINE,
)
_ANYWHERE: Final = re.compile(rf"{_any_of(*CAUSES)}|CUDA_ERROR_(?:{_any_of(*SYMBOLS)})\b")
_LIBRARIES: Final = frozenset(one.text for one in LIBRARIES)
_TYPES: Final = frozenset(one.text for one in TYPES)
_LINE_TYPES: Final = frozenset({"RuntimeError", "OSError"})


def is_known(type_names: tuple[str, ...], text: str) -> bool:
    """Return whether an error is a known fault of a device.

    `type_names` are the names of its type and of its base types, each behind its module unless
    that is `builtins`: `torch.AcceleratorError`, `RuntimeError`.
    """
    patterns = _patterns_for(type_names)
    if patterns is None:
        return True
    for pattern in patterns:  # noqa: SIM110 - any() takes longer, and each failed attempt comes here
        if pattern.search(text):
            return True
    return False


@lru_cache(maxsize=1000)
def _patterns_for(type_names: tuple[str, ...]) -> Sequence[re.Pattern[str]] | None:
    """Return what to look for in the text of such an error; None if its type says enough.

    Kept, as many errors have few types.
    """
    if not _TYPES.isdisjoint(type_names):
        return None
    if any(name.partition(".")[0] in _LIBRARIES for name in type_names):
        return (_ANYWHERE, _LINE)
    return () if _LINE_TYPES.isdisjoint(type_names) else (_LINE,)
