"""Several processes make the run that one process makes: real processes, gloo, every step compared at its end."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from groundup.basis.errors import UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.runs.prepare import build_job, build_network, make_plan
from groundup.runs.unchanged import engine_of_all
from groundup.training import (
    TrainSettings,
    World,
    check_equal_parts,
    choose_engine,
    hardware_for,
    job_id,
    share_of,
    together,
)
from groundup.training.distributed import TorchrunWorld

SCRIPT = Path(__file__).with_name("together.py")
PROCESSES = 3


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def start(size: int, *arguments: str | Path) -> list[subprocess.Popen[str]]:
    """As torchrun would, without its seconds."""
    port = str(free_port())
    shared = {**os.environ, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]


def finished(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Status and words of every process, none of which is left behind."""
    try:
        said = [process.communicate(timeout=200)[0] for process in processes]
        return [(process.returncode, words) for process, words in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def alone() -> ModuleType:
    """`together.py`, to run in this process."""
    spec = importlib.util.spec_from_file_location("together_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """outcomes(name): what three processes made of a run."""
    folder = tmp_path_factory.mktemp("three")
    ended = finished(start(PROCESSES, SCRIPT, folder))
    assert [status for status, _ in ended] == [0] * PROCESSES, "\n".join(words for _, words in ended)
    return lambda name: torch.load(folder / f"{name}.pt", weights_only=True)


@pytest.fixture(scope="module")
def begun_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that two processes began and were told to stop."""
    folder = tmp_path_factory.mktemp("two")
    ended = finished(start(2, SCRIPT, folder, "stop"))
    assert [status for status, _ in ended] == [0, 0], "\n".join(words for _, words in ended)
    return folder


@pytest.mark.parametrize("name", ["odd batches", "mixing and accumulation", "sam and small parts"])
def test_three_processes_make_the_run_of_one(
    name: str, outcomes: Any, alone: ModuleType, lab: Any, tmp_path: Path
) -> None:
    assert_same_run(outcomes(name), alone.outcome(lab, alone.RUNS[name], World(), tmp_path))


@pytest.mark.parametrize("processes", [1, 4])
def test_what_two_processes_began_one_or_four_go_on_with_on_the_same_curve(
    processes: int, begun_by_two: Path, alone: ModuleType, lab: Any, tmp_path: Path
) -> None:
    whole = alone.outcome(lab, alone.ELASTIC, World(), tmp_path / "whole")
    shutil.copytree(begun_by_two, place := tmp_path / "cut", symlinks=True)
    begun = torch.load(begun_by_two / "part.pt", weights_only=True)
    assert (begun["stopped"], begun["numbers"]["step"], whole["numbers"]["step"]) == ("SIGTERM", 6, 12)
    if processes == 1:
        got = alone.outcome(lab, alone.ELASTIC, World(), place)
    else:
        ended = finished(start(processes, SCRIPT, place, "resume"))
        assert [status for status, _ in ended] == [0] * processes, "\n".join(words for _, words in ended)
        got = torch.load(place / "part.pt", weights_only=True)
    assert_same_run(got, whole)


def assert_same_run(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Within 1e-5, counts exactly."""
    assert got["the same everywhere"]
    for part in ("weights", "average"):
        torch.testing.assert_close(got[part], expected[part], atol=1e-5, rtol=1e-5)
    assert got["numbers"].keys() == expected["numbers"].keys()
    for key in ("step", "images", "flops", "skipped_updates", "evaluated_at"):
        assert got["numbers"][key] == expected["numbers"][key], key
    assert len(got["metrics"]) == len(expected["metrics"]) > 0
    for line, wanted in zip(got["metrics"], expected["metrics"], strict=True):
        assert line.keys() == wanted.keys()
        for key, value in wanted.items():
            assert line[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


def test_counts_of_an_evaluation_are_those_of_one_process_exactly(
    outcomes: Any, alone: ModuleType, lab: Any, tmp_path: Path
) -> None:
    name = "odd batches"
    expected, got = alone.outcome(lab, alone.RUNS[name], World(), tmp_path), outcomes(name)
    for line, wanted in zip(got["metrics"], expected["metrics"], strict=True):
        assert line["validation_top1"] == wanted["validation_top1"]
        assert line["train_top1"] == wanted["train_top1"]


def test_two_images_are_evaluated_by_three_processes_once_each(
    outcomes: Any, alone: ModuleType, lab: Any, tmp_path: Path
) -> None:
    name = "odd batches"
    expected, got = alone.outcome(lab, alone.RUNS[name], World(), tmp_path), outcomes(name)
    torch.testing.assert_close(got["two images"], expected["two images"], atol=1e-4, rtol=1e-4)


def test_the_request_of_one_process_stops_all_at_the_same_step_and_the_resume_repeats_the_run_bit_for_bit(
    outcomes: Any, differences: Any
) -> None:
    parts = outcomes("parts")
    assert parts["stopped"]["stopped"] == "SIGTERM"
    assert parts["stopped"]["numbers"]["step"] == 4, "one check later than it was asked, in every process"
    assert parts["stopped"]["the same everywhere"], "batch-norm statistics too"
    whole = parts["uninterrupted"]
    assert whole["stopped"] is None
    assert differences(parts["resumed"], whole) == []


def test_a_source_that_is_silent_to_one_process_keeps_none_from_stopping_where_they_are(
    alone: ModuleType, lab: Any, tmp_path: Path
) -> None:
    ended = finished(start(2, SCRIPT, tmp_path, "silent"))
    assert [status for status, _ in ended] == [0, 0], "\n".join(words for _, words in ended)
    begun = torch.load(tmp_path / "part.pt", weights_only=True)
    assert begun["stopped"].startswith("asked to")
    assert begun["numbers"]["step"] == 5, "the step before the one whose images did not come"
    whole = alone.outcome(lab, alone.ELASTIC, World(), tmp_path / "whole")
    assert_same_run(alone.outcome(lab, alone.ELASTIC, World(), tmp_path), whole)


def test_what_fails_in_one_process_ends_the_others_with_its_message() -> None:
    script = """
import sys, torch
from groundup.training import together
from groundup.basis.errors import DataError
with together() as world:
    world.start(torch.device("cpu"), 60)
    assert world.from_main(lambda: world.rank) == 0
with together() as world:  # a process may train one run after the other
    assert world.from_main(lambda: "second") == "second"
    world.start(torch.device("cpu"), 60)
    if world.rank == 1:
        raise DataError("the disk of process 1 is gone")
    world.sum(torch.ones(1))
"""
    (first, one), (second, other) = finished(start(2, "-c", script))
    assert first != 0
    assert second != 0
    assert "LostProcess: process 1 failed: DataError: the disk of process 1 is gone" in one
    assert "DataError: the disk of process 1 is gone" in other


def test_what_fails_before_the_group_is_open_ends_the_others_too_and_a_dead_process_is_told_of() -> None:
    script = """
import os, signal, sys, torch
from groundup.training import together
from groundup.basis.errors import DataError
with together() as world:
    if sys.argv[1] == "fails":
        world.from_main(lambda: (_ for _ in ()).throw(DataError("no such folder")))
    world.start(torch.device("cpu"), 3)
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL if sys.argv[1] == "dies" else signal.SIGSTOP)
    world.sum(torch.ones(1))
"""
    failing, dying, silent = (start(2, "-c", script, what) for what in ("fails", "dies", "is silent"))
    (_, one), (_, other) = finished(failing)
    assert "DataError: no such folder" in one
    assert "LostProcess: process 0 failed: DataError: no such folder" in other
    (status, survivor), (killed, _) = finished(dying)
    assert killed == -9
    assert status == 1
    assert "LostProcess: another process of this run has died" in survivor
    waiting, _ = silent[0].communicate(timeout=100)
    for process in silent:
        process.kill()
        process.communicate()
    assert "LostProcess: another process of this run has died or has not answered within" in waiting


Worlds = Callable[[int, tuple[int, ...]], list[TorchrunWorld]]


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worlds]:
    """worlds(size, restarts): processes, here threads, that meet at a store like torchrun's, which outlives them. `restarts`: how
    often each one's machine says that it has started."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in (
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", store.port),
        ("TORCHELASTIC_USE_AGENT_STORE", True),
    ):
        monkeypatch.setenv(name, str(value))

    def meet(size: int, restarts: tuple[int, ...]) -> list[TorchrunWorld]:
        environments = [
            {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(size), "TORCHELASTIC_RESTART_COUNT": str(count)}
            for rank, count in enumerate(restarts)
        ]
        with ThreadPoolExecutor(size) as threads:
            return [future.result(60) for future in [threads.submit(TorchrunWorld, each) for each in environments]]

    yield meet
    del store


def test_processes_that_are_started_again_meet_although_the_store_remembers_and_machines_count_differently(
    worlds: Worlds,
) -> None:
    first, second, third = worlds(3, (0, 0, 0))
    assert first.from_main(lambda: "old") == "old"
    assert second.from_main(lambda: "not asked") == "old"
    third.leave(OSError("its disk"))
    first, second = worlds(2, (0, 1))  # a machine less; the one that failed has counted, the other has not
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(second.from_main, lambda: "not asked")
        time.sleep(0.3)
        assert not answer.done(), "what an earlier start decided does not count"
        first.from_main(lambda: "new")
        assert answer.result(30) == "new"


def test_a_process_that_was_told_to_stop_ends_after_process_0_has_saved(worlds: Worlds) -> None:
    first, second = worlds(2, (0, 0))
    for world in (first, second):
        world.stop(StopRequest())
    stopped = Interrupted("SIGTERM", 143)
    with ThreadPoolExecutor(1) as threads:
        leaving = threads.submit(second.leave, stopped)
        time.sleep(0.3)
        assert not leaving.done(), "torchrun would give process 0 thirty seconds from here"
        first.leave(stopped)
        leaving.result(30)


def test_want_of_memory_in_a_collective_is_not_blamed_on_another_process(worlds: Worlds) -> None:
    (world,) = worlds(1, (0,))
    with pytest.raises(torch.OutOfMemoryError), world._collective():
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_shares_are_contiguous_cover_everything_and_differ_by_one_at_most() -> None:
    for count in (0, 1, 2, 3, 64, 65, 1000):
        for size in (1, 2, 3, 7, 8):
            shares = [share_of(count, rank, size) for rank in range(size)]
            assert [place for share in shares for place in range(share.start, share.stop)] == list(range(count))
            sizes = [share.stop - share.start for share in shares]
            assert sizes == sorted(sizes, reverse=True), "process 0 never has less than another"
            assert max(sizes) - min(sizes) <= 1


def test_without_torchrun_there_is_one_process_and_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")  # some clusters set these for every program; torchrun sets LOCAL_RANK too
    with together() as world:
        assert type(world) is World
        assert (world.rank, world.size, world.is_main, world.is_shared) == (0, 1, True, False)
        assert not torch.distributed.is_initialized()
    assert job_id() is None


@pytest.fixture
def four() -> World:
    """A world of four processes on one machine, as the second of them sees it."""

    class Four(World):
        rank, size, local_rank, local_size, is_shared = 1, 4, 1, 4, True  # type: ignore[assignment]

    return Four()


def test_a_process_without_a_part_of_the_first_batch_knows_the_scale_of_fp16(lab: Any) -> None:
    recipe = lab.recipe()
    plan = make_plan(recipe, lab.splits(recipe))
    engine = replace(choose_engine(recipe.train, 10), precision="fp16")
    _, state = build_job(plan, engine, build_network(plan, engine), lambda: None)
    for parameter in state.model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0**16)
    state.scaler.unscale_(state.optimizer)  # refused by a scaler that has scaled nothing
    assert all((parameter.grad == 1).all() for parameter in state.model.parameters())


def test_process_0_decides_on_the_arithmetic_and_another_kind_of_device_is_refused() -> None:
    mine = choose_engine(TrainSettings(epochs=1, batch_size=8, device="cpu", threads=3), 100)

    class Second(World):
        rank, size = 1, 2

        def __init__(self, first: Any) -> None:
            self._first = first

        def from_main(self, make: Any) -> Any:
            return self._first

    first = replace(mine, precision="bf16", compiled=True, why="its own", threads=5)
    assert engine_of_all(Second(first), mine) == replace(first, threads=3)
    assert engine_of_all(World(), mine) == mine
    with pytest.raises(UsageError, match="process 1 would train on cpu, process 0 on cuda:0"):
        engine_of_all(Second(replace(first, device="cuda:0")), mine)


def test_cores_are_shared_among_the_processes_of_a_machine(four: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.training.engine.usable_cores", lambda: 9)
    settings = TrainSettings(epochs=1, batch_size=8, device="cpu")
    engine = choose_engine(settings, 100, four)
    assert (engine.threads, engine.processes, engine.backend) == (2, 4, "gloo")
    assert choose_engine(settings, 100).threads == 9
    assert choose_engine(settings.model_copy(update={"threads": 3}), 100, four).threads == 3


def test_a_batch_that_is_to_be_found_is_refused_of_several_processes_before_any_data_is_read(four: World) -> None:
    settings = TrainSettings(epochs=1, batch_size="auto", device="cpu")
    with pytest.raises(
        UsageError, match=r"train\.batch_size=auto: finds what fits one process, and 4 share a batch"
    ) as refused:
        hardware_for(settings, four)
    assert "train.batch_size=256" in str(refused.value.hint)
    assert hardware_for(settings, World())[0].type == "cpu"


def test_synchronised_batch_norm_is_refused_on_a_cpu_and_where_processes_would_wait_for_ever(four: World) -> None:
    with pytest.raises(UsageError, match="synchronises batch norm on CUDA GPUs only, not on cpu"):
        choose_engine(TrainSettings(epochs=1, batch_size=8, device="cpu", sync_batch_norm=True), 100)
    check_equal_parts(four, {64, 10}, None)
    check_equal_parts(four, {64}, 8)
    with pytest.raises(UsageError, match="1 to 2 forward passes of 34 images"):
        check_equal_parts(four, {34}, 8)
    with pytest.raises(UsageError, match="0 to 1 forward passes of 3 images"):
        check_equal_parts(four, {64, 3}, None)


def test_a_job_has_the_name_that_torchrun_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night-7")
    named = job_id()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night-8")
    other = job_id()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun without an id: the torchrun process itself
    assert len({named, other, job_id()}) == 3
    assert job_id() == job_id()
    assert "night" not in str(named)
