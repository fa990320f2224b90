"""Which GPUs a process may use: the rules of CUDA_VISIBLE_DEVICES, applied to what NVML lists.

CUDA documents the variable; a repeated entry and trailing letters are treated as CUDA does in
practice, which PyTorch has found out and follows as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

_NUMBER: Final = re.compile(r"[+-]?\d+")


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
    entries = [entry.strip() for entry in variable.split(",")]
    if entries[0].startswith("MIG-"):
        instances = list(mig_instances())
        found = _by_id(entries, instances, lambda entry, gpu: entry in gpu.ids)
    elif entries[0].startswith("GPU-"):
        found = _by_id(entries, gpus, lambda entry, gpu: any(i.startswith(entry) for i in gpu.ids))
    else:
        found = _by_index(entries, gpus)
    return found if len({id(gpu) for gpu in found}) == len(found) else []


def _by_index(entries: Sequence[str], gpus: Sequence[Gpu]) -> list[Gpu]:
    found = []
    for entry in entries:
        number = _NUMBER.match(entry)
        if number is None or not 0 <= int(number[0]) < len(gpus):
            break
        found.append(gpus[int(number[0])])
    return found


def _by_id(
    entries: Sequence[str], gpus: Sequence[Gpu], fits: Callable[[str, Gpu], bool]
) -> list[Gpu]:
    found: list[Gpu] = []
    prefix = entries[0][:4]
    unread = [gpu for gpu in gpus if gpu.error is not None]
    for entry in entries:
        if not entry.startswith(prefix):
            break
        fitting = [gpu for gpu in gpus if fits(entry, gpu)]
        if len(fitting) == 1:
            found += fitting
        elif not fitting and unread:
            found.append(unread.pop(0))
        else:
            break
    return found
