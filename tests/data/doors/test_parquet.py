"""The door `parquet:DIR`."""

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from groundup.basis.errors import DataError, UsageError
from groundup.data import DataSettings, Splits, load_splits
from groundup.data.doors.parquet import open_parquet

Save = Callable[..., Path]
COLOURS = ["red", "green"]


def load(root: Path, **settings: object) -> Splits:
    return load_splits(DataSettings(source=f"parquet:{root}", **settings))  # type: ignore[arg-type]


def save_two_labels(root: Path, save: Save, names: dict[str, list[str]] | None = None) -> Path:
    """Train in two files and test in one, with a fine and a coarse label, as CIFAR-100 has them."""
    save(root / "train-00000-of-00002.parquet", {"fine": [2, 0, 1], "coarse": [1, 0, 0]}, names=names)
    save(root / "train-00001-of-00002.parquet", {"fine": [2, 1, 0, 0, 1], "coarse": [1] * 5}, names=names, start=3)
    save(root / "test-00000-of-00001.parquet", {"fine": [1, 2], "coarse": [0, 1]}, names=names, start=8)
    return root


HUB_NAMES = {"fine": ["x", "y", "z"], "coarse": COLOURS}


def test_files_of_a_split_are_read_in_order_with_the_names_of_the_hub(
    tmp_path: Path, save_parquet: Save, picture: Callable[..., np.ndarray]
) -> None:
    splits = load(save_two_labels(tmp_path / "x", save_parquet, HUB_NAMES), label="fine")
    assert splits.classes == ["x", "y", "z"]
    assert splits.train.labels.tolist() == [2, 0, 1, 2, 1, 0, 0, 1]
    np.testing.assert_array_equal(splits.train.images, [picture(seed) for seed in range(8)])
    assert splits.test is not None
    np.testing.assert_array_equal(splits.test.images, [picture(8), picture(9)])
    assert load(tmp_path / "x", label="coarse").classes == COLOURS


@pytest.mark.parametrize("names", [HUB_NAMES, None])
def test_several_label_columns_are_an_error_that_lists_them(
    tmp_path: Path, save_parquet: Save, names: dict[str, list[str]] | None
) -> None:
    save_two_labels(tmp_path / "x", save_parquet, names)
    with pytest.raises(UsageError, match=r"could be the label: fine, coarse\nhint: .*data\.label=fine"):
        load(tmp_path / "x")


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path, save_parquet: Save) -> None:
    save_two_labels(tmp_path / "x", save_parquet, HUB_NAMES)
    with pytest.raises(UsageError, match=r"data\.label='fin'.*columns: img, fine, coarse\nhint: did you mean 'fine'\?"):
        load(tmp_path / "x", label="fin")
    with pytest.raises(UsageError, match="that column holds the image"):
        load(tmp_path / "x", label="img")


@pytest.mark.parametrize("names", [HUB_NAMES, None])
def test_an_image_column_without_images_is_told_as_such_and_not_as_damaged_images(
    tmp_path: Path, save_parquet: Save, names: dict[str, list[str]] | None
) -> None:
    save_two_labels(tmp_path / "x", save_parquet, names)
    said = (
        r"data\.image='fine': that column holds int64, no encoded images; .* img\nhint: did you mean data\.image=img\?"
    )
    with pytest.raises(UsageError, match=said):
        load(tmp_path / "x", image="fine", label="coarse")
    assert len(load(tmp_path / "x", image="img", label="coarse").train) == 8


def test_the_only_class_column_is_found_among_other_numbers(tmp_path: Path, save_parquet: Save) -> None:
    labels = {"id": [7, 8, 9, 10], "colour": [0, 1, 1, 0]}
    save_parquet(tmp_path / "x" / "train.parquet", labels, names={"colour": COLOURS})
    save_parquet(tmp_path / "x" / "test.parquet", labels, names={"colour": COLOURS})
    assert load(tmp_path / "x").train.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("values", "classes", "labels"),
    [
        (["ox", "ant", "ox", "bee"], ["ant", "bee", "ox"], [2, 0, 2, 1]),
        ([10, 9, 10, 100], ["9", "10", "100"], [1, 0, 1, 2]),
        ([True, False, True, True], ["0", "1"], [1, 0, 1, 1]),
    ],
)
def test_without_names_the_classes_are_the_sorted_distinct_labels(
    tmp_path: Path, save_parquet: Save, values: list[object], classes: list[str], labels: list[int]
) -> None:
    save_parquet(tmp_path / "x" / "train-0.parquet", {"label": values})
    save_parquet(tmp_path / "x" / "val-0.parquet", {"label": values})
    splits = load(tmp_path / "x")
    assert splits.classes == classes
    assert splits.train.labels.tolist() == labels


@pytest.mark.parametrize("names", [{"label": COLOURS}, None])
@pytest.mark.parametrize("missing", [-1, None])
def test_a_split_without_any_label_is_left_out_with_a_note(
    tmp_path: Path, save_parquet: Save, missing: int | None, names: dict[str, list[str]] | None
) -> None:
    save_parquet(tmp_path / "x" / "train-0.parquet", {"label": [0, 1, 0]}, names=names)
    save_parquet(tmp_path / "x" / "validation-0.parquet", {"label": [0, 1]}, names=names)
    save_parquet(tmp_path / "x" / "test-0.parquet", {"label": [missing, missing]}, names=names)
    splits = load(tmp_path / "x")
    assert (splits.validation, splits.test is not None and len(splits.test)) == (None, 2)
    assert any("the test split of the source has no labels" in note for note in splits.notes)


@pytest.mark.parametrize("wrong", [-1, 2])
def test_a_single_label_out_of_range_is_an_error_that_names_the_row(
    tmp_path: Path, save_parquet: Save, wrong: int
) -> None:
    names = {"label": COLOURS}
    save_parquet(tmp_path / "x" / "train-00000-of-00002.parquet", {"label": [0, 1, 0]}, names=names)
    save_parquet(tmp_path / "x" / "train-00001-of-00002.parquet", {"label": [0, wrong]}, names=names)
    with pytest.raises(DataError, match=rf"x/train-00001-of-00002\.parquet row 1: label {wrong} is outside 0\.\.1"):
        load(tmp_path / "x")


def test_a_missing_file_of_a_split_is_noticed(tmp_path: Path, save_parquet: Save) -> None:
    save_two_labels(tmp_path / "x", save_parquet, HUB_NAMES)
    (tmp_path / "x" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="there are 2 files, number 1 is missing"):
        load(tmp_path / "x", label="fine")


def test_a_truncated_file_is_named(tmp_path: Path, save_parquet: Save) -> None:
    save_two_labels(tmp_path / "x", save_parquet, HUB_NAMES)
    damaged = tmp_path / "x" / "test-00000-of-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet is damaged"):
        load(tmp_path / "x", label="fine")


def test_a_file_damaged_inside_is_named(tmp_path: Path, save_parquet: Save) -> None:
    save_two_labels(tmp_path / "x", save_parquet, HUB_NAMES)
    damaged = tmp_path / "x" / "train-00000-of-00002.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet cannot be read as Parquet"):
        load(tmp_path / "x", label="fine")


def test_files_may_lie_in_data_as_on_the_hub_and_other_places_are_suggested(tmp_path: Path, save_parquet: Save) -> None:
    save_two_labels(tmp_path / "x" / "data", save_parquet, HUB_NAMES)
    assert len(load(tmp_path / "x", label="fine").train) == 8
    save_two_labels(tmp_path / "y" / "plain_text", save_parquet, HUB_NAMES)
    with pytest.raises(DataError, match=r"no \.parquet files in .*\nhint: .*write parquet:.*/y/plain_text"):
        load(tmp_path / "y")


def test_files_named_after_no_split_are_noted_and_train_is_needed(tmp_path: Path, save_parquet: Save) -> None:
    save_two_labels(tmp_path / "x", save_parquet, HUB_NAMES)
    save_parquet(tmp_path / "x" / "extra-00000.parquet", {"fine": [0]})
    notes = load(tmp_path / "x", label="fine").notes
    assert "extra-00000.parquet is named after no split and is not read" in notes
    save_parquet(tmp_path / "y" / "test-0.parquet", {"label": [0]})
    with pytest.raises(DataError, match=r"has no training split; files: test-0\.parquet"):
        load(tmp_path / "y")


def test_a_hidden_test_split_of_a_source_with_named_labels_is_left_out(tmp_path: Path, save_parquet: Save) -> None:
    save_parquet(tmp_path / "x" / "train-0.parquet", {"label": ["ox", "ant"] * 5})
    save_parquet(tmp_path / "x" / "test-0.parquet", {"label": [None, None]})
    splits = load(tmp_path / "x")
    assert splits.classes == ["ant", "ox"]
    assert any("the test split of the source has no labels" in note for note in splits.notes)
    assert any("20% of each class is the test split" in note for note in splits.notes)
    save_parquet(tmp_path / "x" / "test-0.parquet", {"label": [0, 1]})
    with pytest.raises(DataError, match="numbers in one split and names in another"):
        load(tmp_path / "x")


def test_images_in_any_order_are_read_from_a_copy_on_disk_and_memory_holds_none_of_them(
    tmp_path: Path, save_parquet: Save, cache: Path
) -> None:
    contents = [np.random.default_rng(seed).bytes(50_000) for seed in range(80)]
    for number in range(2):
        part = contents[40 * number : 40 * number + 40]
        save_parquet(tmp_path / "x" / f"train-0000{number}-of-00002.parquet", {"label": [0, 1] * 20}, images=part)
    split = open_parquet(DataSettings(source=f"parquet:{tmp_path / 'x'}"), lambda: None).read().splits["train"]
    order = np.random.default_rng(0).permutation(80)
    tracemalloc.start()
    try:
        assert split.at(order[:4]) == [contents[position] for position in order[:4]]
        tracemalloc.reset_peak()  # the copies are made
        for positions in order.reshape(20, 4):
            assert split.at(positions) == [contents[position] for position in positions]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # of 4 MB
    copies = list((cache / "encoded").glob("*.images"))
    assert sorted(copy.stat().st_size // 1_000_000 for copy in copies) == [2, 2]
    times = [copy.stat().st_ino for copy in copies]
    again = open_parquet(DataSettings(source=f"parquet:{tmp_path / 'x'}"), lambda: None).read().splits["train"]
    assert again.at(np.array([79, 0])) == [contents[79], contents[0]]
    assert [copy.stat().st_ino for copy in copies] == times  # not made anew


def test_a_source_whose_pixels_are_kept_is_not_copied(tmp_path: Path, save_parquet: Save, cache: Path) -> None:
    save_two_labels(tmp_path / "x", save_parquet, HUB_NAMES)
    load(tmp_path / "x", label="fine")
    assert not (cache / "encoded").exists()


def save_paths(root: Path, names: list[str]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split in ("train", "test"):
        column = pa.array([{"bytes": None, "path": name} for name in names], type=image)
        pq.write_table(pa.table({"image": column, "label": [0, 1]}), root / f"{split}-0.parquet")
    return root


def test_images_that_lie_beside_their_table_are_read_without_a_cache_too(
    tmp_path: Path, png: Callable[[np.ndarray], bytes], picture: Callable[..., np.ndarray]
) -> None:
    root = save_paths(tmp_path / "x", ["a.png", "b.png"])
    for number, name in enumerate(("a.png", "b.png")):
        (root / name).write_bytes(png(picture(number)))
    train = load(root, cache="none").train
    np.testing.assert_array_equal(train.read(np.array([1, 0])).numpy(), [picture(1), picture(0)])


def test_an_image_that_does_not_lie_there_is_a_damaged_one(
    tmp_path: Path, png: Callable[[np.ndarray], bytes], picture: Callable[..., np.ndarray]
) -> None:
    root = save_paths(tmp_path / "x", ["a.png", "gone.png"])
    (root / "a.png").write_bytes(png(picture(0)))
    with pytest.raises(DataError, match=r"x/\w+-0\.parquet row 1: the image is empty"):
        load(root, cache="none")


def test_a_file_damaged_inside_is_named_without_a_cache_too(tmp_path: Path, save_parquet: Save) -> None:
    save_two_labels(tmp_path / "x", save_parquet, HUB_NAMES)
    damaged = tmp_path / "x" / "train-00000-of-00002.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:4] + bytes(200) + content[204:])
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet is damaged"):
        load(tmp_path / "x", label="fine", cache="none")


def test_a_copy_that_would_not_fit_is_told_before_it_is_made(
    tmp_path: Path, save_parquet: Save, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_two_labels(tmp_path / "x", save_parquet, HUB_NAMES)
    free = sum(file.stat().st_size for file in (tmp_path / "x").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free - 1))
    with pytest.raises(DataError, match=r"encoded images of parquet:.* GB are left\nhint: .*/x\?streaming"):
        load(tmp_path / "x", label="fine", cache="none")
    assert not list(cache.rglob("*.images"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert len(load(tmp_path / "x", label="fine", cache="none").train) == 8
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    assert len(load(tmp_path / "x", label="fine", cache="none").train) == 8  # the copy is there
