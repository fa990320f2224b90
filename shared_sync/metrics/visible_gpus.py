"""Which GPUs a process may use: the rules of CUDA_VISIBLE_DEVICES, applied to what NVML lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared_sync.common.cuda_devices import named_devices


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or one MIG instance of it, as NVML lists it.

    `index` is the number that nvidia-smi shows, `mig_index` that of the instance within its GPU.
    `ids` are the identifiers that CUDA_VISIBLE_DEVICES may have for it; `error` is what NVML raised
    instead of them, and `handle` is None then. `board` is the handle of the whole GPU.
    """

    index: int
    mig_index: int | None = None
    handle: Any = None
    board: Any = None
    ids: tuple[str, ...] = ()
    error: Exception | None = None


def select_visible(
    variable: str | None, gpus: Sequence[Gpu], mig_instances: Callable[[], Sequence[Gpu]]
) -> list[Gpu]:
    """Return those of `gpus` and `mig_instances()` that CUDA shows, in the order of the variable.

    If the variable is not set (None), these are all GPUs. Otherwise the form of the first entry
    holds for all of them: indices, or identifiers that begin with "GPU-" or with "MIG-". The list
    ends at the first invalid entry; a repeated one makes it empty. `gpus` are those that this
    process may use, so that index 0 is the first of them, as in CUDA.

    An identifier that fits no GPU is taken for one whose identifiers cannot be read, if there is
    one. So a GPU that has failed does not hide those that are listed behind it.
    """
    if variable is None:
        return list(gpus)
    named = named_devices(variable)
    form = named[0][:4] if named else ""
    if form == "MIG-":
        instances = list(mig_instances())
        found = _by_id(named, instances, lambda entry, gpu: entry in gpu.ids)
    elif form == "GPU-":
        found = _by_id(named, gpus, lambda entry, gpu: any(i.startswith(entry) for i in gpu.ids))
    else:
        found = _by_index(named, gpus)
    return found if len({id(gpu) for gpu in found}) == len(found) else []


def _by_index(named: Sequence[str], gpus: Sequence[Gpu]) -> list[Gpu]:
    found = []
    for number in map(int, named):
        if number >= len(gpus):
            break
        found.append(gpus[number])
    return found


def _by_id(
    named: Sequence[str], gpus: Sequence[Gpu], fits: Callable[[str, Gpu], bool]
) -> list[Gpu]:
    found: list[Gpu] = []
    unread = [gpu for gpu in gpus if gpu.error is not None]
    for entry in named:
        fitting = [gpu for gpu in gpus if fits(entry, gpu)]
        if len(fitting) == 1:
            found += fitting
        elif not fitting and unread:
            found.append(unread.pop(0))
        else:
            break
    return found
