"""Weights & Biases for real, offline: what is in its file, and that nothing of it can hold up or end a run."""

import getpass
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from groundup.basis.errors import GroundupError
from groundup.tracking import TensorBoardTracker, Trackers, TrackSettings, WandbTracker
from groundup.tracking import read as read_metrics

STEP = {"step": 10, "epoch": 0.5, "loss": 1.5, "top1": 0.25, "lr": 0.5, "images_per_second": 4000.0, "note": "x"}
EVALUATION = {"step": 20, "epoch": 1.0, "lr": 0.25, "train_loss": 1.25, "validation_top1": 0.5, "pflop": 0.125}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "digits-001").mkdir()
    return tmp_path / "digits-001"


def contents(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: after 7 bytes of header, LevelDB's log format in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    stored, position, whole = file.read_bytes(), 7, b""
    while position + 7 <= len(stored):
        if 32768 - position % 32768 < 7:  # the rest of a block, too short for a header
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", stored, position + 4)  # 1 whole, 2 first, 3 middle, 4 last
        whole += stored[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def files(folder: Path) -> list[Path]:
    """The .wandb file of each start, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def history(file: Path) -> dict[str, list[tuple[int, Any]]]:
    """Name -> [(step, value)]; a picture is a dictionary."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for record in contents(file):
        row: dict[str, Any] = {}
        for item in record.history.item:
            name, *inner = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            row[name] = {**row.get(name, {}), inner[0]: value} if inner else value
        for name, value in row.items():
            if not name.startswith("_"):
                found.setdefault(name, []).append((row["_step"], value))
    return found


def service_of(tracker: WandbTracker) -> psutil.Process:
    """wandb's own service process, once it runs."""
    assert tracker._process
    process = psutil.Process(tracker._process._process.pid)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in process.children(recursive=True):
            if "wandb-core" in child.name() and list(tracker.folder.glob("wandb/offline-run-*/*.wandb")):
                return child
        time.sleep(0.05)
    raise AssertionError("wandb did not start")


def test_offline_it_writes_scalars_under_tensorboards_names_pictures_and_the_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    home = folder.parent / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "a-user-with-a-name")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    board, tracker = TensorBoardTracker(folder / "tensorboard"), WandbTracker(folder, "offline", "my-project")
    for each in (board, tracker):
        each.start({"name": "digits", "total_steps": 20, "recipe": {"seed": 3, "model": {"name": "resnet"}}})
        each.step(STEP)
        each.evaluation(EVALUATION)
        each.step({**STEP, "step": 30, "mixed": 0.75})
        each.evaluation({**EVALUATION, "step": 40, "mixed": 0.75})
        each.result({"step": 40, "test_loss": 1.5, "test_top1": 0.5, "test_top5": 0.75})
        each.image("samples", pixels, 40)
        each.close()

    (file,) = files(folder)
    told = history(file)
    accumulated = EventAccumulator(str(folder / "tensorboard")).Reload()
    scalars = {tag: [(e.step, e.value) for e in accumulated.Scalars(tag)] for tag in accumulated.Tags()["scalars"]}
    assert len(scalars) == 12
    assert {"train/top1", "train/top1_mixed", "live/mixed", "test/loss", "test/top1", "test/top5"} <= scalars.keys()
    assert {name: values for name, values in told.items() if name != "samples"} == scalars
    assert [tag for tag in told if tag not in scalars] == accumulated.Tags()["images"] == ["samples"]
    ((step, picture),) = told["samples"]
    with Image.open(file.parent / "files" / picture["path"]) as image:
        assert (step, np.array_equal(np.asarray(image), pixels)) == (40, True)

    (run,) = [record.run for record in contents(file) if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["seed"] == 3
    assert config["model"] == {"name": "resnet"}
    assert (run.project, run.display_name, run.host) == ("my-project", "digits-001", "")
    (end,) = [record.exit for record in contents(file) if record.HasField("exit")]
    assert end.exit_code == 0

    assert not list(home.rglob("*"))
    written = b"".join(path.read_bytes() for path in folder.glob("wandb/**/*") if path.is_file())
    secrets = {str(folder.parent), str(Path.cwd()), str(Path.home()), socket.gethostname(), getpass.getuser()}
    leaks = [secret for secret in secrets if len(secret) > 4 and secret.encode() in written]
    assert leaks == []


def test_a_run_with_track_wandb_offline_writes_what_metrics_jsonl_has_and_asks_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import groundup

    with socket.create_server(("127.0.0.1", 0)) as nobody:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        overrides = [
            "model.width=8",
            "data.limit=150",
            "data.validation=0.3",
            "train={epochs: 2, batch_size: 25, threads: 1}",
        ]
        overrides += ["track={tensorboard: false, wandb: offline, wandb_project: mine, step_every: 2}"]
        run = groundup.train("digits", overrides, run=folder.parent / "run", pictures=False)
        nobody.setblocking(False)
        with pytest.raises(BlockingIOError):
            nobody.accept()

    (file,) = files(run.folder)
    told, lines = history(file), read_metrics(run.folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [4, 8]
    for name, key in (("validation/top1", "validation_top1"), ("validation/loss", "validation_loss")):
        assert told[name] == [(line["step"], pytest.approx(line[key])) for line in lines]
    assert [step for step, _ in told["train/loss"]] == [2, 4, 6, 8]
    (record,) = [each.run for each in contents(file) if each.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in record.config.update}
    assert record.project == "mine"
    assert config["train"]["batch_size"] == 25
    assert [each.exit.exit_code for each in contents(file) if each.HasField("exit")] == [0]


def test_a_resume_goes_on_under_the_same_id(folder: Path) -> None:
    for steps in ((10, 20), (20, 30)):
        tracker = WandbTracker(folder, "offline")
        tracker.start({"name": "digits", "step": steps[0] - 10})
        for step in steps:
            tracker.step({**STEP, "step": step})
        tracker.close()
    runs = [record.run for file in files(folder) for record in contents(file) if record.HasField("run")]
    assert len(runs) == 2
    assert {run.run_id for run in runs} == {(folder / "wandb" / "id").read_text().strip()}
    assert [[step for step, _ in history(file)["train/loss"]] for file in files(folder)] == [[10, 20], [20, 30]]


def test_two_runs_have_different_ids(tmp_path: Path) -> None:
    ids = set()
    for name in ("a", "b"):
        WandbTracker(tmp_path / name, "offline")
        ids.add((tmp_path / name / "wandb" / "id").read_text())
    assert len(ids) == 2


def test_a_step_takes_far_less_than_a_millisecond_even_while_wandb_starts(folder: Path) -> None:
    tracker = WandbTracker(folder, "offline")
    tracker.start({"name": "digits"})
    times = []
    for step in range(1, 1001):
        started = time.perf_counter()
        tracker.step({**STEP, "step": step})
        times.append(time.perf_counter() - started)
    tracker.close()
    assert sorted(times)[500] < 0.0005, f"median {sorted(times)[500] * 1e6:.0f} us"
    assert len(history(files(folder)[0])["train/loss"]) == 1000


def test_a_killed_service_is_reported_and_dropped_and_the_run_goes_on(folder: Path) -> None:
    reports: list[str] = []
    tracker = WandbTracker(folder, "offline", closing_seconds=20)
    trackers = Trackers([tracker], report=reports.append)
    trackers.start({"name": "digits"})
    service_of(tracker).kill()
    started = time.monotonic()
    for step in range(1, 10_000):
        trackers.step({**STEP, "step": step})
        if reports or time.monotonic() > started + 30:
            break
        time.sleep(0.02)
    assert trackers.members == []
    assert len(reports) == 1
    assert reports[0].startswith("WandbTracker failed and is dropped: GroundupError: wandb ended: ")
    assert time.monotonic() - started < 30


def test_a_service_that_hangs_does_not_keep_the_run_from_ending(folder: Path) -> None:
    tracker = WandbTracker(folder, "offline", closing_seconds=1)
    tracker.start({"name": "digits"})
    service = service_of(tracker)
    service.suspend()
    for step in range(1, 100):
        tracker.step({**STEP, "step": step})
    started = time.monotonic()
    with pytest.raises(GroundupError, match=r"wandb did not finish within 1 s and was ended; .* in digits-001/wandb"):
        tracker.close()
    assert time.monotonic() - started < 10
    assert not service.is_running() or service.status() == psutil.STATUS_ZOMBIE
    tracker.close()


def test_a_wandb_that_takes_nothing_is_given_up_before_it_fills_the_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundup.tracking.background.WAITING", 50)
    tracker = WandbTracker(folder, "offline", closing_seconds=60)
    tracker.start({"name": "digits"})
    assert tracker._process
    tracker._process._process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    step = 0

    def fill() -> None:
        nonlocal step
        while (step := step + 1) < 5000:
            tracker.step({**STEP, "step": step})

    with pytest.raises(GroundupError, match="wandb has not answered for 50 records"):
        fill()
    with pytest.raises(GroundupError, match="takes nothing any more and was ended"):
        tracker.close()
    assert time.monotonic() - started < 10


def test_a_killed_run_leaves_a_whole_file_that_is_marked_as_failed(folder: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from groundup.tracking import WandbTracker\n"
        "tracker = WandbTracker(Path(sys.argv[1]), 'offline'); tracker.start({'name': 'digits'})\n"
        "for step in range(1, 51): tracker.step({'step': step, 'loss': 1.0})\n"
        "while not list(Path(sys.argv[1]).glob('wandb/offline-run-*/*.wandb')): time.sleep(0.05)\n"
        "time.sleep(0.5); print('told', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "told\n"
        (child,) = [each for each in psutil.Process(process.pid).children() if "wandb_process" in str(each.cmdline())]
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([child], timeout=30)
    (file,) = files(folder)
    assert [step for step, _ in history(file)["train/loss"]] == list(range(1, 51))
    assert [record.exit.exit_code for record in contents(file) if record.HasField("exit")] == [1]


def test_online_without_a_login_says_so_instead_of_asking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    tracker = WandbTracker(folder, "online")
    tracker.start({"name": "digits"})
    with pytest.raises(GroundupError, match=r"wandb ended: .*[Nn]o API key configured"):
        tracker.close()


def test_a_missing_package_names_the_extra_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    with pytest.raises(ImportError, match=r"track\.wandb=offline: .* not installed; .*'groundup\[wandb\]'"):
        WandbTracker(folder, "offline")
    assert not list(folder.iterdir())


def test_it_is_off_unless_asked_for_and_a_project_is_a_plain_name() -> None:
    assert (TrackSettings().wandb, TrackSettings().wandb_project) == ("off", None)
    for wrong in ({"wandb": "on"}, {"wandb_project": "a/b"}, {"wandb_project": ""}):
        with pytest.raises(ValueError, match="wandb"):
            TrackSettings(**wrong)  # type: ignore[arg-type]
