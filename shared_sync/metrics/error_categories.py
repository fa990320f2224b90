"""The category of an error, which depends on its type and never on its text."""

from __future__ import annotations

import builtins
import concurrent.futures
import subprocess
from typing import Final

from shared_sync import errors
from shared_sync.errors import ConfigurationError

BAD_INPUT: Final = "bad_input"
TIMEOUT: Final = "timeout"
OUT_OF_MEMORY: Final = "out_of_memory"
DEVICE: Final = "device"
DEPENDENCY: Final = "dependency"
INTERNAL: Final = "internal"

CATEGORIES: Final = (BAD_INPUT, TIMEOUT, OUT_OF_MEMORY, DEVICE, DEPENDENCY, INTERNAL)
"""All categories. An error of a type that is not known is internal."""

_KNOWN: Final[dict[type[BaseException], str]] = {
    ValueError: BAD_INPUT,  # with UnicodeError and json.JSONDecodeError
    EOFError: BAD_INPUT,
    errors.Reject: BAD_INPUT,
    errors.InvalidMessage: BAD_INPUT,
    errors.InvalidResult: INTERNAL,
    TimeoutError: TIMEOUT,
    concurrent.futures.TimeoutError: TIMEOUT,  # a type of its own before Python 3.11
    subprocess.TimeoutExpired: TIMEOUT,
    MemoryError: OUT_OF_MEMORY,
    OSError: DEPENDENCY,  # with ConnectionError and errors of disks and name servers
    errors.RedisUnavailable: DEPENDENCY,
    errors.RedisRefused: DEPENDENCY,
    errors.QueueFull: DEPENDENCY,
}

# By the place where the class is defined, so that nothing has to be imported.
_KNOWN_ELSEWHERE: Final = {
    "torch.OutOfMemoryError": OUT_OF_MEMORY,
    "torch.cuda.OutOfMemoryError": OUT_OF_MEMORY,
    "torch.AcceleratorError": DEVICE,
    "cupy.cuda.memory.OutOfMemoryError": OUT_OF_MEMORY,
    "cupy_backends.cuda.api.runtime.CUDARuntimeError": DEVICE,
    "pynvml.NVMLError": DEVICE,
    "redis.exceptions.TimeoutError": TIMEOUT,
    "redis.exceptions.RedisError": DEPENDENCY,
    "requests.exceptions.Timeout": TIMEOUT,
    "requests.exceptions.RequestException": DEPENDENCY,
    "httpx.TimeoutException": TIMEOUT,
    "httpx.HTTPError": DEPENDENCY,
    "urllib3.exceptions.TimeoutError": TIMEOUT,
    "urllib3.exceptions.HTTPError": DEPENDENCY,
    "grpc.RpcError": DEPENDENCY,
    "botocore.exceptions.BotoCoreError": DEPENDENCY,
}

_DEADLINE: Final = "deadline"  # the consumer's error type for a job that ran for too long


class Categories:
    """Sorts error types into categories. Any thread may call any method."""

    def __init__(self) -> None:
        # Written one entry at a time, which is atomic; any thread may read.
        self._registered: dict[type[BaseException], str] = {}

    def register(self, error_type: type[BaseException], category: str) -> None:
        """Put errors of this type, and of types derived from it, into a category.

        Raises ConfigurationError for what is no type of an exception, or no category.
        """
        if not (isinstance(error_type, type) and issubclass(error_type, BaseException)):
            raise ConfigurationError(f"error_type must be an exception type, not {error_type!r}")
        if category not in CATEGORIES:
            raise ConfigurationError(
                f"category must be one of {', '.join(CATEGORIES)}; not {category!r}"
            )
        self._registered[error_type] = category

    def of(self, error_type: type[BaseException]) -> str:
        """Return the category of the type, or of its nearest ancestor that has one."""
        for ancestor in error_type.__mro__:
            place = f"{ancestor.__module__}.{ancestor.__qualname__}"
            category = (
                self._registered.get(ancestor)
                or _KNOWN.get(ancestor)
                or _KNOWN_ELSEWHERE.get(place)
            )
            if category is not None:
                return category
        return INTERNAL

    def of_name(self, name: str) -> str:
        """Return the category of a type of which only the name is known."""
        known = (*self._registered, *_KNOWN, getattr(builtins, name, None))
        for error_type in known:
            if isinstance(error_type, type) and error_type.__name__ == name:
                return self.of(error_type) if issubclass(error_type, BaseException) else INTERNAL
        return TIMEOUT if name == _DEADLINE else INTERNAL
