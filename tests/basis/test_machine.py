"""Telling a lack of memory from other errors, and memory that stays with the process."""

import ctypes
import platform
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from groundup.basis.errors import GroundupError, OutOfMemory
from groundup.basis.machine import keep_freed_memory, out_of_memory, usable_cores


def test_torch_python_and_numpy_without_memory_are_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    with pytest.raises(MemoryError) as plain:
        bytearray(1 << 62)
    assert out_of_memory(plain.value)
    with pytest.raises(MemoryError) as array:
        np.empty(1 << 55, dtype=np.uint8)
    assert out_of_memory(array.value)


@pytest.mark.gpu
def test_a_full_gpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "MPS backend out of memory (MPS allocated: 9.00 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_what_other_systems_say_is_recognised(said: str) -> None:
    assert out_of_memory(RuntimeError(said))
    assert out_of_memory(torch.OutOfMemoryError(said))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert not out_of_memory(caught.value)
    assert not out_of_memory(ValueError("out of memory"))
    assert not out_of_memory(GroundupError("out of memory"))


def test_the_error_says_which_settings_need_less_memory() -> None:
    error = OutOfMemory("the GPU is full in step 3")
    assert isinstance(error, GroundupError)
    for key in ("train.micro_batch", "train.batch_size", "data.cache=host", "evaluate.batch_size", "train.precision"):
        assert key in str(error)
    assert str(OutOfMemory("full", hint="buy more")) == "full\nhint: buy more"


def test_at_least_one_core_may_be_used() -> None:
    assert usable_cores() >= 1


FAULTS = """
import ctypes, resource, sys
import torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: one fault for each page, however large the kernel likes them
from groundup.basis.machine import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for turn in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        together = [torch.ones(20_000_000) for _ in range(3)]
        del together
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_is_freed_and_taken_again_is_not_asked_of_the_system_again() -> None:
    def faults(mode: str) -> int:
        ended = subprocess.run(
            [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True, timeout=60
        )
        return int(ended.stdout)

    pages = 9 * 80_000_000 // resource.getpagesize()
    assert faults("kept") < pages // 100 < pages // 2 < faults("as it is")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_is_only_kept_does_not_count_as_used() -> None:
    script = """
import psutil, torch
from groundup.basis.machine import keep_freed_memory, used_memory
before = used_memory()
assert keep_freed_memory()
several = [torch.ones(20_000_000) for _ in range(5)]
last = torch.ones(1000)
del several
assert psutil.Process().memory_info().rss > before + 300e6
assert used_memory() < before + 50e6
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert not keep_freed_memory()
