"""What lies in a run folder, what never does, and that it is never overwritten."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import groundup
from groundup.basis.errors import GroundupError, UsageError
from groundup.recipe import load_recipe
from groundup.runs.evaluate import evaluate
from groundup.runs.folder import create_run_folder, open_run_folder
from groundup.runs.train import Run

REQUIRED = {
    "recipe",
    "seed",
    "steps",
    "epochs",
    "top1",
    "top1_interval",
    "top5",
    "images",
    "selected_on",
    "reported_on",
    "optimistic",
    "pflop",
    "seconds",
    "images_per_second",
    "device",
}


def test_a_finished_run_has_every_file_of_the_contract(finished: Run) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {
        "recipe.yaml",
        "environment.json",
        "classifier.json",
        "metrics.jsonl",
        "summary.json",
        "samples.png",
        "training_curves.png",
        "checkpoints",
        "tensorboard",
        "README.md",
    }
    checkpoint = finished.folder / "checkpoints" / "step-0000006"
    assert {path.name for path in checkpoint.iterdir()} == {"model.safetensors", "state.pt", "checksums.json"}
    assert os.readlink(finished.folder / "checkpoints" / "last") == "step-0000006"
    assert any((finished.folder / "tensorboard").iterdir())
    for picture in ("samples.png", "training_curves.png"):
        assert (finished.folder / picture).read_bytes().startswith(b"\x89PNG")


def test_the_summary_has_the_keys_of_the_contract_and_they_agree(finished: Run) -> None:
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary == finished.summary
    assert summary.keys() >= REQUIRED
    low, high = summary["top1_interval"]
    assert 0 <= low <= summary["top1"] <= high <= 1
    assert summary["top1"] <= summary["top5"] <= 1
    assert (summary["recipe"], summary["seed"], summary["steps"], summary["epochs"]) == ("digits", 0, 6, 2)
    assert (summary["images"], summary["train_images"], summary["classes"]) == (359, 150, 10)
    assert (summary["reported_on"], summary["optimistic"], summary["device"]) == ("test", False, "cpu")
    assert summary["selected_on"] == "nothing: the last step"
    assert (summary["bad_images"], summary["skipped_updates"]) == (0, 0)
    assert summary["images_per_second"] == pytest.approx(300 / summary["seconds"], rel=0.02)


def test_the_compute_in_the_summary_is_three_forward_passes_of_every_trained_image(finished: Run) -> None:
    forward = finished.summary["evaluation_pflop"] / finished.summary["images"]
    assert finished.summary["pflop"] == pytest.approx(3 * forward * 300)


def test_the_environment_tells_versions_hardware_and_engine(finished: Run) -> None:
    environment = json.loads((finished.folder / "environment.json").read_text())
    assert environment["format"] == 1
    assert environment["groundup"] == groundup.__version__
    assert environment["packages"]["torch"].startswith("2.")
    assert environment["engine"]["threads"] == 1
    assert environment["engine"]["precision"] in ("fp32", "bf16")
    assert {"python", "system", "cpu", "cores", "gpu", "commit"} <= environment.keys()


def test_the_classifier_file_has_what_stands_between_a_picture_and_a_name(finished: Run) -> None:
    described = json.loads((finished.folder / "classifier.json").read_text())
    recipe = load_recipe(str(finished.folder / "recipe.yaml"))
    assert described["format"] == 1
    assert described["classes"] == [str(digit) for digit in range(10)]
    assert (described["image_size"], described["resize"]) == (8, "squash")
    assert tuple(described["mean"]) == recipe.augment.normalize.mean
    assert tuple(described["std"]) == recipe.augment.normalize.std


def test_the_recipe_in_the_folder_is_complete_and_trains_the_same_run_again(finished: Run, tmp_path: Path) -> None:
    again = groundup.train(str(finished.folder / "recipe.yaml"), run=tmp_path / "again")
    assert (again.folder / "recipe.yaml").read_text() == (finished.folder / "recipe.yaml").read_text()
    weights = "checkpoints/last/model.safetensors"
    assert (again.folder / weights).read_bytes() == (finished.folder / weights).read_bytes()


def test_the_metrics_have_one_line_per_evaluation(finished: Run) -> None:
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert all({"train_loss", "validation_top1", "validation_loss", "lr", "seconds"} <= line.keys() for line in lines)


def test_the_model_card_gives_the_result_of_the_summary(finished: Run) -> None:
    card = (finished.folder / "README.md").read_text()
    assert f"{finished.summary['top1']:.2%}" in card
    assert "groundup.load" in card


def test_new_folders_are_numbered_and_none_is_used_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("digits")
    assert [create_run_folder(recipe, None).path.name for _ in range(3)] == ["digits-001", "digits-002", "digits-003"]


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(finished: Run, tiny: list[str], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"exists already, and a run is never overwritten\n.*groundup resume"):
        groundup.train("digits", tiny, run=finished.folder)
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        groundup.train("digits", tiny, run=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert create_run_folder(load_recipe("digits"), tmp_path / "empty").path == tmp_path / "empty"


@pytest.mark.parametrize("version", [0, 2, None])
def test_a_folder_of_another_format_version_is_refused(version: int | None, copied: Path) -> None:
    described = json.loads((copied / "environment.json").read_text()) | {"format": version}
    (copied / "environment.json").write_text(json.dumps(described))
    for use in (groundup.resume, groundup.load):
        with pytest.raises(UsageError, match=rf"format version {version}; this groundup reads version 1"):
            use(copied)


@pytest.mark.parametrize("version", [0, 99, None])
def test_a_result_of_another_format_version_is_refused(version: int | None, copied: Path) -> None:
    described = json.loads((copied / "summary.json").read_text()) | {"format": version}
    (copied / "summary.json").write_text(json.dumps(described))
    for use in (groundup.resume, evaluate):
        with pytest.raises(
            UsageError, match=rf"summary\.json: .*format version {version}; this groundup reads version 1"
        ):
            use(copied)


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "top1": 0.', b"5", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_result_counts_as_none_and_is_made_again(content: bytes, copied: Path, finished: Run) -> None:
    (copied / "summary.json").write_bytes(content)
    with pytest.raises(UsageError, match="not finished"):
        evaluate(copied)
    assert groundup.resume(copied).summary["nll"] == finished.summary["nll"]
    assert json.loads((copied / "summary.json").read_text())["nll"] == finished.summary["nll"]


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_a_damaged_environment_is_named_with_the_way_out(cut: int, copied: Path, finished: Run) -> None:
    (copied / "summary.json").unlink()
    file = copied / "environment.json"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(
        GroundupError, match=r"environment\.json: damaged.*\n.*remove it: `groundup resume` writes it again"
    ):
        groundup.resume(copied)
    file.unlink()
    assert groundup.resume(copied).summary["hardware"] == finished.summary["hardware"]
    assert json.loads(file.read_text())["format"] == 1


@pytest.mark.parametrize("content", ["5", "null", "[]", "{}", '{"format": 1}', '{"format": 1, "resumed_on": [7]}'])
def test_an_environment_that_is_json_and_yet_not_one_is_damaged(content: str, copied: Path) -> None:
    (copied / "environment.json").write_text(content)
    with pytest.raises(GroundupError, match=r"environment\.json: damaged"):
        groundup.resume(copied)


def test_a_file_of_the_run_that_cannot_be_read_is_named(copied: Path) -> None:
    (copied / "summary.json").unlink()
    (copied / "summary.json").mkdir()
    with pytest.raises(GroundupError, match=r"summary\.json: cannot be read: Is a directory"):
        groundup.resume(copied)


def test_a_run_that_is_not_there_is_answered_with_runs_alone(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match=r"phots'?: not a run folder \(there is no such folder\)"):
        open_run_folder(tmp_path / "phots")
    shutil.copytree(finished.folder, tmp_path / "digits-007", symlinks=True)
    with pytest.raises(UsageError) as caught:
        open_run_folder(tmp_path / "digits-01")
    assert "allowed: digits-007\n" in str(caught.value)


def test_a_place_for_a_run_that_is_taken_by_something_else_is_not_offered_for_a_resume(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path / "file", tmp_path):
        with pytest.raises(UsageError, match="exists already, and is no run") as caught:
            create_run_folder(load_recipe("digits"), taken)
        assert "resume" not in str(caught.value)


def test_a_folder_that_is_no_run_is_named_with_the_nearest_run(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such run .*\n.*did you mean 'tiny'"):
        open_run_folder(finished.folder.parent / "tinny")
    with pytest.raises(UsageError, match=r"not a run folder \(it has no recipe\.yaml\)"):
        open_run_folder(tmp_path)


def test_nothing_in_the_folder_names_the_machine_its_user_or_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "homes" / "zebedee-of-the-grange"
    home.mkdir(parents=True)
    for key in ("HOME", "USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(key, str(home) if key == "HOME" else home.name)
    monkeypatch.setattr(socket, "gethostname", lambda: "machine-of-zebedee")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(home / "data.npz", x_train=images, y_train=np.arange(40) % 2)
    small = [f"data.source=arrays:{home}/data.npz", "model.width=8", "train={epochs: 1, batch_size: 8, threads: 1}"]
    run = groundup.train("digits", small, run=tmp_path / "run")
    assert load_recipe(str(run.folder / "recipe.yaml")).data.source == "arrays:~/data.npz"
    assert run.folder.joinpath("tensorboard").is_dir()
    secrets = [b"zebedee", str(home).encode(), str(tmp_path).encode()]
    secrets += [name.encode() for name in (os.uname().nodename,) if len(name) > 4]
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert len(files) >= 12
    for path in files:
        content = path.read_bytes() + str(path.relative_to(run.folder)).encode()
        for secret in secrets:
            assert secret not in content, f"{path} holds {secret!r}"
    assert getpass.getuser() == home.name  # the name that was looked for is the one that Python gives
    groundup.resume(run.folder)


def test_nothing_is_left_of_a_run_whose_data_cannot_be_used(tiny: list[str], tmp_path: Path) -> None:
    for override in (
        "data.source=folder:nowhere",
        "train.batch_size=100000",
        "augment.policy=[{name: pad_crop, pad: 8}]",
    ):
        with pytest.raises(GroundupError):
            groundup.train("digits", [*tiny, override], run=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_run_of_edited_source_says_so_whichever_room_was_edited(tmp_path: Path) -> None:
    package = Path(groundup.__file__).parent
    shutil.copytree(package, tmp_path / "groundup", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *command], check=True)
    edited = tmp_path / "groundup" / "evaluation" / "metrics.py"
    code = f"""
from groundup.runs.folder import environment
print(environment()["commit"])
with open({str(edited)!r}, "a") as file:
    file.write("\\n")
print(environment()["commit"])
"""
    said = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.split()
    assert re.fullmatch("[0-9a-f]{12}", said[0])
    assert said[1] == f"{said[0]}+changes"
