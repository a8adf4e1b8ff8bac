"""What the tests of sweeps share: a whole sweep in this process."""

from pathlib import Path

from groundup.basis.interruption import StopRequest
from groundup.compare.sweeps.store import Store
from groundup.compare.sweeps.sweep_file import read_sweep
from groundup.compare.sweeps.sweeping import begin, run_workers


def carried_out(file: Path, folder: Path) -> Store:
    """A sweep by one worker in this process."""
    store = begin(read_sweep(file), folder)
    run_workers(store, StopRequest(), lambda line: None)
    return store
