"""Checkpoints are whole or not there, know when they are damaged, and never run code."""

import contextlib
import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from groundup.basis.errors import CheckpointError
from groundup.basis.files import sha256, write_json
from groundup.training import CheckpointStore, Sums, TrainingState, load_checkpoint, load_weights, read_state

FILES = ("model.safetensors", "state.pt", "checksums.json")
ENGINE = {"device": "cpu", "threads": 1}


def make_state(value: float = 0.0) -> TrainingState:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        model[0].weight.fill_(value)  # type: ignore[operator, union-attr]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, optimizer, scaler, Sums.zeros(torch.device("cpu")))


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def save(store: CheckpointStore, step: int, *, best: int | None = None) -> Path:
    """A checkpoint whose weights are its step."""
    state = make_state(float(step))
    state.step, state.best = step, None if best is None else {"step": best, "validation_top1": 0.5}
    return store.save(state, ENGINE)


def names(store: CheckpointStore) -> list[str]:
    return sorted(os.listdir(store.folder))


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    file.write_bytes(content)


def test_everything_of_the_state_comes_back(
    store: CheckpointStore, differences: Callable[[Any, Any], list[str]]
) -> None:
    state = make_state(2.0)
    state.model(torch.randn(8, 4)).square().sum().backward()
    state.optimizer.step()
    state.step, state.seconds, state.images, state.flops, state.skipped_updates = 7, 1.5, 56, 10**15, 2
    state.evaluated_at, state.best = 4, {"step": 4, "validation_top1": 0.25}
    state.sums.values += torch.arange(5)
    with_extra = CheckpointStore(store.folder, extra={"recipe": {"name": "tiny", "phases": [1, None]}})
    folder = with_extra.save(state, ENGINE)
    fresh = make_state()
    tensors = {name: tensor.data_ptr() for name, tensor in fresh.model.state_dict().items()}
    saved = load_checkpoint(folder, fresh)
    assert differences(fresh.to_dict(), state.to_dict()) == []
    assert differences(fresh.model.state_dict(), state.model.state_dict()) == []
    assert {name: tensor.data_ptr() for name, tensor in fresh.model.state_dict().items()} == tensors, "in place"
    assert (saved["engine"], saved["recipe"]) == (ENGINE, {"name": "tiny", "phases": [1, None]})


def test_a_checkpoint_holds_three_files_and_last_points_to_it(store: CheckpointStore) -> None:
    folder = save(store, 5)
    assert folder.name == "step-0000005"
    assert sorted(os.listdir(folder)) == sorted(FILES)
    assert os.readlink(store.folder / "last") == "step-0000005"
    assert names(store) == ["last", "step-0000005"]


def test_the_newest_are_kept_and_the_best_whatever_its_age(store: CheckpointStore) -> None:
    save(store, 1, best=1)
    for step in (2, 3, 4):
        save(store, step, best=1)
    assert names(store) == ["best", "last", "step-0000001", "step-0000003", "step-0000004"]
    assert [os.readlink(store.folder / link) for link in ("best", "last")] == ["step-0000001", "step-0000004"]
    save(store, 5, best=5)
    assert names(store) == ["best", "last", "step-0000004", "step-0000005"]
    assert os.readlink(store.folder / "best") == "step-0000005"


def test_keep_says_how_many(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for step in range(6):
        save(store, step)
    assert [folder.name for folder in store.all()] == ["step-0000005", "step-0000004", "step-0000003"]


def test_the_newest_is_found_beyond_seven_digits(store: CheckpointStore) -> None:
    for step in (9_999_998, 9_999_999, 10_000_000):
        save(store, step)
    assert store.newest_whole(pytest.fail) == store.folder / "step-10000000"
    assert (store.folder / "step-9999999").is_dir()


def test_nothing_saved_is_nothing_found(store: CheckpointStore) -> None:
    assert store.newest_whole(pytest.fail) is None


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["one bit", "cut short", "gone", "empty"])
def test_damage_is_detected_and_the_one_before_is_used(store: CheckpointStore, file: str, how: str) -> None:
    save(store, 1)
    broken = save(store, 2) / file
    if how == "one bit":
        damage(broken)
    elif how == "gone":
        broken.unlink()
    else:
        broken.write_bytes(broken.read_bytes()[: 0 if how == "empty" else -7])
    said: list[str] = []
    found = store.newest_whole(said.append)
    assert found == store.folder / "step-0000001"
    (message,) = said
    assert "step-0000002 is damaged" in message
    assert "using the checkpoint before it" in message
    state = make_state()
    load_checkpoint(found, state)
    assert state.step == 1
    assert (state.model[0].weight == 1).all()  # type: ignore[index, union-attr]


@pytest.mark.parametrize("content", ["5", "null", "[]", '"model"', "{}", '{"format": 1, "state.pt": 3}'])
def test_checksums_that_are_json_and_yet_none_are_damage(content: str, store: CheckpointStore) -> None:
    save(store, 1)
    (save(store, 2) / "checksums.json").write_text(content)
    said: list[str] = []
    assert store.newest_whole(said.append) == store.folder / "step-0000001"
    assert "step-0000002 is damaged" in said[0]


def test_when_all_are_damaged_the_run_says_so(store: CheckpointStore) -> None:
    for step in (1, 2):
        damage(save(store, step) / "model.safetensors")
    said: list[str] = []
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged") as caught:
        store.newest_whole(said.append)
    assert len(said) == 2
    assert caught.value.hint is not None


def test_a_damaged_checkpoint_is_written_again_and_a_whole_one_is_not(store: CheckpointStore) -> None:
    folder = save(store, 1)
    damage(folder / "state.pt")
    save(store, 1)
    assert store.newest_whole(pytest.fail) == folder
    before = (folder / "state.pt").stat().st_mtime_ns
    save(store, 1)
    assert (folder / "state.pt").stat().st_mtime_ns == before


def test_going_on_from_before_damaged_ones_keeps_what_is_written_next(store: CheckpointStore) -> None:
    save(store, 10, best=10)
    for step in (20, 30):
        damage(save(store, step, best=10) / "state.pt")
    assert store.newest_whole(lambda _: None) == store.folder / "step-0000010"
    save(store, 15, best=10)
    assert store.newest_whole(pytest.fail) == store.folder / "step-0000015"
    assert (store.folder / "last" / "state.pt").is_file()


@pytest.mark.parametrize("version", [2, 0, "new"])
def test_another_format_is_refused_not_taken_for_damage(store: CheckpointStore, version: object) -> None:
    save(store, 1)
    folder = save(store, 2)
    sums = json.loads((folder / "checksums.json").read_text())
    write_json(folder / "checksums.json", {**sums, "format": version})
    with pytest.raises(CheckpointError, match=f"format version {version}; this groundup reads version 1"):
        store.newest_whole(pytest.fail)


def test_another_format_inside_the_state_is_refused(store: CheckpointStore) -> None:
    folder = save(store, 1)
    torch.save({**read_state(folder), "format": 2}, folder / "state.pt")
    with pytest.raises(CheckpointError, match="format version 2"):
        read_state(folder)


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "write",
    [lambda x, f: torch.save(x, f), lambda x, f: f.write_bytes(pickle.dumps(x, protocol=2))],
    ids=["torch", "plain pickle"],
)
def test_code_in_a_state_file_does_not_run(store: CheckpointStore, tmp_path: Path, write: Callable[..., None]) -> None:
    folder, touched = save(store, 1), tmp_path / "touched"
    write({"format": 1, "state": Malicious(touched)}, folder / "state.pt")
    sums = json.loads((folder / "checksums.json").read_text())
    write_json(folder / "checksums.json", {**sums, "state.pt": sha256(folder / "state.pt")})  # as an attacker would
    assert store.newest_whole(pytest.fail) == folder
    with pytest.raises(CheckpointError, match=r"state\.pt: .*without running code"):
        load_checkpoint(folder, make_state())
    assert not touched.exists()
    with contextlib.suppress(pickle.UnpicklingError, RuntimeError, AttributeError):  # the file is dangerous indeed
        torch.load(folder / "state.pt", weights_only=False)
    assert touched.exists()


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(store: CheckpointStore) -> None:
    save(store, 1, best=1)
    before = names(store)
    (store.folder / ".building-1234").mkdir()
    (store.folder / ".building-1234" / "state.pt").write_text("half")
    os.symlink("step-0000001", store.folder / ".last.1234")
    os.symlink("step-0000009", store.folder / ".best.1234")
    assert store.newest_whole(pytest.fail) == store.folder / "step-0000001"
    store.clean()
    assert names(store) == before


def test_links_are_swapped_even_if_they_hang(store: CheckpointStore) -> None:
    target = save(store, 1)
    os.unlink(store.folder / "last")
    os.symlink("step-0000099", store.folder / "last")
    store.point("last", target)
    assert os.readlink(store.folder / "last") == "step-0000001"
    assert names(store) == ["last", "step-0000001"]


# Files may not grow beyond a limit, which the system enforces as it does on a full disk.
FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from groundup.basis.errors import CheckpointError
from groundup.training import CheckpointStore, Sums, TrainingState

def state(step):
    model = torch.nn.Linear(100, 100)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, optimizer, scaler, Sums.zeros(torch.device("cpu")), step=step)

store = CheckpointStore(Path(sys.argv[1]))
store.save(state(1), {})
for step, limit in ((2, 20_000), (3, 60_000), (4, 50)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        store.save(state(step), {})
    except CheckpointError as error:
        print(error.message, "|", error.hint)
"""


def test_a_link_that_a_full_disk_refuses_leaves_a_whole_checkpoint_and_is_made_with_the_next(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 1, best=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", full)
        with pytest.raises(
            CheckpointError, match=r"step-0000002: the checkpoint is whole, but the links .*: No space left on device"
        ):
            save(store, 2, best=2)
    assert store.newest_whole(print) == store.folder / "step-0000002", "the run goes on from it"
    save(store, 3, best=2)
    assert os.readlink(store.folder / "last") == "step-0000003"
    assert os.readlink(store.folder / "best") == "step-0000002"


def test_on_a_full_disk_the_older_checkpoint_stays_and_nothing_half_written(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()  # the weights do not fit, then the state, then nothing at all
    assert len(lines) == 3, done.stdout + done.stderr
    for step, line in zip((2, 3, 4), lines, strict=True):
        assert f"step-000000{step}: the checkpoint could not be written" in line
        assert "older checkpoints are untouched" in line
        assert "free some space" in line
    store = CheckpointStore(tmp_path)
    assert names(store) == ["last", "step-0000001"]
    assert store.newest_whole(pytest.fail) == tmp_path / "step-0000001"
    assert read_state(tmp_path / "last")["state"]["numbers"]["step"] == 1


def test_an_interruption_while_writing_leaves_the_older_one(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 1)
    before = names(store)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # Ctrl-C between the weights and the state
        patch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(store, 2)
    assert names(store) == before


def test_weights_of_another_network_are_refused_by_name_and_by_shape(store: CheckpointStore) -> None:
    folder = save(store, 1)
    with pytest.raises(CheckpointError, match=r"another network.*0\.bias"):
        load_weights(folder, nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3)))
    with pytest.raises(CheckpointError, match=r"0\.weight has shape \(3, 4\), the network has \(3, 5\)"):
        load_weights(folder, nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)))
