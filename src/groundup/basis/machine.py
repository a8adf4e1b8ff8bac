"""What this process may use of the machine."""

import os


def usable_cores() -> int:
    """How many CPU cores this process may use: fewer than the machine has in a container or under an affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
