"""What CUDA_VISIBLE_DEVICES means, on a machine with four GPUs."""

from __future__ import annotations

import pytest

from shared_sync.metrics.visible_gpus import Gpu, select_visible

GPUS = [
    Gpu(0, ids=("GPU-aaaa1111",)),
    Gpu(1, ids=("GPU-aaaa2222",)),
    Gpu(2, ids=("GPU-bbbb3333",)),
    Gpu(3, ids=("GPU-cccc4444",)),
]
INSTANCES = [
    Gpu(2, mig_index=0, ids=("MIG-0e0", "MIG-GPU-bbbb3333/1/0")),
    Gpu(2, mig_index=1, ids=("MIG-0e01", "MIG-GPU-bbbb3333/2/0")),
]


def seen(variable: str | None) -> list[tuple[int, int | None]]:
    found = select_visible(variable, GPUS, lambda: INSTANCES)
    return [(gpu.index, gpu.mig_index) for gpu in found]


@pytest.mark.parametrize(
    ("variable", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        (" ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,1", [2, 1]),
        (" 2 , 1 ", [2, 1]),
        ("0,2,-1,1", [0, 2]),
        ("0,4,1", [0]),
        ("1,,2", [1]),
        ("1gpu2,2ampere", [1, 2]),
        ("+1", [1]),
        ("1,GPU-bbbb3333", [1]),
        ("1,1", []),
        ("1,2,1,-1", []),
        ("1,-1,1", [1]),
        ("GPU-cccc4444,GPU-aaaa1111", [3, 0]),
        ("GPU-c,GPU-aaaa1", [3, 0]),
        ("GPU-aaaa,GPU-c", []),
        ("GPU-c,GPU-aaaa,GPU-b", [3]),
        ("GPU-c,GPU-0000,GPU-b", [3]),
        ("GPU-c,0", [3]),
        ("GPU-c,GPU-cccc", []),
        ("gpu-c", []),
        ("cccc4444", []),
    ],
)
def test_gpus_are_chosen_as_cuda_does(variable: str | None, indices: list[int]) -> None:
    assert seen(variable) == [(index, None) for index in indices]


@pytest.mark.parametrize(
    ("variable", "instances"),
    [
        ("MIG-0e01", [1]),
        ("MIG-0e0", [0]),
        ("MIG-0e01,MIG-0e0", [1, 0]),
        ("MIG-GPU-bbbb3333/2/0", [1]),
        ("MIG-0e0,GPU-cccc4444", [0]),
        ("MIG-0e0,MIG-GPU-bbbb3333/1/0", []),
        ("MIG-0", []),
        ("MIG-GPU-bbbb3333/5/0,MIG-0e0", []),
    ],
)
def test_instances_are_chosen_by_their_whole_identifier(
    variable: str, instances: list[int]
) -> None:
    assert seen(variable) == [(2, instance) for instance in instances]


def test_an_identifier_that_fits_none_is_taken_for_a_gpu_that_has_failed() -> None:
    lost = Gpu(1, error=OSError())
    gpus = [GPUS[0], lost, GPUS[2]]
    found = select_visible("GPU-aaaa2222,GPU-b", gpus, list)
    assert found == [lost, GPUS[2]]
    assert select_visible("GPU-aaaa2222,GPU-none,GPU-b", gpus, list) == [lost]
