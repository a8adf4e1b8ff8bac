"""Parquet files as shards: `parquet:DIR?streaming`, `hub:OWNER/NAME?streaming`, and the configurations of a dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.basis.errors import DataError, UsageError
from groundup.data import DataSettings, load_splits
from groundup.data.pack import PackSettings, pack
from groundup.data.shards import parquet as parquet_shards
from groundup.data.shards import remote

Save = Callable[..., Path]
Picture = Callable[..., np.ndarray]


@pytest.fixture
def files(tmp_path: Path, save_parquet: Save) -> Path:
    """12 training images in two files, with groups of 4 rows, and 3 test images; image i is picture(i)."""
    names = {"label": ["ring", "box", "star"]}
    save_parquet(tmp_path / "p" / "train-00000-of-00002.parquet", {"label": [0, 1, 2] * 2}, names=names)
    save_parquet(tmp_path / "p" / "train-00001-of-00002.parquet", {"label": [2, 1, 0] * 2}, names=names, start=6)
    save_parquet(tmp_path / "p" / "test-00000-of-00001.parquet", {"label": [0, 1, 2]}, names=names, start=12)
    return tmp_path / "p"


def test_the_files_give_the_same_as_without_streaming(files: Path, picture: Picture) -> None:
    whole = load_splits(DataSettings(source=f"parquet:{files}"))
    splits = load_splits(DataSettings(source=f"parquet:{files}?streaming"))
    assert splits.classes == whole.classes == ["ring", "box", "star"]
    np.testing.assert_array_equal(splits.train.labels, whole.train.labels)
    shuffled = np.array([11, 2, 6, 5, 0, 7])
    np.testing.assert_array_equal(splits.train.read(shuffled), whole.train.read(shuffled))
    np.testing.assert_array_equal(splits.train.read(shuffled), [picture(seed) for seed in shuffled])
    assert splits.test is not None
    np.testing.assert_array_equal(splits.test.read(np.arange(3)), [picture(seed) for seed in (12, 13, 14)])


def test_labels_are_read_once_without_the_images(files: Path, cache: Path) -> None:
    told: list[tuple[int, int]] = []
    for _ in range(2):
        settings = DataSettings(source=f"parquet:{files}?streaming", resolution=6)
        load_splits(settings, progress=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert not list(cache.rglob("*.images"))


def test_a_damaged_file_is_named(files: Path) -> None:
    file = files / "train-00001-of-00002.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet cannot be read as Parquet"):
        load_splits(DataSettings(source=f"parquet:{files}?streaming"))


def test_a_file_that_is_cut_while_it_is_used_is_named(files: Path) -> None:
    splits = load_splits(DataSettings(source=f"parquet:{files}?streaming"))
    file = files / "train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    assert splits.train.read(np.arange(6)).shape == (6, 6, 6, 3)
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet is damaged: it has"):
        splits.train.read(np.arange(12))


def test_packed_files_come_from_disk_and_over_http_whole_or_streamed(
    files: Path, tmp_path: Path, served: Callable[[Path], Any]
) -> None:
    dest = tmp_path / "packed"
    pack(DataSettings(source=f"parquet:{files}"), dest, PackSettings(format="parquet", shard_mb=0.01))
    sources = [f"parquet:{dest}", f"parquet:{dest}?streaming", f"parquet:{served(dest).url}?streaming"]
    found = [load_splits(DataSettings(source=source)) for source in sources]
    for splits in found[1:]:
        assert splits.classes == found[0].classes
        np.testing.assert_array_equal(splits.train.labels, found[0].train.labels)
        np.testing.assert_array_equal(splits.train.read(np.arange(12)), found[0].train.read(np.arange(12)))
    assert found[1].fingerprint == found[2].fingerprint
    (dest / "train-000000.parquet").unlink()
    for source in sources:
        with pytest.raises(DataError, match=r"train-000000\.parquet"):
            load_splits(DataSettings(source=source))


def test_two_image_columns_of_one_file_are_kept_apart(tmp_path: Path, picture: Picture) -> None:
    columns: dict[str, list[Any]] = {"label": [0, 1] * 3}
    for name, start in (("photo", 0), ("mask", 50)):
        columns[name] = [{"bytes": _png(picture(start + number))} for number in range(6)]
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "p" / "train-0.parquet")
    pq.write_table(pa.table(columns), tmp_path / "p" / "test-0.parquet")
    for name, start in (("photo", 0), ("mask", 50)):
        splits = load_splits(DataSettings(source=f"parquet:{tmp_path / 'p'}?streaming", image=name))
        np.testing.assert_array_equal(splits.train.read(np.arange(6)), [picture(start + i) for i in range(6)])


def test_damage_inside_a_file_is_not_taken_for_a_full_disk(files: Path) -> None:
    file = files / "train-00001-of-00002.parquet"
    content = bytearray(file.read_bytes())
    content[4:40] = bytes(36)
    file.write_bytes(content)
    splits = load_splits(DataSettings(source=f"parquet:{files}?streaming"))
    with pytest.raises(DataError, match=r"shard .*train-00001-of-00002\.parquet is damaged"):
        splits.train.read(np.arange(12))


def test_a_failed_request_for_labels_is_made_again(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    fsspec = pytest.importorskip("fsspec")
    for file in files.iterdir():
        with fsspec.open(f"memory://labels/{file.name}", "wb") as stream:
            stream.write(file.read_bytes())
    failures = [TimeoutError("late"), RuntimeError("Session is closed")]
    read = remote.opened

    def opened(url: str) -> Any:
        if failures:
            raise failures.pop()
        return read(url)

    monkeypatch.setattr(parquet_shards, "opened", opened)
    urls = [f"memory://labels/train-0000{number}-of-00002.parquet" for number in range(2)]
    source = parquet_shards.open_parquet_shards(
        {"train": urls}, DataSettings(source="hub:a/b?streaming"), lambda: None, []
    )
    assert source.read().splits["train"].labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 1, 0, 2, 1, 0]
    assert not failures


def test_a_packed_folder_is_read_by_its_own_door(files: Path, tmp_path: Path) -> None:
    pack(DataSettings(source=f"parquet:{files}"), tmp_path / "packed", PackSettings())
    with pytest.raises(DataError, match="write webdataset:"):
        load_splits(DataSettings(source=f"parquet:{tmp_path / 'packed'}?streaming"))


def test_a_disk_cache_that_does_not_hold_two_windows_is_refused(files: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.shard_cache_gb=1e-06"):
        load_splits(DataSettings(source=f"parquet:{files}?streaming", shard_cache_gb=1e-6))


def test_the_disk_cache_keeps_to_its_limit_and_what_was_removed_is_made_again(
    tmp_path: Path, save_parquet: Save, cache: Path, picture: Picture
) -> None:
    for number in range(6):
        images = [picture(10 * number + index, 60, 60) for index in range(10)]
        save_parquet(
            tmp_path / "p" / f"train-{number:05d}.parquet", {"label": [0, 1] * 5}, images=[_png(i) for i in images]
        )
    largest = max(file.stat().st_size for file in (tmp_path / "p").iterdir())
    limit = 3 * largest
    settings = DataSettings(
        source=f"parquet:{tmp_path / 'p'}?streaming", shuffle_window=1, shard_cache_gb=limit / 1e9, validation=0.2
    )
    splits = load_splits(settings)
    for _ in range(2):
        for first in range(0, len(splits.train), 4):
            positions = np.arange(first, min(first + 4, len(splits.train)))
            wanted = [picture(number, 60, 60) for number in splits.train.indices[positions].tolist()]
            np.testing.assert_array_equal(splits.train.read(positions), wanted)
            kept = sum(file.stat().st_size for file in (cache / "shards").glob("*.images"))
            assert kept <= limit


def _png(array: np.ndarray) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_parquet: Save) -> None:
    """acme/shapes with the configurations `small` and `large`, which differ in their images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    root = tmp_path / "acme" / "shapes"
    names = {"label": ["ring", "box"]}
    for start, config in ((0, "small"), (50, "large")):
        save_parquet(root / config / "train-00000-of-00001.parquet", {"label": [0, 1] * 4}, names=names, start=start)
        save_parquet(
            root / config / "validation-00000-of-00001.parquet", {"label": [0, 1]}, names=names, start=start + 8
        )
    lines = [f"- config_name: {config}\n  data_dir: {config}" for config in ("small", "large")]
    (root / "README.md").write_text("---\nconfigs:\n" + "\n".join(lines) + "\n---\n")


@pytest.mark.parametrize("suffix", ["", "?streaming"])
def test_a_configuration_of_a_dataset_is_named_after_a_colon(hub: None, picture: Picture, suffix: str) -> None:
    for config, start in (("small", 0), ("large", 50)):
        splits = load_splits(DataSettings(source=f"hub:acme/shapes:{config}{suffix}"))
        np.testing.assert_array_equal(splits.train.read(np.arange(8)), [picture(start + index) for index in range(8)])
        assert splits.classes == ["ring", "box"]
        assert splits.test is not None
        assert len(splits.test) == 2
        assert "one held-out split" in splits.notes[0]


@pytest.mark.parametrize("suffix", ["", "?streaming"])
def test_a_dataset_with_configurations_asks_for_one(hub: None, suffix: str) -> None:
    with pytest.raises(DataError, match=r"(?s)could not be loaded: .*small"):
        load_splits(DataSettings(source=f"hub:acme/shapes{suffix}"))
    with pytest.raises(DataError, match=r"(?s)could not be loaded: .*configuration 'huge'"):
        load_splits(DataSettings(source=f"hub:acme/shapes:huge{suffix}"))


def test_streaming_from_the_hub_keeps_no_copy_of_its_own(hub: None, tmp_path: Path) -> None:
    load_splits(DataSettings(source="hub:acme/shapes:small?streaming"))
    assert not list((tmp_path / "hub").rglob("*.arrow"))
