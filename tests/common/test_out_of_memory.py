"""Which errors say that memory ran out."""

from __future__ import annotations

import weakref

import pytest

from shared_sync.common import out_of_memory
from shared_sync.common.out_of_memory import is_out_of_memory
from shared_sync.isolation.errors import RemoteError


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


class CudaOutOfMemory(OutOfMemoryError):
    """One derived from it."""


class Transcription(Exception):
    """An error of a program."""


def caused_by(cause: Exception) -> Exception:
    error = Transcription("failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("Tried to allocate 20.00 MiB"),
        CudaOutOfMemory(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA failed with error out of memory"),
        caused_by(MemoryError()),
        RemoteError("x", type_name="E", base_names=("torch.cuda.OutOfMemoryError", "Exception")),
        RemoteError("CUDA out of memory", type_name="E", base_names=("RuntimeError",)),
    ],
)
def test_memory_ran_out(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("the file says: out of memory"),
        caused_by(ValueError()),
        RemoteError("out of memory", type_name="ValueError", base_names=("ValueError",)),
    ],
)
def test_anything_else_is_no_lack_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_an_error_whose_text_fails_is_none() -> None:
    class Unreadable(RuntimeError):
        def __str__(self) -> str:
            raise ValueError

    assert not is_out_of_memory(Unreadable())


def test_an_error_that_is_its_own_cause_ends_the_search() -> None:
    error = Transcription()
    error.__cause__ = Transcription()
    error.__cause__.__cause__ = error
    assert not is_out_of_memory(error)


def test_what_a_failed_call_held_is_released_before_anything_else_needs_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as it holds all of the memory, not even the names of types can be compared."""

    def fails(_: BaseException) -> bool:
        raise MemoryError

    class Held:
        pass

    def call() -> None:
        held = Held()
        kept.append(weakref.ref(held))
        raise MemoryError

    kept: list[weakref.ref[Held]] = []
    monkeypatch.setattr(out_of_memory, "is_out_of_memory", fails)
    try:
        call()
    except MemoryError as error:
        assert kept[0]() is not None
        out_of_memory.release_memory(error)
        assert kept[0]() is None
