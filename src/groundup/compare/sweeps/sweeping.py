"""Beginning a sweep, going on with one, and joining one: the store is made or opened, then workers work.

SWEEP/
  sweep.yaml, base.yaml    the sweep and its base recipe, complete
  sweep.json               runs and their state, for the report
  journal.jsonl            the store, unless it is a database
  runs/NAME/               a run folder each
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from groundup.basis.errors import GroundupError, UsageError, listed
from groundup.basis.files import write_text
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.compare.sweeps.plan import check_plan, threads_of
from groundup.compare.sweeps.storages import JOURNAL, PostgreSQL, storage_of
from groundup.compare.sweeps.store import BASE_FILE, Store
from groundup.compare.sweeps.sweep_file import Sweep, check_storage, read_sweep, validate_sweep
from groundup.recipe import library, load_recipe, to_yaml
from groundup.runs.folder import without_home
from groundup.runs.prepare import open_data

SWEEP_FILE = "sweep.yaml"


def begin(sweep: Sweep, folder: Path | None = None, stop: StopRequest | None = None) -> Store:
    """The store of `sweep` in `folder` (by default runs/NAME), made if it is not there. UsageError before anything is written."""
    base = load_recipe(sweep.base)
    first = check_plan(sweep, sweep.base)
    folder = folder or default_folder(sweep.name)
    if folder.exists() and any(folder.iterdir()) and not (folder / SWEEP_FILE).exists():
        raise UsageError(
            f"{folder}: exists and is not the folder of a sweep", hint="another --folder, or another name="
        )
    _refuse_the_folder_of_another(folder, sweep)
    if not (folder / SWEEP_FILE).exists() and not sweep.varies("data.source"):
        open_data(first, stop or StopRequest())  # no sweep is begun without its data; the runs find it decoded
    if sweep.base not in library():  # beside the complete sweep file
        sweep = sweep.model_copy(update={"base": BASE_FILE})
    sweep = validate_sweep(_shortened(sweep.model_dump(mode="json", by_alias=True)))
    written = to_yaml(without_home(base))
    if sweep.storage is not None:  # of a journal, which lies in the folder, the store tells
        _refuse_a_folder_that_is_not_of(folder, sweep, written)
    store = Store.create(folder, storage_of(sweep.storage, folder), sweep, written, threads_of(sweep, base))
    write_sweep(store)
    return store


def _shortened(value: Any) -> Any:
    """`value` with paths under the home directory written as `~/...`: what is written must not name its user."""
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    home = str(Path.home()) + os.sep
    if not isinstance(value, str):
        return value
    return "~/" + value.removeprefix(home) if value.startswith(home) else value.replace(":" + home, ":~/")


def _refuse_the_folder_of_another(folder: Path, sweep: Sweep) -> None:
    """The runs in a folder belong to the sweep that made them: another must not take them for its own."""
    if not (folder / SWEEP_FILE).exists():
        return
    there = read_sweep(folder / SWEEP_FILE).name
    if there != sweep.name:
        raise UsageError(
            f"{folder}: is the folder of the sweep {there!r}, not of {sweep.name!r}", hint="another --folder"
        )
    runs = folder / "runs"
    if sweep.storage is None and not (folder / JOURNAL).exists() and runs.is_dir() and any(runs.iterdir()):
        raise UsageError(
            f"{folder}: has runs, but its store {JOURNAL} is gone, which knew what they are", hint="another --folder"
        )


def _refuse_a_folder_that_is_not_of(folder: Path, sweep: Sweep, base: str) -> None:
    """UsageError unless the folder is free, or holds this very sweep: nothing of another is written over or mixed with it.

    base: the sweep's base recipe, written out.
    """
    hint = f"--folder names another, such as --folder {folder}-2"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, not a folder", hint=hint)
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / SWEEP_FILE).is_file():
        raise UsageError(f"{folder}: exists and is not the folder of a sweep", hint=hint)
    there = validate_sweep(yaml.safe_load((folder / SWEEP_FILE).read_text(encoding="utf-8")))
    different = sweep.differs_from(there)
    base_file = folder / BASE_FILE
    if base_file.is_file() and base_file.read_text(encoding="utf-8") != base:
        different.append(BASE_FILE)
    if different:
        raise UsageError(
            f"{folder}: is the folder of another sweep; what differs: {', '.join(different)}",
            hint=f"{hint}; for a new sweep, name=ANOTHER",
        )


def join(place: str, folder: Path | None = None, name: str | None = None, *, to_work: bool = True) -> Store:
    """The store at `place`: the folder of a sweep, or a database. `name`: which sweep, where a database holds several; `to_work`:
    make a folder for one in a database."""
    if "://" in place:
        try:
            check_storage(place)
        except ValueError as error:
            raise UsageError(str(error)) from None
        storage = PostgreSQL(place)
        with storage.locked():
            names = storage.names()
        if name is None and len(names) != 1:
            raise UsageError(f"{place}: holds {len(names)} sweeps: {listed(names)}", hint="choose one with --name")
        name = name or names[0]
        folder = folder or default_folder(name)
        store = Store(folder, storage, name)
        if not to_work:
            return store
        _refuse_a_folder_that_is_not_of(folder, store.sweep, store.base)
        folder.mkdir(parents=True, exist_ok=True)
        write_sweep(store)
        return store
    found = Path(place)
    if not (found / SWEEP_FILE).is_file():
        raise UsageError(
            f"{place}: not the folder of a sweep (it has no {SWEEP_FILE})", hint="`groundup sweep run FILE` makes one"
        )
    sweep = read_sweep(found / SWEEP_FILE)
    if sweep.storage is None and not (found / JOURNAL).is_file():
        raise UsageError(f"{place}: its store {JOURNAL} is missing")
    return Store(found, storage_of(sweep.storage, found), sweep.name)


def default_folder(name: str) -> Path:
    """Where a sweep goes if nobody says."""
    return Path("runs") / name


def write_sweep(store: Store) -> None:
    """Write the complete sweep file and its base recipe into the folder."""
    head = "# The complete sweep; `groundup sweep work` on this folder goes on with it.\n"
    content = yaml.safe_dump(store.sweep.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
    write_text(store.folder / SWEEP_FILE, head + content)
    write_text(store.folder / BASE_FILE, store.base)


def run_workers(store: Store, stop: StopRequest, say: Callable[[str], None]) -> None:
    """Carry the sweep out with as many workers as its file says: in this process if it is one."""
    count = store.sweep.workers
    if count == 1:
        from groundup.compare.sweeps.worker import work

        work(store, stop, say)
        return
    workers = [_start(store.folder, number) for number in range(count)]
    try:
        _wait(workers, stop, say)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in workers:
            worker.wait()
    if all(worker.returncode for worker in workers):
        raise GroundupError(
            f"all {count} workers ended before the sweep (exit status {workers[0].returncode})",
            hint=f"`groundup sweep work {store.folder}` goes on",
        )


def _wait(workers: list[subprocess.Popen[bytes]], stop: StopRequest, say: Callable[[str], None]) -> None:
    ended: set[int] = set()
    while len(ended) < len(workers):
        if (reason := stop.pending) is not None:
            raise Interrupted(f"{reason.reason}; the same command goes on with the sweep", reason.exit_code)
        time.sleep(0.05)
        for number, worker in enumerate(workers):
            if number not in ended and worker.poll() is not None:
                ended.add(number)
                if worker.returncode:
                    say(f"worker {number} ended with status {worker.returncode}; the others go on with its run")


def _start(folder: Path, number: int) -> subprocess.Popen[bytes]:
    """A worker process; of several GPUs it sees one."""
    return subprocess.Popen(
        [sys.executable, "-m", "groundup", "sweep", "work", str(folder), "--quiet"],
        env={**os.environ, **_one_gpu(number)},
        stdout=subprocess.DEVNULL,
    )


def _one_gpu(number: int) -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(device) for device in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]}
