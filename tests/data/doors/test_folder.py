"""The door `folder:DIR`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from groundup.basis.errors import DataError, UsageError
from groundup.data import DataSettings, load_splits

Save = Callable[..., Path]


def load(root: Path, **settings: object):  # type: ignore[no-untyped-def]
    return load_splits(DataSettings(source=f"folder:{root}", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_a_single_held_out_split_is_the_test_split_whatever_its_name(
    tmp_path: Path, save_folder: Save, held_out: str
) -> None:
    save_folder(tmp_path / "x" / "train")
    save_folder(tmp_path / "x" / held_out, per_class=2, start=50)
    splits = load(tmp_path / "x")
    assert (len(splits.train), splits.validation, len(splits.test)) == (6, None, 4)
    assert any("used as the test split" in note for note in splits.notes) == (held_out != "test")


def test_images_and_labels_belong_together(
    tmp_path: Path, save_folder: Save, picture: Callable[..., np.ndarray]
) -> None:
    save_folder(tmp_path / "x" / "train")
    save_folder(tmp_path / "x" / "val", per_class=1, start=50)
    save_folder(tmp_path / "x" / "test", per_class=1, start=60)
    splits = load(tmp_path / "x")
    assert splits.classes == ["cat", "dog"]
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(splits.train.images, [picture(seed) for seed in (0, 1, 2, 100, 101, 102)])
    np.testing.assert_array_equal(splits.validation.images, [picture(50), picture(150)])
    np.testing.assert_array_equal(splits.test.images, [picture(60), picture(160)])


def test_without_split_folders_a_fifth_of_each_class_is_test(tmp_path: Path, save_folder: Save) -> None:
    save_folder(tmp_path / "x", per_class=10)
    splits = load(tmp_path / "x")
    assert np.bincount(splits.train.labels).tolist() == [8, 8]
    assert np.bincount(splits.test.labels).tolist() == [2, 2]
    assert any("20% of each class is the test split" in note for note in splits.notes)


def test_hidden_files_other_files_and_the_case_of_extensions_do_not_matter(tmp_path: Path, save_folder: Save) -> None:
    root = save_folder(tmp_path / "x", per_class=5)
    (root / "cat" / "._0.png").write_bytes(b"junk")
    (root / "cat" / "notes.txt").write_text("junk")
    (root / ".git").mkdir()
    (root / "dog" / "0.png").rename(root / "dog" / "0.PNG")
    (root / "dog" / "deeper").mkdir()
    (root / "dog" / "1.png").rename(root / "dog" / "deeper" / "1.png")
    splits = load(root)
    assert splits.classes == ["cat", "dog"]
    assert len(splits.train) + len(splits.test) == 10


def test_pictures_of_kinds_that_are_not_read_are_noted_also_those_that_come_once_the_data_is_cached(
    tmp_path: Path, save_folder: Save
) -> None:
    root = save_folder(tmp_path / "x", per_class=5)
    (root / "cat" / "Thumbs.db").write_text("left by a system")
    assert not any("not read" in note for note in load(root).notes)
    for name in ("cat/1.HEIC", "cat/2.heic", "dog/0.avif", "dog/list"):
        (root / name).write_text("")
    note = "files that are not read, by the endings of their names: 2 of .heic, 1 of .avif, 1 of no ending (such as cat/1.HEIC)"
    first, again = load(root), load(root)
    assert note in first.notes
    assert note in again.notes
    assert first.fingerprint == again.fingerprint


def test_a_missing_folder_is_named_as_the_user_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"data\.source='folder:\./photos': there is no folder \./photos\n"):
        load_splits(DataSettings(source="folder:./photos"))
    (tmp_path / "photos").write_text("a file")
    with pytest.raises(UsageError, match=r"data\.source='folder:\./photos': \./photos is a file, not a folder"):
        load_splits(DataSettings(source="folder:./photos"))


def test_an_empty_folder_and_one_without_class_folders_are_told_apart(
    tmp_path: Path, png: Callable[[np.ndarray], bytes], picture: Callable[..., np.ndarray]
) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="is empty"):
        load(tmp_path / "x")
    (tmp_path / "x" / "0.png").write_bytes(png(picture(0)))
    with pytest.raises(DataError, match="holds 1 images but no class folders"):
        load(tmp_path / "x")


def test_a_class_without_images_is_named(tmp_path: Path, save_folder: Save) -> None:
    save_folder(tmp_path / "x" / "train")
    (tmp_path / "x" / "train" / "eel").mkdir()
    (tmp_path / "x" / "train" / "eel" / "readme.md").write_text("none yet")
    with pytest.raises(DataError, match="/train: no images in class eel"):
        load(tmp_path / "x")


def test_a_test_class_that_train_does_not_have_is_named(tmp_path: Path, save_folder: Save) -> None:
    save_folder(tmp_path / "x" / "train")
    save_folder(tmp_path / "x" / "test", classes=("cat", "owl"))
    with pytest.raises(DataError, match="/test: classes that train does not have: owl; train has cat, dog"):
        load(tmp_path / "x")


def test_a_class_missing_from_test_and_unread_folders_are_noted(tmp_path: Path, save_folder: Save) -> None:
    save_folder(tmp_path / "x" / "train")
    save_folder(tmp_path / "x" / "test", classes=("cat",))
    save_folder(tmp_path / "x" / "extra")
    notes = " | ".join(load(tmp_path / "x").notes)
    assert "test has no folder for 1 of the classes: dog" in notes
    assert "not read: extra" in notes


def test_two_folders_for_one_split_and_splits_without_train_are_refused(tmp_path: Path, save_folder: Save) -> None:
    save_folder(tmp_path / "x" / "val")
    with pytest.raises(DataError, match="has val but no train"):
        load(tmp_path / "x")
    save_folder(tmp_path / "x" / "train")
    save_folder(tmp_path / "x" / "valid")
    with pytest.raises(DataError, match="two validation splits: val and valid"):
        load(tmp_path / "x")


def test_one_class_is_not_enough(tmp_path: Path, save_folder: Save) -> None:
    with pytest.raises(DataError, match="at least 2 classes; the data has 1: cat"):
        load(save_folder(tmp_path / "x", classes=("cat",)))


def test_a_changed_file_is_decoded_again(
    tmp_path: Path, save_folder: Save, png: Callable[[np.ndarray], bytes], picture: Callable[..., np.ndarray]
) -> None:
    save_folder(tmp_path / "x" / "train")
    save_folder(tmp_path / "x" / "test")
    before = load(tmp_path / "x")
    (tmp_path / "x" / "train" / "cat" / "0.png").write_bytes(png(picture(999)))
    after = load(tmp_path / "x")
    assert before.fingerprint != after.fingerprint
    np.testing.assert_array_equal(after.train.images[0], picture(999))
