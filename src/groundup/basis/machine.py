"""What this process may use of the machine."""

import os

# What torchrun sets. Some clusters set RANK and WORLD_SIZE for every program.
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")


def usable_cores() -> int:
    """How many CPU cores this process may use: fewer than the machine has in a container or under an affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
