"""TensorBoard files, read back by TensorBoard's own reader."""

import os
import signal
import socket
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from groundup.basis.errors import GroundupError
from groundup.tracking import TensorBoardTracker, Trackers


def opened(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def scalar(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 6)) for event in opened(folder).Scalars(tag)]


def told(tracker: TensorBoardTracker, first: int, last: int, top1: float) -> None:
    for step in range(first, last + 1, 10):
        tracker.step({"step": step, "epoch": step / 100, "loss": 2.0, "top1": top1, "lr": 0.5, "momentum": 0.75})


def last_step(folder: Path) -> int:
    found = opened(folder)
    return found.Scalars("train/loss")[-1].step if "train/loss" in found.Tags()["scalars"] else 0


class SlowDisk(TensorBoardTracker):
    """A disk that takes `pause` seconds for a record, and refuses the `full_after`-th and all later ones."""

    pause, full_after, taken = 0.02, 10**9, 0

    def _store(self, record: bytes) -> None:
        time.sleep(self.pause)
        self.taken += 1
        if self.taken >= self.full_after:
            raise OSError(28, "No space left on device")
        super()._store(record)


def test_steps_do_not_wait_for_a_slow_disk_and_closing_loses_none_of_them(tmp_path: Path) -> None:
    tracker = SlowDisk(tmp_path)
    started = time.monotonic()
    told(tracker, 10, 500, 0.5)
    assert time.monotonic() - started < 0.5, "writing them takes a second"
    tracker.close()
    assert time.monotonic() - started > 1
    assert [step for step, _ in scalar(tmp_path, "train/loss")] == list(range(10, 501, 10))
    tracker.close()


def test_a_disk_that_hangs_does_not_keep_the_run_from_ending(tmp_path: Path) -> None:
    tracker = SlowDisk(tmp_path, closing_seconds=0.2)
    tracker.pause = 3
    told(tracker, 10, 100, 0.5)
    started = time.monotonic()
    with pytest.raises(GroundupError, match=r"tensorboard did not finish within 0\.2 s; 1\d records are not written"):
        tracker.close()
    assert time.monotonic() - started < 1
    tracker.close()


def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    tracker = SlowDisk(tmp_path)
    tracker.pause, tracker.full_after = 0.0, 3
    reports: list[str] = []
    trackers = Trackers([tracker], reports.append)
    until = time.monotonic() + 20
    step = 0
    while not reports and time.monotonic() < until:
        trackers.step({"step": (step := step + 1), "loss": 1.0})
        time.sleep(0.01)
    trackers.step({"step": step + 1, "loss": 1.0})
    trackers.close()
    assert reports == ["SlowDisk failed and is dropped: OSError: [Errno 28] No space left on device"]


def test_what_fails_at_the_last_record_is_told_by_closing(tmp_path: Path) -> None:
    tracker = SlowDisk(tmp_path)
    tracker.full_after = 2
    tracker.step({"step": 1, "loss": 1.0})
    with pytest.raises(OSError, match="No space left"):
        tracker.close()


def test_steps_and_evaluations_come_back_under_their_names(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.start({"name": "digits", "total_steps": 20})
    tracker.step({"step": 10, "epoch": 0.5, "loss": 1.5, "top1": 0.25, "lr": 0.5, "images_per_second": 4000.0})
    tracker.evaluation(
        {
            "step": 20,
            "epoch": 1.0,
            "lr": 0.25,
            "train_loss": 1.25,
            "validation_top1": 0.5,
            "test_top1": None,
            "note": "x",
        }
    )
    tracker.close()
    assert sorted(opened(tmp_path).Tags()["scalars"]) == [
        "live/lr",
        "speed/images_per_second",
        "train/loss",
        "train/top1",
        "train_mean/loss",
        "validation/top1",
    ]
    assert scalar(tmp_path, "train/top1") == [(10, 0.25)]
    assert scalar(tmp_path, "train_mean/loss") == [(20, 1.25)]
    assert scalar(tmp_path, "validation/top1") == [(20, 0.5)]


def test_the_accuracy_on_mixed_images_is_a_curve_of_its_own(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    for step, mixed in ((10, 0.0), (20, 0.5)):
        tracker.step({"step": step, "loss": 1.0, "top1": 0.25, "mixed": mixed})
        tracker.evaluation({"step": step, "train_loss": 1.0, "train_top1": 0.3, "validation_top1": 0.4, "mixed": mixed})
    tracker.close()
    assert scalar(tmp_path, "train/top1") == [(10, 0.25)]
    assert scalar(tmp_path, "train/top1_mixed") == [(20, 0.25)]
    assert scalar(tmp_path, "train_mean/top1") == [(10, 0.3)]
    assert scalar(tmp_path, "train_mean/top1_mixed") == [(20, 0.3)]
    assert scalar(tmp_path, "validation/top1") == [(10, 0.4), (20, 0.4)]


def test_the_start_is_written_as_a_table(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.start({"name": "a|b", "total_steps": 20})
    tracker.close()
    (event,) = opened(tmp_path).Tensors("run")
    assert event.tensor_proto.string_val[0].decode() == "| | |\n|---|---|\n| name | a\\|b |\n| total_steps | 20 |"


def test_pictures_come_back_from_files_and_from_arrays(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    tracker = TensorBoardTracker(tmp_path / "events")
    tracker.image("from_array", pixels, 3)
    tracker.image("from_file", tmp_path / "picture.png", 4)
    tracker.close()
    for tag, step in (("from_array", 3), ("from_file", 4)):
        (event,) = opened(tmp_path / "events").Images(tag)
        assert (event.step, event.width, event.height) == (step, 9, 6)
        with Image.open(BytesIO(event.encoded_image_string)) as image:
            assert np.array_equal(np.asarray(image), pixels)


def test_neither_name_nor_content_of_the_file_tells_host_or_process(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    told(tracker, 10, 30, 0.5)
    tracker.close()
    (file,) = tmp_path.iterdir()
    assert file.name == "events.out.tfevents.0000000001.groundup"
    assert socket.gethostname().encode() not in file.read_bytes()


def test_a_resume_drops_later_steps_and_keeps_the_step_of_its_checkpoint(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path)
    told(first, 10, 50, 0.25)
    first.evaluation({"step": 50, "validation_top1": 0.9})
    first.close()
    second = TensorBoardTracker(tmp_path, purge_step=30)
    told(second, 40, 40, 0.5)
    second.close()
    assert scalar(tmp_path, "train/top1") == [(10, 0.25), (20, 0.25), (30, 0.25), (40, 0.5)]
    assert "validation/top1" not in opened(tmp_path).Tags()["scalars"]


def test_going_on_again_and_again_from_any_step_keeps_one_history(tmp_path: Path) -> None:
    for start, top1 in ((None, 0.1), (30, 0.2), (30, 0.3), (10, 0.4)):
        tracker = TensorBoardTracker(tmp_path, purge_step=start)
        told(tracker, (start or 0) + 10, 50, top1)
        tracker.close()
    assert len(list(tmp_path.iterdir())) == 4
    assert scalar(tmp_path, "train/top1") == [(10, 0.1), (20, 0.4), (30, 0.4), (40, 0.4), (50, 0.4)]


def test_a_board_that_stayed_open_forgets_the_dropped_steps(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path)
    told(first, 10, 50, 0.25)
    first.close()
    board = opened(tmp_path)
    second = TensorBoardTracker(tmp_path, purge_step=20)
    second.close()
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [10, 20]


@pytest.mark.parametrize(
    "damage", [b"\x30", b"\x30\0\0\0\0\0\0\0\1\2\3\4half", b"\5\0\0\0\0\0\0\0\1\2\3\4\xff\xff\xff\xff\xff9999"]
)
def test_a_damaged_end_is_dropped_by_a_resume(tmp_path: Path, damage: bytes) -> None:
    first = TensorBoardTracker(tmp_path)
    told(first, 10, 30, 0.25)
    first.close()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole + damage)
    TensorBoardTracker(tmp_path, purge_step=30).close()
    assert file.read_bytes() == whole


def test_a_killed_process_loses_no_step_that_the_disk_had_time_to_take(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from groundup.tracking import TensorBoardTracker\n"
        "tracker = TensorBoardTracker(Path(sys.argv[1]))\n"
        "for step in range(1, 31): tracker.step({'step': step, 'loss': 1.0})\n"
        "print('told', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "told\n"
        until = time.monotonic() + 20
        while last_step(tmp_path) < 30 and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    resumed = TensorBoardTracker(tmp_path, purge_step=25)
    resumed.close()
    assert [step for step, _ in scalar(tmp_path, "train/loss")] == list(range(1, 26))
    assert all(file.name.endswith(".groundup") for file in tmp_path.iterdir())
