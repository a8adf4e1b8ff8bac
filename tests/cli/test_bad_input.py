"""Everything a user can get wrong: exit status, a message that says what and how to mend it, and nothing lost or left."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundup.cli.main import main

SMALL = [
    "model.width=8",
    "train={epochs: 1, batch_size: 4, threads: 1}",
    "augment.policy=[]",
    "track.tensorboard=false",
]

Train = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """train(recipe, *overrides): exit status and what was said, of `groundup train` into the folder `run`."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["groundup", "train", *arguments, "--run", "run"])
        try:
            main()
            return 0, capsys.readouterr().err
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err

    return call


def save_images(root: Path, per_class: int = 8, side: int = 12) -> None:
    """root/cat/N.png and root/dog/N.png, random."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")


def save_parquet(root: Path) -> None:
    """Eight images with two columns of numbers that could be the label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    save_images(root / "images", 4)
    files = sorted((root / "images").rglob("*.png"))
    table = pa.table(
        {
            "img": [{"bytes": file.read_bytes(), "path": None} for file in files],
            "fine_label": [0, 0, 0, 0, 1, 1, 1, 1],
            "coarse_label": [0, 1, 0, 1, 0, 1, 0, 1],
        }
    )
    pq.write_table(table, root / "train.parquet")


def test_good_input_is_trained_on(train: Train) -> None:
    save_images(Path("data"))
    status, said = train("digits", *SMALL, "data.source=folder:data")
    assert status == 0, said
    assert json.loads(Path("run/summary.json").read_text())["bad_images"] == 0


def missing_folder() -> None:
    pass


def empty_folder() -> None:
    Path("data").mkdir()


def class_without_images() -> None:
    save_images(Path("data"))
    Path("data/emu").mkdir()


def loose_images() -> None:
    save_images(Path("data/deep"))
    for file in Path("data/deep/cat").iterdir():
        file.rename(Path("data") / file.name)
    for folder in ("dog", "cat", "."):
        for file in Path("data/deep", folder).glob("*.png"):
            file.unlink()
        Path("data/deep", folder).rmdir()


def class_with_one_image() -> None:
    save_images(Path("data"))
    for number in range(1, 8):
        Path(f"data/dog/{number}.png").unlink()


def corrupt_image() -> None:
    save_images(Path("data"))
    Path("data/cat/3.png").write_bytes(b"no picture at all")


def truncated_image() -> None:
    save_images(Path("data"))
    file = Path("data/cat/3.png")
    file.write_bytes(file.read_bytes()[:150])


def mixed_sizes() -> None:
    save_images(Path("data"))
    Image.new("RGB", (20, 20)).save("data/cat/3.png")


def good_folder() -> None:
    save_images(Path("data"))


def good_parquet() -> None:
    save_parquet(Path("data"))


def no_arrays() -> None:
    Path("data").write_text("not an archive")


FOLDER = "data.source=folder:data"
SPEED_NET = "model={name: speed_net}"
BAD: list[tuple[Callable[[], None], list[str], int, list[str]]] = [
    (missing_folder, [FOLDER], 2, ["data.source='folder:data'", "there is no folder data", "hint: check the path"]),
    (empty_folder, [FOLDER], 1, ["folder data is empty", "DIR/CLASS/image.png"]),
    (loose_images, [FOLDER], 1, ["folder data holds 8 images but no class folders"]),
    (class_without_images, [FOLDER], 1, ["no images in class emu", "hint: remove the folder"]),
    (class_with_one_image, [FOLDER], 1, ["class dog has 1 image", "at least 2"]),
    (corrupt_image, [FOLDER], 1, ["data/cat/3.png", "not an image", "data.on_bad_image=skip"]),
    (truncated_image, [FOLDER], 1, ["data/cat/3.png", "truncated", "data.on_bad_image=skip"]),
    (mixed_sizes, [FOLDER], 1, ["different sizes", "data/cat/3.png is 20x20", "set data.resolution"]),
    (good_folder, [FOLDER, "train.batch_size=14"], 2, ["train.batch_size=14: larger than the training split (13"]),
    (
        good_folder,
        [FOLDER, SPEED_NET, "data.resolution=8"],
        2,
        ["the images give 8 px", "takes 9 px", "data.resolution=9"],
    ),
    (good_folder, [FOLDER, "data.label=kind"], 2, ["data.label='kind'", "no columns"]),
    (good_parquet, ["data.source=parquet:data"], 2, ["several columns", "fine_label, coarse_label", "data.label="]),
    (
        good_parquet,
        ["data.source=parquet:data", "data.label=fine"],
        2,
        ["no such column", "did you mean 'fine_label'?"],
    ),
    (missing_folder, ["data.source=arrays:data"], 2, ["there is no file data", "hint: check the path"]),
    (no_arrays, [FOLDER], 2, ["data.source='folder:data'", "data is a file, not a folder"]),
    (empty_folder, ["data.source=parquet:data"], 2, ["data.source='parquet:data'", "no .parquet files in data"]),
    (empty_folder, ["data.source=webdataset:data"], 2, ["there are no .tar files at data"]),
    (no_arrays, ["data.source=arrays:data"], 1, ["data is not an .npz file", "numpy.savez"]),
    (missing_folder, ["train.epochs=many"], 2, ["train.epochs='many'", "valid number"]),
    (missing_folder, ["schedule.rise=5"], 2, ["schedule.rise=5", "bare number", "'5ep'"]),
    (missing_folder, ["schedule.rise=500ep"], 2, ["rise", "500"]),
    (missing_folder, ["optimizer.momentun=0.9"], 2, ["optimizer.momentun=0.9", "did you mean optimizer.momentum?"]),
    (missing_folder, ["train.device=cuda:9"], 2, ["train.device='cuda:9'"]),
    (missing_folder, ["train.device=tpu"], 2, ["train.device='tpu'", "allowed: auto, cpu"]),
    (missing_folder, ["evaluate.model=best"], 2, ["evaluate.model='best'", "data.validation=0.1"]),
    (
        good_folder,
        [FOLDER, "phases=[{from: 9ep, set: {loss.label_smoothing: 0}}]"],
        2,
        ["phases.0.from='9ep'", "would begin at step 27, but the run has 3 steps", "hint: use a share of the run"],
    ),
    (
        good_folder,
        [FOLDER, "phases=[{from: 0.5dur, set: {optimizer.momentum: 0.5}}]"],
        2,
        ["phases.0.set.optimizer.momentum=0.5: unknown key", "train.resolution, augment.policy, loss.label_smoothing"],
    ),
    (
        good_folder,
        [FOLDER, "schedule={name: plateau, lr: 0.1, metric: validation_f1}"],
        2,
        ["schedule.metric='validation_f1'", "'validation_loss', 'validation_top1'", "did you mean 'validation_top1'?"],
    ),
    (
        good_folder,
        [FOLDER, "schedule={name: plateau, lr: 0.1, metric: validation_loss, patience: 1step}"],
        2,
        ["schedule.metric='validation_loss'", "data.validation=0.1"],
    ),
    (
        good_folder,
        [FOLDER, "average={name: swa, start: 9ep}"],
        2,
        ["average.start=9ep: step 27 of a run of 3 steps", "before the end", "average.start=0.7dur"],
    ),
    (
        good_folder,
        [FOLDER, "average={name: swa, start: 2step, every: 2step}"],
        2,
        ["average: 1 sample(s) from step 2", "allowed: 2 or more", "hint: begin earlier or sample more often"],
    ),
    (
        good_folder,
        [FOLDER, "optimizer.sam={from: 9ep}"],
        2,
        ["optimizer.sam.from=9ep: step 27 of a run of 3 steps", "never begin", "hint: use a share of the run"],
    ),
]


@pytest.mark.parametrize(
    ("prepare", "overrides", "status", "parts"), BAD, ids=[f"{b[0].__name__}-{b[1][-1].split('=')[0]}" for b in BAD]
)
def test_bad_input_is_explained_and_leaves_nothing_behind(
    prepare: Callable[[], None], overrides: list[str], status: int, parts: list[str], train: Train, tmp_path: Path
) -> None:
    prepare()
    before = sorted(str(path) for path in Path().rglob("*"))
    got, said = train("digits", *SMALL, *overrides)
    assert got == status, said
    for part in parts:
        assert part in said, said
    assert "Traceback" not in said
    assert sorted(str(path) for path in Path().rglob("*")) == before
    decoded = [path.name for path in (tmp_path / "cache").glob("*") if path.is_dir()]
    assert not [name for name in decoded if name.startswith(".")]


def test_an_unknown_recipe_is_explained(train: Train) -> None:
    status, said = train("digitz")
    assert status == 2
    assert "did you mean 'digits'?" in said
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("damage", [corrupt_image, truncated_image])
def test_damaged_images_are_left_out_if_asked_for_and_counted_in_the_summary(
    damage: Callable[[], None], train: Train
) -> None:
    damage()
    status, said = train("digits", *SMALL, FOLDER, "data.on_bad_image=skip")
    assert status == 0, said
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["bad_images"] == 1
    assert "1 damaged images are left out (data.on_bad_image=skip)" in summary["notes"]
    assert "damaged" in said
    assert summary["train_images"] + summary["images"] == 15


def test_a_run_folder_that_exists_is_not_touched(train: Train) -> None:
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")
    status, said = train("digits", *SMALL)
    assert status == 2
    assert "--run run: exists already, and is no run" in said
    assert "groundup resume run" not in said
    assert [path.name for path in Path("run").iterdir()] == ["notes.txt"]


def test_a_diverging_run_says_where_and_what_to_do(train: Train) -> None:
    overrides = ["data.limit=200", "schedule={name: constant, lr: 1.0e+30}", "train.epochs=20"]
    status, said = train("digits", *SMALL, *overrides)
    assert status == 1
    assert "step" in said
    assert "lower the schedule's learning rate" in said
    assert "Traceback" not in said
