"""Bulk prediction: one table, whole at the end, resumable, with the pictures that could not be read."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import groundup
from groundup.basis.errors import UsageError
from groundup.runs.load import Classifier
from groundup.runs.predictions import pictures_in, predict_into
from groundup.runs.train import Run


@pytest.fixture
def classifier(finished: Run) -> Classifier:
    return groundup.load(finished.folder)


def draw(folder: Path, count: int) -> None:
    """`count` different pictures, every third of them in a folder of its own."""
    for number in range(count):
        place = folder / "deep" if number % 3 == 0 else folder
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03}.png")


def rows(table: Path) -> list[dict[str, str]]:
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_says_what_predict_says(classifier: Classifier, tmp_path: Path) -> None:
    draw(tmp_path / "photos", 70)  # more than a batch
    pictures = pictures_in([tmp_path / "photos"])
    predict_into(tmp_path / "all.csv", classifier, pictures, top=3)
    table = rows(tmp_path / "all.csv")
    assert [row["file"] for row in table] == [str(picture) for picture in pictures]
    for row in (table[0], table[69]):
        best = classifier.predict(row["file"], 3)
        assert [row["class"], row["class_2"], row["class_3"]] == [name for name, _ in best]
        assert float(row["probability_3"]) == pytest.approx(best[2][1], rel=1e-4)


def test_a_picture_that_cannot_be_read_is_listed_and_the_others_are_answered(
    classifier: Classifier, tmp_path: Path
) -> None:
    draw(tmp_path, 2)
    (tmp_path / "bad.png").write_text("no picture")
    made = predict_into(tmp_path / "all.parquet", classifier, pictures_in([tmp_path]))
    table = pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pylist()
    bad = str(tmp_path / "bad.png")
    assert list(made.bad) == [bad]
    assert [row["class"] is None for row in table] == [row["file"] == bad for row in table]
    assert len(table) == 3


@pytest.mark.parametrize("name", ["drawing.svg", "PHONE.HEIC", "camera.dng"])
def test_a_picture_of_a_kind_that_is_not_read_is_listed_and_not_left_out(
    name: str, classifier: Classifier, tmp_path: Path
) -> None:
    draw(tmp_path, 1)
    (tmp_path / name).write_bytes(b"<svg/>")
    (tmp_path / "notes.txt").write_text("no picture, and not called one")
    made = predict_into(tmp_path / "all.csv", classifier, pictures_in([tmp_path]))
    assert made.bad == {str(tmp_path / name): f"{Path(name).suffix.lower()} is not read; save it anew as PNG or JPEG"}
    assert made.pictures == 2


def test_notes_of_before_a_calibration_are_not_mixed_with_answers_after_it(
    classifier: Classifier, tmp_path: Path
) -> None:
    draw(tmp_path, 70)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_into(tmp_path / "all.csv", classifier, pictures_in([tmp_path]), check=stop)
    with pytest.raises(UsageError, match="another temperature"):
        predict_into(tmp_path / "all.csv", replace(classifier, temperature=1.5), pictures_in([tmp_path]))


def test_an_interrupted_call_goes_on_and_ends_with_the_same_table(classifier: Classifier, tmp_path: Path) -> None:
    draw(tmp_path / "photos", 200)
    pictures = pictures_in([tmp_path / "photos"])
    predict_into(tmp_path / "whole.csv", classifier, pictures)
    calls = iter(range(9))

    def stop_in_the_third_batch() -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_into(tmp_path / "parts.csv", classifier, pictures, check=stop_in_the_third_batch)
    assert not (tmp_path / "parts.csv").exists()
    with open(tmp_path / ".parts.csv.partial", "a") as notes:
        notes.write('{"file": "torn by a ki')
    assert predict_into(tmp_path / "parts.csv", classifier, pictures).earlier == 128
    # A batch of another size may round the last digit of a probability another way.
    for one, other in zip(rows(tmp_path / "whole.csv"), rows(tmp_path / "parts.csv"), strict=True):
        assert (one["file"], one["class"]) == (other["file"], other["class"])
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), rel=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.csv", "photos", "whole.csv"]


def test_a_killed_command_goes_on(finished: Run, tmp_path: Path) -> None:
    draw(tmp_path / "photos", 3000)
    command = [sys.executable, "-m", "groundup", "predict", str(finished.folder), str(tmp_path / "photos")]
    command += ["--out", str(tmp_path / "all.csv")]
    notes = tmp_path / ".all.csv.partial"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (notes.exists() and notes.stat().st_size > 20_000):
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "all.csv").exists()
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("3,000 pictures, 0 of them could not be read")
    assert len({row["file"] for row in rows(tmp_path / "all.csv")}) == 3000


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_a_file_name_that_is_no_text_is_predicted_too(kind: str, classifier: Classifier, tmp_path: Path) -> None:
    draw(tmp_path, 2)
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"  # Latin-1
    os.rename(tmp_path / "001.png", name)
    predict_into(tmp_path / f"all{kind}", classifier, pictures_in([tmp_path]))
    if kind == ".csv":
        assert name + b"," in (tmp_path / "all.csv").read_bytes()
    else:
        files = pyarrow.parquet.read_table(tmp_path / "all.parquet")["file"].to_pylist()
        assert str(tmp_path / "caf\ufffd.png") in files


def test_damaged_notes_are_named_with_the_way_on(classifier: Classifier, tmp_path: Path) -> None:
    draw(tmp_path, 1)
    (tmp_path / ".all.csv.partial").write_bytes(b"\0\0\0\n")
    with pytest.raises(UsageError, match=r"damaged(?s:.*)remove .*\.all\.csv\.partial to begin again"):
        predict_into(tmp_path / "all.csv", classifier, pictures_in([tmp_path]))
    assert not (tmp_path / ".all.csv.partial.lock").exists()


def test_an_existing_table_is_not_overwritten(classifier: Classifier, tmp_path: Path) -> None:
    draw(tmp_path, 1)
    (tmp_path / "mine.csv").write_text("dear to me")
    with pytest.raises(UsageError, match="exists"):
        predict_into(tmp_path / "mine.csv", classifier, pictures_in([tmp_path]))
    assert (tmp_path / "mine.csv").read_text() == "dear to me"


def test_answers_of_two_networks_are_not_mixed(classifier: Classifier, tmp_path: Path) -> None:
    draw(tmp_path, 70)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_into(tmp_path / "all.csv", classifier, pictures_in([tmp_path]), check=stop)
    with pytest.raises(UsageError, match="another network, another temperature or another --top"):
        predict_into(tmp_path / "all.csv", classifier, pictures_in([tmp_path]), top=2)


@pytest.mark.parametrize("name", ["table.xlsx", "table"])
def test_a_table_of_another_kind_is_refused(classifier: Classifier, tmp_path: Path, name: str) -> None:
    draw(tmp_path, 1)
    with pytest.raises(UsageError, match=r"allowed: \.csv, \.parquet"):
        predict_into(tmp_path / name, classifier, pictures_in([tmp_path]))


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(UsageError, match="has no pictures"):
        pictures_in([tmp_path])
    with pytest.raises(UsageError, match="no such file or folder"):
        pictures_in([tmp_path / "gone"])
