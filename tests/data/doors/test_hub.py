"""The door `hub:OWNER/NAME`, on a local folder in the layout of the Hub, which `datasets` prefers to the network."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest

from groundup.basis.errors import DataError, UsageError
from groundup.data import DataSettings, load_splits
from groundup.data.doors.hub import _while_checking

Save = Callable[..., Path]


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_parquet: Save) -> Path:
    """acme/shapes: 4 training and 2 test images with a fine and a coarse label."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    # Even for a local folder `datasets` would ask the Hub to count a download.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    names = {"fine": ["ring", "box", "star"], "coarse": ["round", "edgy"]}
    root = tmp_path / "acme" / "shapes"
    train = {"fine": [2, 0, 1, 0], "coarse": [1, 0, 1, 0]}
    save_parquet(root / "data" / "train-00000-of-00001.parquet", train, names=names)
    test = {"fine": [1, 2], "coarse": [1, 1]}
    save_parquet(root / "data" / "test-00000-of-00001.parquet", test, names=names, start=4)
    return root


def test_a_dataset_gives_its_images_labels_and_class_names(
    shapes: Path, picture: Callable[..., np.ndarray], cache: Path
) -> None:
    settings = DataSettings(source="hub:acme/shapes", label="fine")
    splits = load_splits(settings)
    assert splits.classes == ["ring", "box", "star"]
    assert splits.train.labels.tolist() == [2, 0, 1, 0]
    np.testing.assert_array_equal(splits.train.images, [picture(seed) for seed in range(4)])
    assert splits.test is not None
    assert splits.test.labels.tolist() == [1, 2]
    load_splits(settings)
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1


def test_several_label_columns_are_listed(shapes: Path) -> None:
    with pytest.raises(UsageError, match="could be the label: fine, coarse"):
        load_splits(DataSettings(source="hub:acme/shapes"))


def test_a_dataset_that_cannot_be_loaded_is_named_with_the_way_round(shapes: Path) -> None:
    for file in shapes.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(
        DataError, match=r"data\.source='hub:acme/shapes' could not be loaded: (?s:.*)parquet:DIR"
    ) as caught:
        load_splits(DataSettings(source="hub:acme/shapes"))
    assert caught.value.__cause__ is not None


def test_a_download_can_be_interrupted() -> None:
    import threading

    never = threading.Event()

    class Stop(Exception):
        pass

    def check() -> None:
        raise Stop

    with pytest.raises(Stop):
        _while_checking(never.wait, check)
    never.set()
