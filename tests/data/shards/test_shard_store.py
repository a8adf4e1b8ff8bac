"""The shards on this machine's disk: made once, the least recently used removed."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from groundup.basis.errors import DataError
from groundup.data.shards.store import ShardStore


def opened(store: ShardStore, key: str, made: list[str]) -> bytes:
    def make(path: Path) -> None:
        made.append(key)
        path.write_bytes(key.encode() * 10)

    descriptor = store.open(key, make)
    try:
        return os.pread(descriptor, 100, 0)
    finally:
        os.close(descriptor)


def age(store: ShardStore, *keys: str) -> None:
    """Let the files have been used in this order, long ago."""
    for number, key in enumerate(keys):
        os.utime(store.folder / key, (number, number))


def test_the_least_recently_used_goes_first_and_only_as_much_as_is_needed(cache: Path) -> None:
    store, made = ShardStore(35), list[str]()
    for key in "abc":
        opened(store, key, made)
    age(store, "b", "a", "c")
    opened(store, "d", made)
    assert sorted(path.name for path in store.folder.iterdir() if path.name[0] != ".") == ["a", "c", "d"]
    assert [opened(store, key, made) for key in "acd"] == [b"a" * 10, b"c" * 10, b"d" * 10]
    assert made == ["a", "b", "c", "d"]


def test_reading_counts_as_use(cache: Path) -> None:
    store, made = ShardStore(25), list[str]()
    for key in "ab":
        opened(store, key, made)
    age(store, "a", "b")
    opened(store, "a", made)
    opened(store, "c", made)
    assert (store.folder / "a").exists()
    assert not (store.folder / "b").exists()


def test_an_open_file_outlives_its_removal(cache: Path) -> None:
    store = ShardStore(5)
    descriptor = store.open("a", lambda path: _write(path, b"kept"))
    opened(store, "b", [])
    assert not (store.folder / "a").exists()
    assert os.pread(descriptor, 10, 0) == b"kept"
    os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_several_who_want_the_same_make_it_once(cache: Path) -> None:
    store, made = ShardStore(100), list[str]()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: opened(store, "a", made), range(8)))
    assert found == [b"a" * 10] * 8
    assert made == ["a"]


def test_a_failure_leaves_nothing_and_what_a_killed_process_left_is_removed(cache: Path) -> None:
    store = ShardStore(100)

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise DataError("the network is gone")

    work: Callable[[Path], None] = fail
    with pytest.raises(DataError, match="the network is gone"):
        store.open("a", work)
    (store.folder / ".a.01234567.tmp").write_bytes(b"half")
    (store.folder / ".a.01234567.tmp.tmp").write_bytes(b"half")
    assert opened(store, "a", []) == b"a" * 10
    assert sorted(path.name for path in store.folder.iterdir()) == [".a.lock", "a"]


def test_what_is_being_made_under_a_longer_name_stays(cache: Path) -> None:
    store = ShardStore(100)
    other = store.folder / ".a.members.01234567.tmp"
    store.folder.mkdir(parents=True)
    other.write_bytes(b"under way")
    opened(store, "a", [])
    assert other.exists()


def test_what_was_killed_under_a_name_that_is_never_asked_for_again_goes_after_a_while(cache: Path) -> None:
    store = ShardStore(100)
    store.folder.mkdir(parents=True)
    old, new = store.folder / ".x.01234567.tmp", store.folder / ".y.01234567.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    opened(store, "a", [])
    assert not old.exists()
    assert new.exists()


def test_notes_of_checked_shards_are_no_shards(cache: Path) -> None:
    store, made = ShardStore(15), list[str]()
    note = store.folder / "checked" / "note"
    note.parent.mkdir(parents=True)
    note.write_bytes(b"")
    os.utime(note.parent, (1, 1))
    for key in "ab":
        assert opened(store, key, made) == key.encode() * 10
    assert note.exists()
    assert not (store.folder / "a").exists()
