"""What this process may use of the machine."""

import contextlib
import ctypes
import os
import sys

# What torchrun sets. Some clusters set RANK and WORLD_SIZE for every program.
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Parameters of glibc's `mallopt`, from its malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")


def usable_cores() -> int:
    """How many CPU cores this process may use: fewer than the machine has in a container or under an affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bfloat16() -> bool:
    """Whether this CPU has matrix units (AMX), which multiply bfloat16 several times as fast as float32. Without them bfloat16 is
    emulated, and slower."""
    import torch  # here, because commands that need no torch are not to wait for it

    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(has_amx())


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its next allocation, until it ends. Returns whether it does: with glibc only.

    glibc gives large blocks back to the system when they are freed. A training step on a CPU allocates the same hundreds of MB
    every time, and each page of them would be zeroed by the kernel again: 135,000 page faults a step of `speed_net`, a fifth of
    its time. What the process holds stays at its peak instead of falling back between two steps; `used_memory` gives back what
    is free before it counts. In other threads than the main one glibc still takes and returns blocks above 64 MiB one by one.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
        tune = ctypes.CDLL(None).mallopt
        # No block from a mapping of its own, and nothing given back at the end of the heap (-1: whatever is free there).
        return all([tune(_M_MMAP_MAX, 0), tune(_M_TRIM_THRESHOLD, -1)])
    return False


def used_memory() -> int:
    """Bytes of memory that this process really uses: what it only keeps is given back to the system first."""
    import psutil  # here, because commands that ask for nothing of the kind are not to wait for it

    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def is_launched() -> bool:
    """Whether torchrun, or what sets the same variables, started this process."""
    return all(name in os.environ for name in _LAUNCHED)


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had: torch's on an accelerator or on the CPU, Python's or numpy's."""
    import torch  # here, because commands that need no torch are not to wait for it

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's CPU allocator, and some of CUDA's and MPS's calls, raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _NO_MEMORY)
