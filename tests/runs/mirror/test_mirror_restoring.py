"""A run comes back from its mirror: byte for byte, past damaged copies, and never over what is newer or another run's."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from mirrored_runs import ARun, content, mirrored, steps_in, wait

from groundup.basis.errors import CheckpointError, UsageError
from groundup.runs.mirror.places import open_place
from groundup.runs.mirror.restore import bring_up_to_date, run_from_mirror

pytestmark = pytest.mark.usefixtures("quick")


def damage(file: Path) -> None:
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of the run in a mirror of either kind."""
    if request.param == "file":
        return f"file://{tmp_path}/there/run"
    return f"s3://{request.getfixturevalue('proxy').bucket}/some/prefix/run"


def test_a_run_comes_back_from_its_mirror_byte_for_byte(run: ARun, url: str, tmp_path: Path) -> None:
    mirror = run.mirror(url, keep=2)
    mirror.start()
    for step in (10, 20, 30, 40):
        run.save(step, best=10, on_saved=mirror.saved)
        wait(lambda: mirror.uploaded, 20)
        mirror.uploaded = 0
    (run.folder.path / "summary.json").write_text('{"steps": 40}\n')
    assert mirror.finish(20, results=True)
    assert steps_in(url) == ["step-0000040", "step-0000030", "step-0000010"], "the newest two and the best"
    back = run_from_mirror(url, tmp_path / "back", run.said.append)
    here = {name: bytes_ for name, bytes_ in content(run.folder.path).items() if "step-0000030" not in name}
    assert content(back) == here
    assert os.readlink(back / "checkpoints/last") == "step-0000040"
    assert os.readlink(back / "checkpoints/best") == "step-0000010"
    assert not list(tmp_path.glob(".back*")), "nothing is left beside it"
    assert not list((run.folder.path / "checkpoints").glob(".*")), "no links are left"


@pytest.mark.parametrize("what", ["model.safetensors", "state.pt", "manifest.json", "missing", "no manifest"])
def test_a_damaged_or_half_written_copy_is_skipped_with_a_message(run: ARun, tmp_path: Path, what: str) -> None:
    url = f"file://{tmp_path}/there/run"
    there = mirrored(run, url) / "checkpoints/step-0000020"
    if what == "missing":
        (there / "state.pt").unlink()
    elif what == "no manifest":
        (there / "manifest.json").unlink()
    elif what == "manifest.json":
        (there / what).write_bytes((there / what).read_bytes()[:-40])
    else:
        damage(there / what)
    back = run_from_mirror(url, tmp_path / "back", run.said.append)
    assert os.readlink(back / "checkpoints/last") == "step-0000010"
    assert not (back / "checkpoints/step-0000020").exists()
    said = "\n".join(run.said)
    assert ("step-0000020 was never finished" if what == "no manifest" else "step-0000020 is damaged") in said


def test_a_copy_whose_best_is_damaged_is_not_used(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    there = mirrored(run, url, (10, 20, 30), best=20)
    damage(there / "checkpoints/step-0000020/model.safetensors")
    back = run_from_mirror(url, tmp_path / "back", run.said.append)
    assert os.readlink(back / "checkpoints/last") == "step-0000010"


def test_the_checkpoint_before_a_damaged_one_is_used_though_the_best_has_moved(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirror = run.mirror(url, keep=2)
    mirror.start()
    for number, (step, best) in enumerate([(10, 10), (20, 10), (30, 30)], start=1):
        mirror.saved(run.save(step, best=best))
        wait(lambda number=number: mirror.uploaded == number)
    damage(tmp_path / "there/run/checkpoints/step-0000030/model.safetensors")
    back = run_from_mirror(url, tmp_path / "back", run.said.append)
    assert os.readlink(back / "checkpoints/last") == "step-0000020"
    assert os.readlink(back / "checkpoints/best") == "step-0000010"
    for number, step in enumerate([40, 50], start=4):
        mirror.saved(run.save(step, best=30))
        wait(lambda number=number: mirror.uploaded == number)
    assert mirror.finish(10)
    assert steps_in(url) == [f"step-00000{step}" for step in (50, 40, 30)], "10 goes when nothing kept names it"


def test_a_mirror_with_nothing_whole_in_it_is_an_error_and_makes_no_folder(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    there = mirrored(run, url, (10, 20))
    for step in (10, 20):
        damage(there / f"checkpoints/step-{step:07d}/model.safetensors")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        run_from_mirror(url, tmp_path / "back", run.said.append)
    assert not (tmp_path / "back").exists()


def test_a_mirror_without_a_run_says_which_runs_lie_below(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirror = run.mirror(url)
    mirror.start()
    mirror.saved(run.save(10))
    assert mirror.finish(10)
    with pytest.raises(UsageError, match=r"there is no run\nhint: runs below it: run"):
        run_from_mirror(url.rpartition("/")[0], tmp_path / "back", run.said.append)
    with pytest.raises(UsageError, match="there is no run"):
        run_from_mirror(f"{url}-other", tmp_path / "back", run.said.append)


def test_a_manifest_cannot_write_outside_the_run_folder(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    file = mirrored(run, url, (10,)) / "checkpoints/step-0000010/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["run"]["../../evil"] = manifest["run"]["recipe.yaml"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        run_from_mirror(url, tmp_path / "back", run.said.append)
    assert not list(tmp_path.rglob("evil"))


def test_an_older_folder_takes_the_newer_checkpoint_and_keeps_its_own(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirror = run.mirror(url)
    mirror.start()
    mirror.saved(run.save(10))
    wait(lambda: mirror.uploaded == 1)
    old = Path(shutil.copytree(run.folder.path, tmp_path / "old", symlinks=True))
    mirror.saved(run.save(20))
    assert mirror.finish(10)
    said: list[str] = []
    run_from_mirror(url, old, said.append)
    assert "step 20 is newer than step 10 here; going on from it" in said[-1]
    assert os.readlink(old / "checkpoints/last") == "step-0000020"
    assert (old / "checkpoints/step-0000010").is_dir()
    assert (old / "metrics.jsonl").read_bytes() == (run.folder.path / "metrics.jsonl").read_bytes()


def test_a_newer_folder_stays_as_it_is(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirrored(run, url, (10,))
    run.save(20)
    before = content(run.folder.path)
    bring_up_to_date(run.folder, open_place(url), run.said.append)
    assert "nothing newer than step 20" in run.said[-1]
    assert content(run.folder.path) == before


def test_a_folder_whose_checkpoints_are_all_damaged_is_mended_from_the_mirror(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirrored(run, url, (10, 20))
    whole_ones = content(run.folder.path)
    for step in (10, 20):
        damage(run.folder.path / f"checkpoints/step-{step:07d}/state.pt")
    bring_up_to_date(run.folder, open_place(url), run.said.append)
    name = "checkpoints/step-0000020/state.pt"
    assert content(run.folder.path)[name] == whole_ones[name]


def test_a_folder_of_another_run_is_not_touched(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirrored(run, url, (10,))
    other = ARun(tmp_path / "other", seed=5)
    other.save(3)
    before = content(other.folder.path)
    with pytest.raises(UsageError, match="is not the run of the mirror"):
        run_from_mirror(url, other.folder.path, run.said.append)
    assert content(other.folder.path) == before


def test_a_download_survives_a_bad_connection(run: ARun, proxy: Any, tmp_path: Path) -> None:
    url = f"s3://{proxy.bucket}/run"
    mirror = run.mirror(url)
    mirror.start()
    mirror.saved(run.save(10))
    assert mirror.finish(10)
    proxy.mode = "errors"
    threading.Timer(0.1, lambda: setattr(proxy, "mode", "pass")).start()
    back = run_from_mirror(url, tmp_path / "back", run.said.append)
    assert os.readlink(back / "checkpoints/last") == "step-0000010"
