"""A sweep kept in a real PostgreSQL, started here on loopback."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.interruption import StopRequest
from groundup.compare.sweeps import storages
from groundup.compare.sweeps.storages import PostgreSQL
from groundup.compare.sweeps.sweep_file import read_sweep
from groundup.compare.sweeps.sweeping import begin, join
from groundup.compare.sweeps.worker import work

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of an empty database."""
    found = shutil.which("initdb", path=os.pathsep.join([*map(str, PROGRAMS), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip("PostgreSQL is not installed (no initdb): apt-get install postgresql")
    programs = Path(found).parent
    with tempfile.TemporaryDirectory(prefix="groundup-pg-") as scratch:
        place = Path(scratch)
        # The server refuses to be run by root.
        user = _unprivileged() if os.geteuid() == 0 else None
        if user is not None:
            os.chown(place, user.pw_uid, user.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def call(program: str, *arguments: str) -> None:
            subprocess.run(
                [str(programs / program), *arguments],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=place,
                timeout=60,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            )

        call("initdb", "-D", "data", "-U", "sweeper", "-A", "trust", "-N")
        options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off"
        call("pg_ctl", "-D", "data", "-o", f"{options} -p {port}", "-l", "log", "-w", "start")
        try:
            call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "sweeper", "sweeps")
            yield f"postgresql://sweeper@127.0.0.1:{port}/sweeps"
        finally:
            call("pg_ctl", "-D", "data", "-m", "immediate", "stop")


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


def test_machines_join_through_the_database_alone(
    database: str, sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = sweep_file(seeds=1, storage=database)
    here = begin(read_sweep(file), tmp_path / "here")
    there = join(database, tmp_path / "there")
    taken, _ = there.take("another machine")
    assert taken is not None
    other, _ = here.take("this machine")
    assert other is not None
    assert other.name != taken.name
    assert here.take("a third") == (None, False)
    there.give_back(taken)
    here.give_back(other)
    work(here, StopRequest(), lambda line: None)
    assert [run.state for run in there.runs()] == ["done", "done"]
    told = there.folder / "sweep.json"
    assert '"done"' not in told.read_text()
    work(there, StopRequest(), lambda line: None)  # whose runs the other machine has carried out
    assert [run["state"] for run in json.loads(told.read_text())["runs"]] == ["done", "done"]
    assert [run.value for run in join(database, tmp_path / "third").runs()] == [run.value for run in here.runs()]


def test_two_workers_never_take_the_same_run(database: str, sweep_file: Callable[..., Path], tmp_path: Path) -> None:
    values = [round(0.01 + 0.001 * number, 3) for number in range(20)]
    file = sweep_file(name="crowded", seeds=1, storage=database, grid={"schedule.lr": values})
    begin(read_sweep(file), tmp_path / "0")
    taken: list[str] = []

    def worker(number: int) -> None:
        store = join(database, tmp_path / str(number), "crowded")
        while (lease := store.take(f"worker {number}")[0]) is not None:
            taken.append(lease.name)

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [f"{number:03d}-seed0" for number in range(20)]


def test_joining_never_writes_into_a_folder_that_is_not_this_sweeps(
    database: str, sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    begin(read_sweep(sweep_file(name="joined", seeds=1, storage=database)), tmp_path / "here")
    begin(read_sweep(sweep_file(name="joined", seeds=1)), tmp_path / "journal")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "sweep.txt").write_text("mine")
    for name in ("journal", "notes"):
        before = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        with pytest.raises(UsageError, match="folder of a"):
            join(database, tmp_path / name, "joined")
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == before
    # Its own folder is joined again and again.
    assert join(database, tmp_path / "here", "joined").folder == tmp_path / "here"
    assert join(database, tmp_path / "there", "joined").folder == join(database, tmp_path / "there", "joined").folder


def test_a_lock_that_is_not_let_go_holds_nobody_up_for_ever(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, other = PostgreSQL(database), PostgreSQL(database)
    monkeypatch.setattr(storages, "_LOCK_SECONDS", 0.3)
    with holder.locked():
        began = time.monotonic()
        with pytest.raises(GroundupError, match="lock timeout"), other.locked():
            pass
        assert time.monotonic() - began < 5
    monkeypatch.setattr(storages, "_LOCK_SECONDS", 30.0)
    monkeypatch.setattr(storages, "_HELD_SECONDS", 0.3)
    with contextlib.ExitStack() as stopped:
        stopped.enter_context(holder.locked())
        with other.locked() as now:  # the holder does nothing, as a stopped process does, and is let go of
            assert now > 0
        with pytest.raises(GroundupError):  # it learns of it
            stopped.close()


def test_looking_at_a_sweep_in_a_database_writes_nothing(
    database: str, sweep_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from groundup.cli.sweep import sweep_app

    begin(read_sweep(sweep_file(name="looked-at", seeds=1, storage=database)), tmp_path / "here")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    shown = CliRunner().invoke(sweep_app, ["status", database, "--name", "looked-at"])
    assert shown.exit_code == 0, shown.output
    assert "2 waiting" in shown.output
    assert not list(elsewhere.iterdir())
