"""What this process may use of the machine."""

import os

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")


def usable_cores() -> int:
    """How many CPU cores this process may use: fewer than the machine has in a container or under an affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had: torch's on an accelerator or on the CPU, Python's or numpy's."""
    import torch  # here, because commands that need no torch are not to wait for it

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's CPU allocator, and some of CUDA's and MPS's calls, raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _NO_MEMORY)
