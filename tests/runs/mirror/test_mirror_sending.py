"""Checkpoints are copied to a mirror: whole or not there, the newest first, and never in the way of the run."""

import errno
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mirrored_runs import ARun, content, mirrored, steps_in, wait

import groundup
from groundup.runs.mirror import sending as mirror_module
from groundup.runs.mirror.restore import run_from_mirror
from groundup.runs.train import Run
from groundup.tracking import Tracker

pytestmark = pytest.mark.usefixtures("quick")


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
