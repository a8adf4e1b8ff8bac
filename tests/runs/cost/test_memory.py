"""The memory that a run may have: the machine's, and less inside control groups that have a limit."""

from pathlib import Path

import psutil
import pytest
import torch

from groundup.basis.interruption import StopRequest
from groundup.recipe import load_recipe
from groundup.runs.cost import estimate
from groundup.runs.cost.measure import Measured
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants

MB = 2**20
OWN = 300 * MB  # in main memory
SHARED = 100 * MB  # of it read from files
LIMIT, USED, CACHED = 16_000 * MB, 11_000 * MB, 1_000 * MB


class Memory:
    """What psutil tells: a machine of 64,000 MB with 40,000 free."""

    available, total = 40_000 * MB, 64_000 * MB
    rss, shared = OWN, SHARED


class Process:
    def memory_info(self) -> Memory:
        return Memory()


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control groups below tmp_path/groups, those of this process in tmp_path/own."""
    monkeypatch.setattr(estimate, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(estimate, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(psutil, "Process", Process)


def group(folder: Path, limit: str, used: int = USED, *, v1: bool = False) -> None:
    """A control group of which a fifth of the cache is in use."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if v1 else ("memory.max", "memory.current")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    inside = "total_" if v1 else ""
    active, rest = CACHED // 5, CACHED - CACHED // 5
    stat = f"anon {used - CACHED}\n{inside}active_file {active}\n{inside}inactive_file {rest}\n"
    (folder / "memory.stat").write_text(f"active_file 0\ninactive_file 0\n{stat}" if v1 else stat)


def memory() -> tuple[int, int]:
    return estimate.device_memory(torch.device("cpu"))


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert memory() == (Memory.available + OWN, Memory.total)
    (tmp_path / "own").write_text("0::/user.slice\n")
    assert memory() == (Memory.available + OWN, Memory.total)
    group(tmp_path / "groups/user.slice", "max")
    assert memory() == (Memory.available + OWN, Memory.total)


# What is left of the limit, caches apart, and what this process itself holds beside its files.
LEFT = LIMIT - (USED - CACHED) + OWN - SHARED


@pytest.mark.parametrize(
    ("own", "folder", "v1"),
    [
        ("0::/\n", "", False),  # a container
        ("0::/system.slice/slurmd/job_7/step_0\n", "system.slice/slurmd/job_7/step_0", False),
        ("0::/system.slice/slurmd/job_7/step_0\n", "system.slice/slurmd/job_7", False),  # a limit further out
        ("0::/host/path/that/is/not/here\n", "", False),
        ("0::/../../elsewhere\n", "", False),
        ("9:name=systemd:/\n4:cpu,memory:/slurm/job_7\n0::/\n", "memory/slurm/job_7", True),
        ("4:memory:/docker/0af3\n", "memory", True),
    ],
)
def test_what_a_group_already_uses_is_not_free(own: str, folder: str, v1: bool, tmp_path: Path) -> None:
    (tmp_path / "own").write_text(own)
    group(tmp_path / "groups" / folder, str(LIMIT), v1=v1)
    assert memory() == (LEFT, LIMIT)


def test_the_narrowest_of_the_groups_around_a_process_counts(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/outer/inner\n")
    group(tmp_path / "groups/outer/inner", str(15_000 * MB), 2_000 * MB)
    group(tmp_path / "groups/outer", str(LIMIT))
    assert memory() == (LEFT, 15_000 * MB)


def test_a_group_that_is_full_leaves_what_the_process_holds(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/full\n")
    group(tmp_path / "groups/full", str(1_000 * MB), 2_500 * MB)
    assert memory() == (OWN - SHARED, 1_000 * MB)


def test_a_measured_step_is_not_all_that_a_run_needs() -> None:
    plain = ["average={name: none}", "optimizer={name: sgd}"]
    kept = {"average": "average={name: ema, horizon: 1ep}", "copy for SAM": "optimizer={name: sgd, sam: {rho: 0.05}}"}
    for what, override in kept.items():
        recipe = load_recipe("digits", [*plain, override])
        splits = open_data(recipe, StopRequest())
        plan = make_plan(with_measured_constants(recipe, splits), splits)
        job, state = first_job(plan, lambda: None)
        measured = Measured(None, {8: 0.1}, 100, 5 * MB, "", peak=3 * MB)  # type: ignore[arg-type]
        parts = estimate._memory(plan, job, state, measured, program=0).fixed
        assert parts.keys() == {"measured", what}
        assert parts[what] >= 4 * sum(p.numel() for p in state.model.parameters())


def test_what_is_decoded_ahead_takes_memory_too() -> None:
    def parts(*overrides: str) -> dict[str, int]:
        recipe = load_recipe("digits", overrides)
        splits = open_data(recipe, StopRequest())
        plan = make_plan(with_measured_constants(recipe, splits), splits)
        job, state = first_job(plan, lambda: None)
        job.data.close()
        return estimate.extrapolated_memory(plan, job, state, 100, 0, 0).fixed

    batch = load_recipe("digits").train.batch_size * 8 * 8 * 3
    assert "decoded ahead" not in parts()
    assert parts("data.cache=none", "data.workers=2", "data.prefetch=3")["decoded ahead"] == 4 * batch
    assert parts("data.cache=none", "data.workers=0")["decoded ahead"] == batch
