"""The door `webdataset:SHARDS`, on shards as other tools write them and as `groundup data pack` does."""

import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundup.basis.errors import DataError, UsageError
from groundup.data import DataSettings, Splits, load_splits
from groundup.data.doors import webdataset
from groundup.data.pack import PackSettings, pack
from groundup.data.shards import remote

Save = Callable[..., Path]
Picture = Callable[..., np.ndarray]
Png = Callable[[np.ndarray], bytes]


@pytest.fixture
def shards(tmp_path: Path, save_tar: Save, picture: Picture, png: Png) -> Path:
    """Two training shards of 4 and 3 images and a test shard of 2; labels 0, 1, 2 in turn; image i is picture(i)."""
    number = 0
    for name, count in (("in-train-0000.tar", 4), ("in-train-0001.tar", 3), ("in-test-0000.tar", 2)):
        samples = []
        for _ in range(count):
            samples.append((f"x/{number:04d}", {"png": png(picture(number)), "cls": str(number % 3).encode()}))
            number += 1
        save_tar(tmp_path / "shards" / name, samples)
    return tmp_path / "shards"


def opened(place: object, **settings: Any) -> Splits:
    return load_splits(DataSettings(source=f"webdataset:{place}", **settings))


def assert_is_whole(splits: Splits, picture: Picture) -> None:
    assert splits.test is not None
    assert splits.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert splits.test.labels.tolist() == [1, 2]
    np.testing.assert_array_equal(splits.train.read(np.arange(7)), [picture(seed) for seed in range(7)])
    backwards = np.array([6, 0, 4, 3])
    np.testing.assert_array_equal(splits.train.read(backwards), [picture(seed) for seed in backwards])
    np.testing.assert_array_equal(splits.test.read(np.arange(2)), [picture(seed) for seed in (7, 8)])


def test_a_folder_gives_images_and_labels_of_each_split(shards: Path, picture: Picture) -> None:
    splits = opened(shards)
    assert splits.classes == ["0", "1", "2"]
    assert_is_whole(splits, picture)


@pytest.mark.parametrize(
    "pattern", ["in-train-{0000..0001}.tar::{at}/in-test-0000.tar", "in-{train-0000,train-0001,test-0000}.tar", "*.tar"]
)
def test_braces_stars_and_several_patterns_name_the_same_shards(shards: Path, picture: Picture, pattern: str) -> None:
    assert_is_whole(opened(f"{shards}/{pattern.replace('{at}', str(shards))}"), picture)


def test_folders_named_like_splits_hold_their_shards(shards: Path, tmp_path: Path, picture: Picture) -> None:
    for file in shards.glob("*.tar"):
        split, number = file.stem.split("-")[1:]
        place = tmp_path / "by-folder" / split / f"{number}.tar"
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
    assert_is_whole(opened(tmp_path / "by-folder"), picture)


def test_the_last_word_of_a_file_name_tells_the_split(shards: Path, tmp_path: Path, picture: Picture) -> None:
    for file in shards.glob("*.tar"):
        file.rename(shards / f"my-test-set-{file.name.removeprefix('in-')}")
    assert_is_whole(opened(shards), picture)
    for file in shards.glob("*-train-*"):
        file.rename(shards / file.name.replace("-train-", "-"))
    with pytest.raises(DataError, match=r"none of the 3 shards is of the training split\nhint: the last word .*train"):
        opened(shards)


def test_class_names_come_from_classes_txt_and_labels_from_json(
    tmp_path: Path, save_tar: Save, picture: Picture, png: Png
) -> None:
    samples = [(f"{i}", {"json": json.dumps({"label": i % 2}).encode(), "png": png(picture(i))}) for i in range(8)]
    save_tar(tmp_path / "a-0.tar", samples)
    assert opened(tmp_path).classes == ["0", "1"]
    (tmp_path / "classes.txt").write_text("ring\nbox\n")
    assert opened(tmp_path).classes == ["ring", "box"]
    named = [(key, {**files, "json": json.dumps({"label": "box"}).encode()}) for key, files in samples[:4]]
    named += [(f"{i}", {"cls": b"ring", "png": png(picture(i))}) for i in range(4, 8)]
    save_tar(tmp_path / "a-0.tar", named)
    splits = opened(tmp_path)
    assert (
        sorted([*splits.train.labels.tolist(), *(splits.test.labels.tolist() if splits.test else [])])
        == [0] * 4 + [1] * 4
    )


def test_labels_are_found_out_once_and_told_of(shards: Path) -> None:
    told: list[tuple[int, int]] = []
    first = load_splits(DataSettings(source=f"webdataset:{shards}"), progress=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]
    second = load_splits(DataSettings(source=f"webdataset:{shards}"), progress=lambda *at: told.append(at))
    assert len(told) == 3
    assert first.fingerprint == second.fingerprint


def test_the_fingerprint_is_that_of_the_content_wherever_it_lies(shards: Path, tmp_path: Path) -> None:
    before = opened(shards).fingerprint
    moved = shards.rename(tmp_path / "elsewhere")
    assert opened(moved).fingerprint == before
    assert opened(moved, resolution=5).fingerprint != before


def test_an_image_without_a_label_is_named(tmp_path: Path, save_tar: Save, picture: Picture, png: Png) -> None:
    file = save_tar(
        tmp_path / "a.tar", [("one", {"png": png(picture(0)), "cls": b"0"}), ("two", {"png": png(picture(1))})]
    )
    with pytest.raises(DataError, match=rf"{file}: image two has no label"):
        opened(tmp_path)


@pytest.mark.parametrize("share", [0.999, 0.6, 0.3, 0.05])
def test_a_truncated_shard_is_named(shards: Path, share: float) -> None:
    file = shards / "in-train-0001.tar"
    with tarfile.open(file) as archive:
        members = archive.getmembers()
    end = members[-1].offset_data + 512
    file.write_bytes(file.read_bytes()[: int(share * end)])
    with pytest.raises(DataError, match=rf"shard {file} is damaged"):
        opened(shards)


def test_a_shard_that_is_cut_between_two_images_is_found_too(shards: Path) -> None:
    file = shards / "in-train-0001.tar"
    with tarfile.open(file) as archive:
        members = archive.getmembers()
    file.write_bytes(file.read_bytes()[: members[2].offset])
    with pytest.raises(DataError, match="ends before its end mark"):
        opened(shards)


def test_a_compressed_shard_is_refused_for_what_it_is(shards: Path) -> None:
    import gzip

    file = shards / "in-train-0001.tar"
    file.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(DataError, match="compressed"):
        opened(shards)


def test_a_missing_shard_of_a_pattern_is_named(shards: Path) -> None:
    with pytest.raises(DataError, match=r"in-train-0002\.tar: there is no such file"):
        opened(f"{shards}/in-train-{{0000..0002}}.tar")


@pytest.fixture
def packed(shards: Path, tmp_path: Path) -> Path:
    """The shards of `shards`, packed: 7 training images in several shards, 2 test images."""
    pack(DataSettings(source=f"webdataset:{shards}"), tmp_path / "packed", PackSettings(shard_mb=0.01))
    assert len(list((tmp_path / "packed").glob("train-*.tar"))) > 1
    return tmp_path / "packed"


def test_a_packed_folder_is_read_without_a_pass_over_it(packed: Path) -> None:
    told: list[int] = []
    splits = load_splits(DataSettings(source=f"webdataset:{packed}"), progress=lambda *at: told.append(1))
    assert not told
    assert len(splits.train) == 7


def test_a_damaged_packed_shard_is_found_by_its_checksum_when_it_is_read(packed: Path) -> None:
    file = packed / "train-000001.tar"
    content = bytearray(file.read_bytes())
    content[600] ^= 1
    file.write_bytes(content)
    splits = opened(packed)
    with pytest.raises(DataError, match=r"train-000001\.tar is damaged: it does not match its checksum"):
        splits.train.read(np.arange(7))


@pytest.mark.parametrize("spoil", ["truncate", "remove"])
def test_a_truncated_or_missing_packed_shard_is_named_at_once(packed: Path, spoil: str) -> None:
    file = packed / "train-000001.tar"
    if spoil == "truncate":
        file.write_bytes(file.read_bytes()[:-512])
    else:
        file.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar"):
        opened(packed)


def test_the_same_images_come_over_http(
    shards: Path, packed: Path, picture: Picture, served: Callable[[Path], Any], tmp_path: Path
) -> None:
    server = served(tmp_path)
    assert_is_whole(
        opened(f"{server.url}/shards/in-train-{{0000..0001}}.tar::{server.url}/shards/in-test-0000.tar"), picture
    )
    there, here = opened(f"{server.url}/packed"), opened(packed)
    assert there.fingerprint == here.fingerprint
    np.testing.assert_array_equal(there.train.read(np.arange(7)), here.train.read(np.arange(7)))


def test_a_shard_is_fetched_once_for_the_whole_run(
    packed: Path, served: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    server = served(packed)
    server.failures = 2
    splits = opened(server.url)
    for _ in range(3):
        splits.train.read(np.arange(7))
    splits = opened(server.url)
    splits.train.read(np.arange(7))
    fetched = [path for path in server.asked if path.startswith("/train")]
    assert len(fetched) == len(set(fetched)) + 2  # two were answered by an error and asked for again


def test_a_shard_that_the_server_loses_is_named(
    packed: Path, served: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    server = served(packed)
    splits = opened(server.url)
    server.failures = 1000
    with pytest.raises(DataError, match=rf"{server.url}/train-00000\d\.tar could not be read, tried 4 times"):
        splits.train.read(np.arange(7))
    server.failures = 0
    (packed / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar: there is no such file"):
        splits.train.read(np.arange(7))


def test_a_server_that_answers_403_for_what_is_not_there_gives_its_shards(
    shards: Path, picture: Picture, served: Callable[[Path], Any]
) -> None:
    server = served(shards)
    server.secretive = True
    assert_is_whole(opened(f"{server.url}/in-{{train-0000,train-0001,test-0000}}.tar"), picture)
    with pytest.raises(DataError, match=r"in-train-9\.tar: access was refused"):
        opened(f"{server.url}/in-train-9.tar")


def replace_image(file: Path, number: int, content: bytes) -> None:
    """Another image in the place of the one with this number, in a tar file of the same size."""
    size = file.stat().st_size
    with tarfile.open(file) as archive:
        files = [(member.name, archive.extractfile(member).read()) for member in archive.getmembers()]  # type: ignore[union-attr]
    with tarfile.open(file, "w") as archive:
        for name, old in files:
            new = content if name == f"x/{number:04d}.png" else old
            entry = tarfile.TarInfo(name)
            entry.size = len(new)
            archive.addfile(entry, io.BytesIO(new))
    assert file.stat().st_size == size
    os.utime(file, (10**9, 10**9))


def test_another_image_changes_the_fingerprint_though_the_files_keep_their_size(
    shards: Path, png: Png, picture: Picture
) -> None:
    before = opened(shards).fingerprint
    replace_image(shards / "in-train-0001.tar", 5, png(picture(70)) + b"1")
    after = opened(shards)
    np.testing.assert_array_equal(after.train.read(np.array([5]))[0], picture(70))
    assert after.fingerprint != before


def test_a_file_that_was_replaced_on_a_server_is_fetched_again(
    shards: Path, png: Png, picture: Picture, served: Callable[[Path], Any]
) -> None:
    place = f"{served(shards).url}/in-{{train-0000,train-0001,test-0000}}.tar"
    np.testing.assert_array_equal(opened(place).train.read(np.array([5]))[0], picture(5))
    replace_image(shards / "in-train-0001.tar", 5, png(picture(70)))
    np.testing.assert_array_equal(opened(place).train.read(np.array([5]))[0], picture(70))


def test_a_shard_that_is_named_twice_is_refused(shards: Path) -> None:
    with pytest.raises(UsageError, match=r"in-train-0001\.tar is named twice"):
        opened(f"{shards}/*.tar::{shards}/in-train-0001.tar")


def test_a_folder_may_have_brackets_in_its_name(shards: Path, tmp_path: Path, picture: Picture) -> None:
    assert_is_whole(opened(shards.rename(tmp_path / "shards [old]")), picture)


def test_of_several_processes_that_start_together_one_finds_out_the_labels(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    labels_of = webdataset.labels_of

    def counted(shard: Any, store: Any) -> Any:
        looked.append(shard.name)
        time.sleep(0.05)
        return labels_of(shard, store)

    monkeypatch.setattr(webdataset, "labels_of", counted)
    with ThreadPoolExecutor(3) as pool:
        prints = [splits.fingerprint for splits in pool.map(opened, [shards] * 3)]
    assert len(looked) == 3
    assert len(set(prints)) == 1


def test_a_web_folder_without_an_index_says_what_to_write(shards: Path, served: Callable[[Path], Any]) -> None:
    with pytest.raises(DataError, match=r"no index\.json(?s:.*)\{000\.\.099\}"):
        opened(served(shards).url)


def test_a_stream_is_never_kept_decoded(shards: Path, cache: Path) -> None:
    assert DataSettings(source=f"webdataset:{shards}").cache == "none"
    with pytest.raises(ValueError, match=r"data\.cache='disk'"):
        DataSettings(source=f"webdataset:{shards}", cache="disk")
    opened(shards).train.read(np.arange(7))
    assert not list(cache.rglob("images.npy"))
