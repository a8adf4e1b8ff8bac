"""What a sweep refuses before it begins, and what its folder holds from then on."""

from collections.abc import Callable
from pathlib import Path

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
