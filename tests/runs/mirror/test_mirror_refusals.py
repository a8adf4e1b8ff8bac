"""What a mirror refuses: an address that is none, a place that cannot be written to, and one that holds something else."""

from pathlib import Path
from typing import Any

import pytest
from mirrored_runs import ARun, steps_in, wait

from groundup.basis.errors import UsageError
from groundup.recipe import load_recipe
from groundup.runs.mirror.places import open_place
from groundup.runs.mirror.restore import run_from_mirror

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("address", ["s3://me:my-password@bucket/x", "s3://bucket/x?token=my-password"])
def test_a_password_in_an_address_is_refused_and_not_repeated(address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is refused") as refused:
        run_from_mirror(address, tmp_path / "back", print)
    assert "my-password" not in str(refused.value)
    with pytest.raises(UsageError, match="is refused") as refused:
        load_recipe("digits", [f"checkpoint.mirror={address}"])
    assert "my-password" not in str(refused.value)


@pytest.mark.parametrize("address", ["bucket/x", "hf:name", "hf:a/b/c", "https://host/x", "s3://", "hf://a/b"])
def test_what_is_no_address_of_a_mirror_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"checkpoint\.mirror"):
        load_recipe("digits", [f"checkpoint.mirror={address}"])


def test_another_recipe_or_seed_is_refused_and_nothing_is_overwritten(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirror = run.mirror(url)
    mirror.start()
    mirror.saved(run.save(10))
    assert mirror.finish(10)
    place = open_place(url)
    before = {name: place.read(name) for name in place.names()}
    other = ARun(tmp_path / "elsewhere" / "run", seed=1)
    with pytest.raises(UsageError, match=r"holds another run: seed: 0 there, 1 here"):
        other.mirror(url).start()
    again = ARun(tmp_path / "again" / "run")
    with pytest.raises(UsageError, match=r"holds step 10 of this very run already; `groundup resume .*/run` goes on"):
        again.mirror(url).start()
    assert {name: place.read(name) for name in place.names()} == before


def test_a_folder_with_other_files_is_refused(run: ARun, tmp_path: Path) -> None:
    there = tmp_path / "there" / "run"
    there.mkdir(parents=True)
    (there / "recipe.yaml").write_text("mine\n")
    with pytest.raises(UsageError, match=r"holds something else: recipe\.yaml"):
        run.mirror(f"file://{there}").start()
    assert [entry.name for entry in there.iterdir()] == ["recipe.yaml"]


def test_a_run_that_meets_another_runs_mirror_later_goes_on_without(run: ARun, proxy: Any, tmp_path: Path) -> None:
    url = f"s3://{proxy.bucket}/run"
    mirrored_before = run.mirror(url)
    mirrored_before.start()
    mirrored_before.saved(run.save(10))
    assert mirrored_before.finish(10)
    other = ARun(tmp_path / "other" / "run", seed=1)
    proxy.mode = "refuse"
    mirror = other.mirror(url)
    mirror.start()
    mirror.saved(other.save(50))
    proxy.mode = "pass"
    wait(lambda: any("holds another run" in line for line in other.said))
    mirror.saved(other.save(60))
    mirror.finish(5)
    assert steps_in(url) == ["step-0000010"]


def test_a_mirror_that_cannot_be_written_to_is_refused_when_a_run_begins(run: ARun, proxy: Any) -> None:
    with pytest.raises(
        UsageError, match="cannot be written to: FileNotFoundError: The specified bucket does not exist"
    ):
        run.mirror("s3://no-such-bucket-at-all/run").start()
