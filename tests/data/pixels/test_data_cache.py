"""The decoded cache: whole or not at all, built once, rebuilt when damaged."""

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from groundup.basis.errors import DataError
from groundup.data import DataSettings, Splits, load_splits

Save = Callable[..., Path]


def folders(cache: Path) -> list[Path]:
    """Everything but lock files: finished caches, and whatever a broken build may have left."""
    return sorted(entry for entry in cache.iterdir() if entry.suffix != ".lock") if cache.exists() else []


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Two classes of 150 training and 5 test images."""
    images = np.random.default_rng(0).integers(0, 256, (310, 6, 6, 3), dtype=np.uint8)
    labels = np.arange(310) % 2
    np.savez(
        tmp_path / "x.npz",
        x_train=images[:300],
        y_train=labels[:300],
        x_test=images[300:],
        y_test=labels[300:],
        classes=np.array(["cat", "dog"]),
    )
    return f"arrays:{tmp_path / 'x.npz'}"


def same(first: Splits, second: Splits) -> bool:
    return first.fingerprint == second.fingerprint and bool((first.train.images == second.train.images).all())


def test_the_second_opening_decodes_nothing_and_gives_the_same(source: str) -> None:
    seen: list[tuple[int, int]] = []
    settings = DataSettings(source=source)
    first = load_splits(settings, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (310, 310)
    assert seen == sorted(seen)
    seen.clear()
    second = load_splits(settings, progress=lambda done, total: seen.append((done, total)))
    assert not seen
    assert same(first, second)


def test_images_are_memory_mapped_and_read_only(source: str) -> None:
    images = load_splits(DataSettings(source=source)).train.images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_split_settings_share_a_cache_and_decode_settings_do_not(source: str, cache: Path) -> None:
    load_splits(DataSettings(source=source))
    load_splits(DataSettings(source=source, validation=0.1, split_seed=3, limit=100, resize="crop"))
    assert len(folders(cache)) == 1
    load_splits(DataSettings(source=source, resolution=4))
    load_splits(DataSettings(source=source, resolution=4, resize="crop"))
    load_splits(DataSettings(source=source, on_bad_image="skip"))
    assert len(folders(cache)) == 4


def test_an_interrupted_build_leaves_nothing_behind(source: str, cache: Path) -> None:
    calls = 0

    class Stop(Exception):
        pass

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Stop

    with pytest.raises(Stop):
        load_splits(DataSettings(source=source), check=check)
    assert folders(cache) == []
    assert len(load_splits(DataSettings(source=source)).train) == 300


def test_check_is_called_at_least_every_hundred_images(source: str) -> None:
    done_at_check = [0]
    done = 0

    def progress(count: int, total: int) -> None:
        nonlocal done
        done = count

    load_splits(DataSettings(source=source), check=lambda: done_at_check.append(done), progress=progress)
    assert max(np.diff([*done_at_check, done])) <= 100


@pytest.mark.parametrize("file", ["train/images.npy", "test/labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "grown", "removed"])
def test_a_damaged_cache_is_rebuilt(source: str, cache: Path, file: str, damage: str) -> None:
    settings = DataSettings(source=source)
    first = load_splits(settings)
    whole = first.train.images.copy()
    (folder,) = folders(cache)
    path = folder / file
    if damage == "removed":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-7] if damage == "cut" else content + bytes(7))
    second = load_splits(settings)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.train.images, whole)
    assert folders(cache) == [folder]


def test_a_cache_of_another_format_is_rebuilt(source: str, cache: Path) -> None:
    load_splits(DataSettings(source=source))
    (folder,) = folders(cache)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format": 0, "classes": ["old"]}))
    assert load_splits(DataSettings(source=source)).classes == ["cat", "dog"]


def test_what_a_killed_build_left_is_cleared_away(source: str, cache: Path) -> None:
    load_splits(DataSettings(source=source))
    (folder,) = folders(cache)
    (folder / "meta.json").unlink()
    folder.rename(cache / f".{folder.name}.0123.tmp")
    load_splits(DataSettings(source=source))
    assert folders(cache) == [folder]


def test_two_builds_at_once_decode_once(source: str, cache: Path) -> None:
    decoded: list[int] = []
    results: list[Splits] = []

    def load() -> None:
        results.append(load_splits(DataSettings(source=source), progress=lambda done, total: decoded.append(done)))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == len(set(decoded))
    assert max(decoded) == 310
    assert same(results[0], results[1])
    assert len(folders(cache)) == 1


def test_waiting_for_another_build_can_be_interrupted(source: str, cache: Path) -> None:
    load_splits(DataSettings(source=source))
    (folder,) = folders(cache)
    (folder / "meta.json").unlink()

    class Stop(Exception):
        pass

    started = time.monotonic()

    def check() -> None:
        if time.monotonic() > started + 0.3:
            raise Stop

    with FileLock(f"{folder}.lock"), pytest.raises(Stop):
        load_splits(DataSettings(source=source), check=check)


def test_a_failed_write_says_where_and_what_to_do_and_leaves_nothing(source: str, cache: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the images need 32,400 bytes
    try:
        with pytest.raises(DataError, match=r"could not be written to .*\nhint: .*GROUNDUP_CACHE"):
            load_splits(DataSettings(source=source))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folders(cache) == []


def test_data_larger_than_the_disk_is_refused_before_it_is_decoded(source: str, cache: Path) -> None:
    with pytest.raises(DataError, match=r"the decoded images need [\d,.]+ GB, .* has [\d.]+ GB left\nhint: make room"):
        load_splits(DataSettings(source=source, resolution=1_000_000))
    assert folders(cache) == []


def test_a_cache_folder_that_cannot_be_made_is_an_error_with_a_hint(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="GROUNDUP_CACHE"):
        load_splits(DataSettings(source=source))


def test_the_fingerprint_follows_the_content_not_where_or_when_it_was_written(
    tmp_path: Path, save_folder: Save
) -> None:
    prints = []
    for name, start in (("a", 0), ("b", 0), ("c", 1)):
        save_folder(tmp_path / name / "train", start=start)
        save_folder(tmp_path / name / "test")
        prints.append(load_splits(DataSettings(source=f"folder:{tmp_path / name}")).fingerprint)
    assert prints[0] == prints[1] != prints[2]


_BUILD = """
import sys, time
from groundup.data import DataSettings, load_splits

def progress(done, total):
    if sys.argv[2] == "hang":
        print("building", flush=True)
        time.sleep(600)

print(len(load_splits(DataSettings(source=sys.argv[1]), progress=progress).train))
"""


def test_a_build_that_waits_for_a_killed_one_takes_over(source: str, cache: Path) -> None:
    def start(mode: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([sys.executable, "-c", _BUILD, source, mode], stdout=subprocess.PIPE, text=True)

    with start("hang") as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "building\n"
        assert len(folders(cache)) == 1
        with start("finish") as waiting:
            killed.kill()
            assert waiting.communicate(timeout=60)[0] == "300\n"
    (folder,) = folders(cache)
    assert not folder.name.startswith(".")
