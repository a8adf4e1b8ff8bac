"""Copies of checkpoints in a mirror: whole or not there, never in the way of the run, never over another run's, and back again.

The mirror is an S3 server on loopback with a proxy before it that fails on demand, a folder, or a small Hub.
"""

import errno
import importlib.util
import json
import os
import re
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import groundup
from groundup.basis.errors import CheckpointError, UsageError
from groundup.recipe import Recipe, load_recipe
from groundup.runs.folder import RunFolder
from groundup.runs.identity import identity_of
from groundup.runs.mirror import restore as mirror_restore
from groundup.runs.mirror import sending as mirror_module
from groundup.runs.mirror.files import whole
from groundup.runs.mirror.places import open_place
from groundup.runs.mirror.restore import bring_up_to_date, run_from_mirror
from groundup.runs.mirror.sending import Mirror
from groundup.runs.train import Run
from groundup.tracking import Tracker
from groundup.training import CheckpointStore, Sums, TrainingState

SAID: list[str] = []
ROOT = Path(__file__).parents[3]


def loaded(path: Path) -> ModuleType:
    """A Python file that is not part of the package."""
    name = f"for_mirrors_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


outages = loaded(ROOT / "bench" / "outages.py")


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with outages.s3_server() as port:
        yield port


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The proxy before the S3 server, which has an empty bucket `bucket-NAME`; the environment points to it."""
    proxy = outages.Proxy(s3_port)
    proxy.bucket = re.sub(r"[^a-z0-9]", "-", f"b-{tmp_path.name.lower()}")[:60].strip("-")
    outages.make_bucket(s3_port, proxy.bucket)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in outages.environment(proxy.url).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "PAUSES", (0.05, 0.2))
    monkeypatch.setattr(mirror_restore, "FIRST_PAUSE", 0.05)


class ARun:
    """A run folder that grows: checkpoints whose weights are their step, `megabytes` each, and the files beside them."""

    def __init__(self, path: Path, seed: int = 0, megabytes: float = 0.02) -> None:
        self.folder = RunFolder(path)
        path.mkdir(parents=True, exist_ok=True)
        self.recipe: Recipe = load_recipe("digits", [f"seed={seed}"])
        self.folder.write_recipe(self.recipe)
        (path / "environment.json").write_text('{"format": 1, "cpu": "a processor", "gpu": null, "resumed_on": []}\n')
        (path / "classifier.json").write_text("{}\n")
        self.numbers = max(1, round(megabytes * 1e6 / 4 / 2))
        self.said = SAID
        SAID.clear()

    def save(self, step: int, best: int | None = None, on_saved: Any = None) -> Path:
        """A checkpoint, with a line in metrics.jsonl before it."""
        with open(self.folder.metrics_file, "a") as lines:
            lines.write(json.dumps({"step": step}) + "\n")
        model = nn.Linear(self.numbers, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.full((1, self.numbers), float(step)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.rand_like(parameter)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        state = TrainingState(model, optimizer, scaler, Sums.zeros(torch.device("cpu")), step=step, evaluated_at=step)
        state.best = None if best is None else {"step": best, "validation_top1": 0.5}
        store = CheckpointStore(self.folder.path / "checkpoints", on_saved=on_saved)
        return store.save(state, {"device": "cpu"})

    def mirror(self, url: str, **settings: Any) -> Mirror:
        """Its mirror at `url`, which is the address of this very run."""
        identity = identity_of(self.recipe, "data-1")
        settings = {"begins": not list(self.folder.path.glob("checkpoints/step-*")), **settings}
        return Mirror(open_place(url), self.folder.path, identity, self.said.append, **settings)


@pytest.fixture
def run(tmp_path: Path) -> ARun:
    return ARun(tmp_path / "here" / "run")


def steps_in(url: str) -> list[str]:
    return whole(open_place(url).names())


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def wait(happened: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"nothing for {seconds} s: {SAID}"
        time.sleep(0.01)


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


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "a file system without hard links"])
def test_a_checkpoint_that_the_run_has_removed_meanwhile_still_arrives(
    run: ARun, proxy: Any, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", refused)
    url = f"s3://{proxy.bucket}/run"
    proxy.mode = "refuse"
    mirror = run.mirror(url, begins=False)
    mirror.start()
    mirror.saved(run.save(10))
    shutil.rmtree(run.folder.path / "checkpoints" / "step-0000010")
    proxy.mode = "pass"
    wait(lambda: mirror.uploaded)
    assert mirror.finish(10)
    assert steps_in(url) == ["step-0000010"]


def test_a_slow_mirror_gets_the_newest_and_never_holds_up_the_run(tmp_path: Path, proxy: Any) -> None:
    proxy.rate = 500_000
    run = ARun(tmp_path / "run", megabytes=0.5)
    mirror = run.mirror(f"s3://{proxy.bucket}/run")
    mirror.start()
    proxy.mode = "slow"
    took = []
    for step in range(1, 9):
        checkpoint = run.save(step)
        started = time.perf_counter()
        mirror.saved(checkpoint)
        took.append(time.perf_counter() - started)
    assert max(took) < 0.3, "handing over waits for nothing; one upload takes a second and more"
    assert sorted(took)[4] < 0.05
    assert mirror.finish(30)
    assert steps_in(f"s3://{proxy.bucket}/run")[0] == "step-0000008"
    assert mirror.passed_over >= 4
    assert mirror.uploaded + mirror.passed_over == 8


def test_at_most_two_checkpoints_are_held_for_uploads(run: ARun, proxy: Any) -> None:
    proxy.mode = "stall"
    mirror = run.mirror(f"s3://{proxy.bucket}/run", begins=False)
    mirror.start(0.1)
    for step in range(1, 8):
        mirror.saved(run.save(step))
    assert len(list((run.folder.path / "checkpoints").glob(".mirroring-*"))) <= 2
    proxy.mode = "pass"
    mirror.finish(20)


@pytest.mark.parametrize("mode", ["errors", "refuse", "cut"])
def test_a_failing_mirror_is_said_once_and_caught_up_with(tmp_path: Path, proxy: Any, mode: str) -> None:
    url = f"s3://{proxy.bucket}/run"
    run = ARun(tmp_path / "run", megabytes=0.2)
    mirror = run.mirror(url)
    mirror.start()
    mirror.saved(run.save(10))
    wait(lambda: mirror.uploaded == 1)
    proxy.mode = mode
    mirror.saved(run.save(20))
    wait(lambda: mirror.failed >= 1)
    mirror.saved(run.save(30))
    wait(lambda: mirror.failed >= 3)
    assert len([line for line in run.said if "the upload is tried again" in line]) == 1
    proxy.mode = "pass"
    assert "step-0000020" not in steps_in(url), "what failed does not count"
    wait(lambda: mirror.uploaded == 2)
    wait(lambda: any("works again, step-0000030 is there" in line for line in run.said))
    assert mirror.finish(10)
    assert re.search(r"2 checkpoints copied, 1 passed over for newer ones, \d+ attempts failed$", run.said[-1])
    back = run_from_mirror(url, tmp_path / "back", run.said.append)
    assert content(back / "checkpoints/step-0000030") == content(run.folder.path / "checkpoints/step-0000030")


def test_an_upload_that_was_cut_off_leaves_the_one_before_it(tmp_path: Path, proxy: Any) -> None:
    url = f"s3://{proxy.bucket}/run"
    run = ARun(tmp_path / "run", megabytes=0.2)
    mirror = run.mirror(url)
    mirror.start()
    mirror.saved(run.save(10))
    wait(lambda: mirror.uploaded == 1)
    proxy.mode = "cut"
    mirror.saved(run.save(20))
    wait(lambda: mirror.failed >= 1)
    mirror.finish(0.1)  # the machine is gone
    proxy.mode = "pass"
    assert steps_in(url) == ["step-0000010"], "the other has no manifest"
    back = run_from_mirror(url, tmp_path / "back", run.said.append)
    assert os.readlink(back / "checkpoints/last") == "step-0000010"
    assert (back / "metrics.jsonl").read_text() == '{"step": 10}\n', "the measurements are those of the checkpoint"


class Stopwatch(Tracker):
    """When the first and the last step of a run were told; `at_last` is called then."""

    def __init__(self, last: int, at_last: Callable[[], None]) -> None:
        self.last, self.at_last = last, at_last
        self.at: list[float] = []

    def step(self, record: Any) -> None:
        self.at.append(time.perf_counter())
        if record["step"] == self.last:
            self.at_last()


def test_no_step_waits_for_a_slow_mirror(proxy: Any, tiny: list[str], tmp_path: Path) -> None:
    settings = [*tiny, "checkpoint.every=1step", "track={tensorboard: false, step_every: 1}"]
    slow = [f"checkpoint.mirror=s3://{proxy.bucket}"]
    proxy.rate = 100_000  # bytes/s
    took = []
    for mode, to in (("pass", []), ("slow", slow)):
        proxy.mode = mode
        watch = Stopwatch(6, lambda: setattr(proxy, "rate", 10_000_000))
        run = groundup.train("digits", [*settings, *to], run=tmp_path / mode / "run", terminal=watch, pictures=False)
        took.append(watch.at[-1] - watch.at[0])
        if mode == "pass":
            size = sum(file.stat().st_size for file in (run.folder / "checkpoints/last/").iterdir())
            proxy.rate = size // 3  # an upload takes 3 s
    alone, mirrored = took
    assert mirrored < alone + 6, "six uploads of 3 s each, of which the loop waits for none"
    assert steps_in(f"s3://{proxy.bucket}/run")[0] == "step-0000006"


def mirrored(run: ARun, url: str, steps: tuple[int, ...] = (10, 20), best: int | None = None) -> Path:
    """Copies of these steps in a folder; returns it."""
    mirror = run.mirror(url, keep=3)
    mirror.start()
    for number, step in enumerate(steps, start=1):
        mirror.saved(run.save(step, best=best))
        wait(lambda number=number: mirror.uploaded == number)
    assert mirror.finish(10)
    return Path(url.removeprefix("file://"))


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


def test_a_manifest_cannot_write_outside_the_run_folder(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    file = mirrored(run, url, (10,)) / "checkpoints/step-0000010/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["run"]["../../evil"] = manifest["run"]["recipe.yaml"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        run_from_mirror(url, tmp_path / "back", run.said.append)
    assert not list(tmp_path.rglob("evil"))


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


def test_a_silent_mirror_holds_up_neither_start_nor_end_beyond_the_stated_time(run: ARun, proxy: Any) -> None:
    proxy.mode = "stall"
    mirror = run.mirror(f"s3://{proxy.bucket}/run")
    started = time.monotonic()
    mirror.start(0.5)
    mirror.saved(run.save(10))
    assert not mirror.finish(1.0)
    assert time.monotonic() - started < 20, "0.5 s and 1 s were allowed; the client alone would wait for a minute"
    assert any("no answer within" in line for line in run.said)
    assert run.said[-1].endswith("the last upload was given up, what it held lies on this disk alone")
    proxy.mode = "pass"


def test_the_last_upload_is_cut_short_when_the_run_is_told_to_stop(
    run: ARun, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "WHEN_STOPPED", 0.5)
    proxy.mode = "stall"
    mirror = run.mirror(f"s3://{proxy.bucket}/run")
    mirror.start(0.1)
    mirror.saved(run.save(10))
    started = time.monotonic()
    assert not mirror.finish(60, results=True, stopped=lambda: time.monotonic() > started + 0.3)
    assert time.monotonic() - started < 20, "of the 60 s"
    proxy.mode = "pass"


def test_an_upload_that_is_given_up_ends_and_leaves_nothing_behind(tmp_path: Path, proxy: Any) -> None:
    run = ARun(tmp_path / "run", megabytes=0.4)
    url = f"s3://{proxy.bucket}/run"
    mirror = run.mirror(url)
    mirror.start()
    proxy.rate, proxy.mode = 100_000, "slow"
    mirror.saved(run.save(10))
    wait(lambda: mirror._busy)
    thread = mirror._thread
    assert thread is not None
    assert not mirror.finish(0.5)
    assert not list((run.folder.path / "checkpoints").glob(".*")), "no links are left"
    proxy.rate = 10_000_000
    thread.join(20)
    assert not thread.is_alive()
    assert steps_in(url) == [], "what was not sent by then is not sent in secret"


def test_credentials_that_may_not_delete_still_copy_and_what_stays_is_said_once(run: ARun, proxy: Any) -> None:
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject"}
    policy = {
        "Version": "2012-10-17",
        "Statement": [{**statement, "Resource": f"arn:aws:s3:::{proxy.bucket}/*"}],
    }
    address = f"http://127.0.0.1:{proxy.target}/{proxy.bucket}?policy"
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, data=json.dumps(policy).encode(), method="PUT", headers=kind)
    urllib.request.urlopen(request, timeout=10).close()
    url = f"s3://{proxy.bucket}/run"
    mirror = run.mirror(url, keep=1)
    mirror.start()
    for number, step in enumerate((10, 20, 30), start=1):
        mirror.saved(run.save(step))
        wait(lambda number=number: mirror.uploaded == number)
    assert mirror.finish(10)
    assert mirror.failed == 0
    assert steps_in(url) == ["step-0000030", "step-0000020", "step-0000010"]
    assert len([line for line in run.said if "old copies stay, they may not be removed: PermissionError" in line]) == 1


@pytest.fixture(scope="module")
def over(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A finished run with a mirror in a folder, and where that is."""
    place = tmp_path_factory.mktemp("over")
    settings = [*tiny, "train.epochs=1", "track.tensorboard=false", f"checkpoint.mirror=file://{place}/there"]
    return groundup.train("digits", settings, run=place / "run", pictures=False), place / "there" / "run"


@pytest.mark.parametrize("lacking", ["all of it", "the last manifest", "the result", "nothing"])
def test_a_finished_run_that_is_asked_for_again_completes_its_mirror(over: tuple[Run, Path], lacking: str) -> None:
    run, there = over
    before = content(there)
    if lacking == "all of it":
        shutil.rmtree(there)
    elif lacking == "the last manifest":
        next(there.glob("checkpoints/*/manifest.json")).unlink()
    elif lacking == "the result":
        (there / "summary.json").unlink()
    told = Told()
    assert groundup.resume(run.folder, terminal=told).summary == run.summary
    assert content(there).keys() == before.keys()
    assert run_from_mirror(f"file://{there}", run.folder, lambda text: None) == run.folder, "a folder of this very run"
    copied = "1 checkpoints copied" if lacking in ("all of it", "the last manifest") else "all of it was there already"
    assert told.said == [f"mirror file://{there}: {copied}"]


def test_a_finished_run_whose_mirror_fails_or_is_anothers_is_still_returned(
    over: tuple[Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, there = over
    claim = (there / "run.json").read_text()
    (there / "run.json").write_text(claim.replace('"seed": 0', '"seed": 7'))
    told = Told()
    assert groundup.resume(run.folder, terminal=told).summary == run.summary
    assert "holds another run: seed: 7 there, 0 here" in told.said[0]
    (there / "run.json").write_text(claim)
    before = content(there)
    other = groundup.resume(f"file://{there}", into=tmp_path / "looked-at", terminal=told)
    assert other.summary == run.summary
    assert not (there.parent / "looked-at").exists(), "who reads a run under another name sends nothing"
    assert content(there) == before


class Told(Tracker):
    """What a person would have read."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_copies_keep_their_distance_but_the_last_is_always_made(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirror = run.mirror(url, every=20, keep=10)
    mirror.start()
    for step in (10, 20, 30, 40, 50, 55):
        mirror.saved(run.save(step))
        time.sleep(0.05)
    assert mirror.finish(10)
    assert steps_in(url) == ["step-0000055", "step-0000050", "step-0000030", "step-0000010"]


def test_the_best_goes_with_the_newest_even_if_it_was_not_copied_in_its_turn(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirror = run.mirror(url, every=100, keep=1)
    mirror.start()
    for step, best in ((10, 10), (20, 20), (30, 20)):
        mirror.saved(run.save(step, best=best))
    assert mirror.finish(10)
    assert steps_in(url) == ["step-0000030", "step-0000020"]
    back = run_from_mirror(url, tmp_path / "back", run.said.append)
    assert os.readlink(back / "checkpoints/best") == "step-0000020"


def test_a_checkpoint_of_the_same_step_with_other_content_replaces_it(run: ARun, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there/run"
    mirrored(run, url, (10,))
    shutil.rmtree(run.folder.path / "checkpoints" / "step-0000010")
    mirror = run.mirror(url, begins=False)
    mirror.start()
    mirror.saved(run.save(10))  # its momentum is drawn anew
    assert mirror.finish(10)
    back = run_from_mirror(url, tmp_path / "back", run.said.append)
    assert content(back / "checkpoints/step-0000010") == content(run.folder.path / "checkpoints/step-0000010")


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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = loaded(ROOT / "tests" / "ship" / "loopback_hub.py")
    with module.LoopbackHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        import huggingface_hub.constants as constants

        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub of its HTTP client
def test_on_the_hub_every_copy_is_one_commit_and_comes_back(run: ARun, hub: Any, tmp_path: Path) -> None:
    mirror = run.mirror("hf:acme/digits", keep=1)
    mirror.start()
    for number, step in enumerate((10, 20), start=1):
        mirror.saved(run.save(step))
        wait(lambda number=number: mirror.uploaded == number)
    assert mirror.finish(20)
    (repo,) = hub.repos.values()
    assert repo.private
    assert [title for title in repo.titles if "step" in title] == ["mirror: step-0000010", "mirror: step-0000020"]
    assert steps_in("hf:acme/digits") == ["step-0000020"]
    back = run_from_mirror("hf:acme/digits", tmp_path / "back", run.said.append)
    assert content(back / "checkpoints/step-0000020") == content(run.folder.path / "checkpoints/step-0000020")
    written = b"".join([*content(run.folder.path).values(), *content(back).values(), "\n".join(run.said).encode()])
    assert hub.token.encode() not in written


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_hub_that_fails_is_tried_again(run: ARun, hub: Any) -> None:
    mirror = run.mirror("hf:acme/digits")
    mirror.start()
    hub.fail = lambda method, path: (500, "broken") if "commit" in path else None
    mirror.saved(run.save(10))
    wait(lambda: mirror.failed >= 1, 60)
    assert steps_in("hf:acme/digits") == []
    hub.fail = lambda method, path: None
    wait(lambda: mirror.uploaded == 1, 60)
    assert mirror.finish(10)
    assert hub.token not in "\n".join(run.said)
