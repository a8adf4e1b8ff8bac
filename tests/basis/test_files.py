"""Files appear whole or not at all."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from groundup.basis.files import cache_home, fsync_folder, sha256, whole_file, write_bytes, write_json, write_text


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "ümlaut\n")
    write_bytes(tmp_path / "new" / "b.bin", b"\x00\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ümlaut\n".encode()
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"\x00\xff"
    assert sorted(os.listdir(tmp_path / "new")) == ["a.txt", "b.bin"]


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_error_in_the_middle_leaves_the_old_content_and_no_rest(
    tmp_path: Path, problem: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half of the n")
            raise problem

    with pytest.raises(problem):
        half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_while_it_is_written_readers_see_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent, "a rename is one move only inside one file system"
    assert path.read_text() == "new"


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_not_json_and_keeps_the_old_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"loss": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": value})
    assert json.loads(path.read_text()) == {"loss": 1.5}
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_checksum_is_sha256_and_progress_is_told_once_per_block(tmp_path: Path) -> None:
    content = bytes(range(256)) * (17 << 12)  # 17 MiB: two full blocks and a part
    write_bytes(tmp_path / "a", content)
    calls: list[None] = []
    assert sha256(tmp_path / "a", lambda: calls.append(None)) == hashlib.sha256(content).hexdigest()
    assert len(calls) == 3
    write_bytes(tmp_path / "empty", b"")
    assert sha256(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()


def test_syncing_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    fsync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync_folder(tmp_path / "missing")


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROUNDUP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache" / "groundup"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "groundup"
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "own"))
    assert cache_home() == tmp_path / "own"
