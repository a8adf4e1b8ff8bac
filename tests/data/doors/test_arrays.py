"""The door `arrays:FILE.npz` and the door `digits`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from groundup.basis.errors import DataError, UsageError
from groundup.data import DataSettings, Splits, load_splits


def load(file: Path, **arrays: object) -> Splits:
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return load_splits(DataSettings(source=f"arrays:{file}"))


def images(picture: Callable[..., np.ndarray], count: int) -> np.ndarray:
    return np.stack([picture(seed) for seed in range(count)])


def test_all_three_splits_and_the_class_names_are_read(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    x = images(picture, 4)
    y = np.array([0, 1, 1, 0])
    splits = load(
        tmp_path / "a.npz",
        x_train=x, y_train=y, x_validation=x[:2], y_validation=y[:2], x_test=x[2:], y_test=y[2:, None],
        classes=np.array(["no", "yes"]),
    )  # fmt: skip
    assert splits.classes == ["no", "yes"]
    np.testing.assert_array_equal(splits.train.images, x)
    assert splits.validation is not None
    assert splits.validation.labels.tolist() == [0, 1]
    assert splits.test is not None
    assert splits.test.labels.tolist() == [1, 0]


@pytest.mark.parametrize("channel", [(), (1,)])
def test_grey_images_become_rgb(tmp_path: Path, picture: Callable[..., np.ndarray], channel: tuple[int, ...]) -> None:
    grey = images(picture, 4)[..., 0]
    x, y = grey.reshape(grey.shape + channel), np.array([0, 1, 1, 0])
    splits = load(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    np.testing.assert_array_equal(splits.train.images, np.repeat(grey[..., None], 3, axis=3))


def test_labels_may_be_names(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    x, y = images(picture, 4), np.array(["ox", "ant", "ant", "ox"])
    assert load(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y).classes == ["ant", "ox"]
    with pytest.raises(DataError, match="labels that are no class: ant; classes: bee, ox"):
        load(tmp_path / "b.npz", x_train=x, y_train=y, classes=np.array(["bee", "ox"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((4, 6, 6, 3))}, "x_train is float64; images are uint8"),
        ({"x_train": np.zeros((4, 3, 6, 6), np.uint8)}, r"shape \(4, 3, 6, 6\).*\nhint: channels first"),
        ({"y_train": np.zeros((4, 10), np.int64)}, r"y_train has shape \(4, 10\)"),
        ({"y_train": np.zeros(4)}, "labels are whole numbers or names, not float64"),
        ({"y_train": np.array([0, 1, 0])}, "x_train has 4 images, y_train has 3 labels"),
        ({"y_train": np.array([0, 1, 2, 1])}, r"a\.npz/x_train\[2\]: label 2 is outside 0\.\.1"),
        ({"y_train": np.array([{}, 1, 0, 1])}, "'y_train' cannot be read: .*allow_pickle"),
        ({"y_val": np.zeros(4)}, "holds an array 'y_val'; allowed: x_train.*\nhint: did you mean 'y_validation'"),
        ({"x_test": np.zeros((4, 6, 6), np.uint8)}, "has no array 'y_test'"),
    ],
)
def test_wrong_arrays_are_named_with_what_is_allowed(
    tmp_path: Path, picture: Callable[..., np.ndarray], change: dict[str, np.ndarray], message: str
) -> None:
    good = {"x_train": images(picture, 4), "y_train": np.array([0, 1, 0, 1]), "classes": np.array(["a", "b"])}
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.npz", **{**good, **change})


def test_missing_and_foreign_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        load_splits(DataSettings(source=f"arrays:{tmp_path}/none.npz"))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"text\.npz is not an \.npz file"):
        load_splits(DataSettings(source=f"arrays:{tmp_path}/text.npz"))


def test_digits_are_scaled_to_bytes_and_split_by_seed() -> None:
    splits = load_splits(DataSettings(source="digits"))
    assert splits.test is not None
    assert splits.image_size == 8
    assert splits.classes == list("0123456789")
    assert abs(len(splits.test) - 0.2 * 1797) <= 5
    grey, labels = load_digits(return_X_y=True)
    first = int(splits.train.indices[0])
    expected = np.rint(grey[first].reshape(8, 8) * 255 / 16)
    for channel in range(3):
        np.testing.assert_array_equal(splits.train.images[first, :, :, channel], expected)
    np.testing.assert_array_equal(splits.train.labels, labels[splits.train.indices])
    assert not set(splits.train.indices) & set(splits.test.indices)
