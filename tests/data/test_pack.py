"""Packing into shards: the same pixels, the same bytes every time, and nothing lost when it is killed."""

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from groundup.basis.errors import DataError, UsageError
from groundup.data import DataSettings, ImageSet, load_splits
from groundup.data.pack import LOCK_FILE, PackSettings, decoded_per_second, pack
from groundup.data.shards.index import ShardIndex

Save = Callable[..., Path]
Picture = Callable[..., np.ndarray]


@pytest.fixture
def folder(tmp_path: Path, save_folder: Save) -> str:
    """60 training and 8 validation images of 2 classes."""
    save_folder(tmp_path / "x" / "train", per_class=30)
    save_folder(tmp_path / "x" / "val", per_class=4, start=50)
    return f"folder:{tmp_path / 'x'}"


def hashes(place: Path) -> dict[str, str]:
    """Of all files but the lock, which a call that was stopped leaves."""
    files = (file for file in sorted(place.iterdir()) if file.suffix != ".lock")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def images(part: ImageSet | None) -> list[tuple[int, bytes]]:
    """(label, pixels) of every image, in an order that does not depend on how they are stored."""
    assert part is not None
    pixels = part.read(np.arange(len(part))).numpy()
    return sorted((label, image.tobytes()) for label, image in zip(part.labels.tolist(), pixels, strict=True))


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_what_is_packed_reads_back_with_the_same_pixels_labels_and_splits(
    folder: str, tmp_path: Path, kind: Any
) -> None:
    index = pack(DataSettings(source=folder), tmp_path / "out", PackSettings(format=kind, shard_mb=0.01))
    assert [entry.name for entry in index.splits["train"]] == sorted(p.name for p in (tmp_path / "out").glob("train-*"))
    before = load_splits(DataSettings(source=folder))
    doors = {"tar": ["webdataset:{}"], "parquet": ["parquet:{}", "parquet:{}?streaming"]}[kind]
    for door in doors:
        after = load_splits(DataSettings(source=door.format(tmp_path / "out")))
        assert after.classes == before.classes
        assert images(after.train) == images(before.train)
        assert images(after.test) == images(before.test)


def test_tar_shards_are_shuffled_and_hold_the_encoded_bytes_unchanged(folder: str, tmp_path: Path) -> None:
    index = pack(DataSettings(source=folder), tmp_path / "out", PackSettings(shard_mb=0.03))
    labels = np.concatenate([entry.labels for entry in index.splits["train"]])
    assert len(index.splits["train"]) > 2
    assert not np.array_equal(labels, np.sort(labels))
    content = {file.read_bytes() for file in Path(folder.partition(":")[2]).rglob("*.png")}
    for entry in index.splits["train"]:
        with tarfile.open(tmp_path / "out" / entry.name) as archive:
            members = archive.getmembers()
            assert {member.name.partition(".")[2] for member in members} == {"png", "cls"}
            for member in members[::2]:
                stream = archive.extractfile(member)
                assert stream is not None
                assert stream.read() in content
    other = pack(DataSettings(source=folder), tmp_path / "other", PackSettings(shard_mb=0.03, seed=1))
    assert not np.array_equal(labels, np.concatenate([entry.labels for entry in other.splits["train"]]))


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_the_same_call_gives_the_same_bytes(folder: str, tmp_path: Path, kind: Any) -> None:
    settings = PackSettings(format=kind, shard_mb=0.03)
    for name in ("a", "b"):
        pack(DataSettings(source=folder), tmp_path / name, settings)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    pack(DataSettings(source=folder), tmp_path / "a", settings)  # once more does nothing
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_an_interrupted_call_leaves_whole_shards_and_goes_on(folder: str, tmp_path: Path, after: int) -> None:
    settings = PackSettings(shard_mb=0.02)
    pack(DataSettings(source=folder), tmp_path / "whole", settings)
    finished: list[int] = []

    def progress(done: int, total: int) -> None:
        finished.append(done)

    def check() -> None:
        if len(finished) >= after:
            raise Stop

    with pytest.raises(Stop):
        pack(DataSettings(source=folder), tmp_path / "out", settings, check=check, progress=progress)
    whole, left = hashes(tmp_path / "whole"), hashes(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert {name: value for name, value in left.items() if name.endswith(".tar")}.items() <= whole.items()
    if after:
        with pytest.raises(DataError, match="has not finished this folder"):
            load_splits(DataSettings(source=f"webdataset:{tmp_path / 'out'}"))
    pack(DataSettings(source=folder), tmp_path / "out", settings)
    assert hashes(tmp_path / "out") == whole


def test_a_killed_process_is_followed_by_a_call_that_gives_identical_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "groundup", "data", "pack", "digits", str(tmp_path / "out"), "--shard-mb", "0.05"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "out").glob("train-*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    settings = PackSettings(shard_mb=0.05)
    pack(DataSettings(source="digits"), tmp_path / "whole", settings)
    whole, left = hashes(tmp_path / "whole"), hashes(tmp_path / "out")
    shards = {name: value for name, value in left.items() if name.startswith("train-")}
    assert 3 <= len(shards) < len(whole) - 1
    assert shards.items() <= whole.items()
    index = pack(DataSettings(source="digits"), tmp_path / "out", settings)
    assert sum(len(entry.labels) for entry in index.splits["train"]) == 1797
    assert hashes(tmp_path / "out") == whole


def test_a_folder_that_holds_something_else_is_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        pack(DataSettings(source=folder), tmp_path / "out", PackSettings())
    pack(DataSettings(source=folder), tmp_path / "first", PackSettings())
    with pytest.raises(UsageError, match="seed was 0, is 1"):
        pack(DataSettings(source=folder), tmp_path / "first", PackSettings(seed=1))
    with pytest.raises(UsageError, match="source was"):
        pack(DataSettings(source="digits"), tmp_path / "first", PackSettings())
    assert not (tmp_path / "first" / LOCK_FILE).exists()


def test_other_columns_of_the_same_source_are_something_else(tmp_path: Path, save_parquet: Save) -> None:
    save_parquet(tmp_path / "p" / "train-0.parquet", {"fine": [0, 1, 2, 3] * 3, "coarse": [0, 0, 1, 1] * 3})
    source = f"parquet:{tmp_path / 'p'}"
    pack(DataSettings(source=source, label="fine"), tmp_path / "out", PackSettings())
    with pytest.raises(UsageError, match="label was 'fine', is 'coarse'"):
        pack(DataSettings(source=source, label="coarse"), tmp_path / "out", PackSettings())


def test_a_second_call_into_the_same_folder_is_refused_while_the_first_goes_on(folder: str, tmp_path: Path) -> None:
    refused: list[str] = []

    def check() -> None:
        if not refused and list((tmp_path / "out").glob("train-*")):
            with pytest.raises(UsageError, match="another `groundup data pack`") as caught:
                pack(DataSettings(source=folder), tmp_path / "out", PackSettings(shard_mb=0.02))
            refused.append(str(caught.value))

    pack(DataSettings(source=folder), tmp_path / "out", PackSettings(shard_mb=0.02), check=check)
    assert len(refused) == 1
    pack(DataSettings(source=folder), tmp_path / "whole", PackSettings(shard_mb=0.02))
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert not [file for file in (tmp_path / "out").iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("spoil", ["remove", "truncate"])
def test_a_shard_that_is_gone_or_cut_is_packed_again(folder: str, tmp_path: Path, spoil: str, finished: bool) -> None:
    settings = PackSettings(shard_mb=0.02)
    pack(DataSettings(source=folder), tmp_path / "whole", settings)
    stop_after = 3

    def check() -> None:
        if not finished and len(list((tmp_path / "out").glob("train-*"))) >= stop_after:
            raise Stop

    with contextlib.suppress(Stop):
        pack(DataSettings(source=folder), tmp_path / "out", settings, check=check)
    assert (tmp_path / "out" / "index.json").exists() is finished
    shard = tmp_path / "out" / "train-000001.tar"
    shard.unlink() if spoil == "remove" else shard.write_bytes(shard.read_bytes()[:-512])
    pack(DataSettings(source=folder), tmp_path / "out", settings)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


@pytest.mark.parametrize("suffix", ["", "?streaming"])
def test_parquet_files_of_a_call_that_has_not_finished_are_not_taken_for_all(
    folder: str, tmp_path: Path, suffix: str
) -> None:
    def check() -> None:
        if list((tmp_path / "out").glob("train-*")):
            raise Stop

    with pytest.raises(Stop):
        pack(DataSettings(source=folder), tmp_path / "out", PackSettings("parquet", shard_mb=0.02), check=check)
    with pytest.raises(DataError, match="has not finished this folder"):
        load_splits(DataSettings(source=f"parquet:{tmp_path / 'out'}{suffix}"))


def test_larger_images_are_brought_to_a_shorter_side_and_others_stay(
    tmp_path: Path, picture: Picture, png: Callable[[np.ndarray], bytes]
) -> None:
    for name, (width, height) in {
        "a/wide": (200, 100),
        "a/tall": (90, 120),
        "b/small": (30, 40),
        "b/even": (64, 64),
    }.items():
        place = tmp_path / "x" / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(picture(width, width, height)))
    index = pack(
        DataSettings(source=f"folder:{tmp_path / 'x'}"), tmp_path / "out", PackSettings(resolution=50, quality=80)
    )
    sizes = []
    with tarfile.open(tmp_path / "out" / index.splits["train"][0].name) as archive:
        for member in archive.getmembers():
            stream = archive.extractfile(member)
            assert stream is not None
            if not member.name.endswith(".cls"):
                sizes.append((Image.open(io.BytesIO(stream.read())).size, member.name.partition(".")[2]))
    assert sorted(sizes) == [((30, 40), "png"), ((50, 50), "jpg"), ((50, 67), "jpg"), ((100, 50), "jpg")]


def test_what_is_no_image_is_named(tmp_path: Path, save_folder: Save) -> None:
    save_folder(tmp_path / "x")
    (tmp_path / "x" / "cat" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"cat/1\.png: not an image"):
        pack(DataSettings(source=f"folder:{tmp_path / 'x'}"), tmp_path / "out", PackSettings())


@pytest.mark.parametrize("wrong", [{"shard_mb": 0.0}, {"quality": 0}, {"resolution": 0}, {"format": "zip"}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        PackSettings(**wrong)


def test_a_stream_is_packed_in_windows(folder: str, tmp_path: Path) -> None:
    pack(DataSettings(source=folder), tmp_path / "first", PackSettings(shard_mb=0.02))
    again = DataSettings(source=f"webdataset:{tmp_path / 'first'}", shuffle_window=2)
    pack(again, tmp_path / "second", PackSettings(format="parquet", shard_mb=0.02))
    splits = load_splits(DataSettings(source=f"parquet:{tmp_path / 'second'}?streaming"))
    assert images(splits.train) == images(load_splits(DataSettings(source=folder)).train)


@pytest.mark.parametrize(
    "spoil", [b"", b"{}", b'{"format": "groundup-shards", "version": 9}', b'{"format": "groundup-shards"']
)
def test_a_damaged_index_is_named(folder: str, tmp_path: Path, spoil: bytes) -> None:
    pack(DataSettings(source=folder), tmp_path / "out", PackSettings())
    with pytest.raises(DataError, match=r"index\.json"):
        ShardIndex.parse(spoil, str(tmp_path / "out" / "index.json"))


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_how_fast_the_packed_images_decode_is_told_without_a_copy_of_them(
    folder: str, tmp_path: Path, kind: Any, cache: Path
) -> None:
    index = pack(DataSettings(source=folder), tmp_path / "out", PackSettings(format=kind))
    speed = decoded_per_second(index, tmp_path / "out")
    assert speed is not None
    assert 1 < speed < 1e6
    assert not list(cache.rglob("*.images"))


def test_images_that_cannot_be_decoded_have_no_speed_and_end_nothing(tmp_path: Path, save_parquet: Save) -> None:
    for split in ("train", "test"):
        save_parquet(tmp_path / "x" / f"{split}-0.parquet", {"label": [0, 1]}, images=[b"\xff\xd8\xff damaged"] * 2)
    index = pack(DataSettings(source=f"parquet:{tmp_path / 'x'}"), tmp_path / "out", PackSettings())
    assert decoded_per_second(index, tmp_path / "out") is None
