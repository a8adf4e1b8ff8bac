"""What a sweep refuses before it begins, and what its folder holds from then on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.basis.errors import UsageError
from groundup.compare.sweeps.sweep_file import read_sweep
from groundup.compare.sweeps.sweeping import begin, join

from ..conftest import FIXED, write_arrays
from .conftest import carried_out

Write = Callable[..., Path]


def test_another_sweep_does_not_get_into_the_folder(sweep_file: Write, tmp_path: Path) -> None:
    begin(read_sweep(sweep_file()), tmp_path / "sweep")
    with pytest.raises(UsageError, match="exists already"):
        begin(read_sweep(sweep_file(seeds=[1, 2])), tmp_path / "sweep")


def test_a_folder_belongs_to_the_sweep_that_made_it(sweep_file: Write, tmp_path: Path) -> None:
    store = carried_out(sweep_file(seeds=1), tmp_path / "sweep")
    with pytest.raises(UsageError, match="is the folder of the sweep"):
        begin(read_sweep(sweep_file(name="another")), store.folder)
    (store.folder / "journal.jsonl").unlink()
    with pytest.raises(UsageError, match=r"has runs, but its store journal\.jsonl is gone"):
        begin(read_sweep(sweep_file(seeds=1)), store.folder)


def test_a_batch_that_the_machine_chooses_is_refused(sweep_file: Write, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"configuration 000 .*: train\.batch_size=auto"):
        begin(read_sweep(sweep_file(fixed={**FIXED, "train.batch_size": "auto"})), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_what_a_sweep_writes_does_not_name_the_home_of_its_user(
    sweep_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "people" / "somebody"))
    write_arrays(tmp_path / "people" / "somebody" / "photos.npz")
    place = f"arrays:{tmp_path}/people/somebody/photos.npz"
    store = begin(read_sweep(sweep_file(seeds=1, fixed={**FIXED, "data.source": place})), tmp_path / "sweep")
    written = "".join(file.read_text() for file in store.folder.iterdir() if file.is_file())
    assert "arrays:~/photos.npz" in written
    assert "somebody" not in written


@pytest.mark.parametrize(
    "address",
    ["postgresql://me:secret@h/db", "postgresql://me@h/db?password=secret", "postgresql:///db?password=secret"],
)
def test_an_address_with_a_password_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(UsageError, match="no password in it") as caught:
        join(address)
    assert "secret" not in str(caught.value)


def test_half_a_line_of_a_killed_writer_is_no_harm(sweep_file: Write, tmp_path: Path) -> None:
    store = begin(read_sweep(sweep_file()), tmp_path / "sweep")
    with open(store.folder / "journal.jsonl", "a") as journal:
        journal.write('{"op_code": 8, "trial')
    other = join(str(store.folder))
    assert other.take("a")[0] is not None
    assert len(join(str(store.folder)).runs()) == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": 1}, "what differs: seeds"),
        ({"fixed": {**FIXED, "train.epochs": 3}}, r"what differs: fixed\.train\.epochs"),
        ({"grid": {"schedule.lr": [0.02, 0.06]}, "metric": "validation_loss"}, r"grid\.schedule\.lr\.choice, metric"),
    ],
)
def test_another_sweep_is_refused_by_its_keys(
    sweep_file: Write, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    begin(read_sweep(sweep_file()), tmp_path / "sweep")
    with pytest.raises(UsageError, match=told):
        begin(read_sweep(sweep_file(**changes)), tmp_path / "sweep")


def test_the_seeds_of_a_search_stay_and_another_base_recipe_is_named(sweep_file: Write, tmp_path: Path) -> None:
    search = {"grid": None, "search": {"space": {"schedule.lr": {"low": 1e-4, "high": 1.0}}}, "budget": {"runs": 4}}
    (tmp_path / "mine.yaml").write_text("extends: digits\n")
    begin(read_sweep(sweep_file(**search, base="mine.yaml", seeds=1)), tmp_path / "sweep")
    (tmp_path / "mine.yaml").write_text("extends: digits\nloss: {label_smoothing: 0.3}\n")
    with pytest.raises(UsageError, match=r"what differs: seeds, loss\.label_smoothing of the base recipe"):
        begin(read_sweep(sweep_file(**search, base="mine.yaml", seeds=2)), tmp_path / "sweep")


def test_a_sweep_goes_on_when_only_what_is_said_of_its_base_has_changed(sweep_file: Write, tmp_path: Path) -> None:
    base = "extends: digits\nabout: A.\nclaim: {top1: 0.5, seeds: 3, source: here}\n"
    (tmp_path / "mine.yaml").write_text(base)
    sweep = begin(read_sweep(sweep_file(base="mine.yaml")), tmp_path / "sweep")
    (tmp_path / "mine.yaml").write_text(base.replace("A.", "B.").replace("0.5", "0.6"))
    again = begin(read_sweep(sweep_file(base="mine.yaml")), tmp_path / "sweep")
    assert [run.name for run in again.runs()] == [run.name for run in sweep.runs()]
    (tmp_path / "mine.yaml").write_text("extends: digits\n")  # which keeps the claim, and another `about`
    assert begin(read_sweep(sweep_file(base="mine.yaml")), tmp_path / "sweep").runs()
