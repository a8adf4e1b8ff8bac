"""An export where there is one already, or one that was broken off: what is left alone and what is replaced."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.basis.errors import UsageError
from groundup.basis.files import sha256, write_json
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.ship.export.exporting import Wanted, export


def test_an_export_of_the_same_weights_is_left_and_one_of_others_replaced(run: Path) -> None:
    (first,) = export(run, Wanted("pt2", images=20))
    written = first.path.stat().st_mtime_ns
    (again,) = export(run, Wanted("pt2", images=30))
    assert (first.left, again.left) == (False, True)
    assert again.path.stat().st_mtime_ns == written
    assert again.record["agreement"]["images"] == 30
    change_the_weights(run)
    (other,) = export(run, Wanted("pt2", images=20))
    assert not other.left
    assert other.record["made_of"]["weights_sha256"] != first.record["made_of"]["weights_sha256"]
    assert sorted(path.name for path in (run / "export").iterdir()) == ["model.pt2", "model.pt2.json"]


def change_the_weights(run: Path) -> None:
    import safetensors.torch

    weights = run / "checkpoints" / "last" / "model.safetensors"
    changed = {name: tensor * 1.01 for name, tensor in safetensors.torch.load_file(weights).items()}
    safetensors.torch.save_file({k: v if v.is_floating_point() else v.long() for k, v in changed.items()}, weights)
    sums = json.loads((weights.parent / "checksums.json").read_text())
    write_json(weights.parent / "checksums.json", {**sums, weights.name: sha256(weights)})


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.yaml", "model.safetensors.json"])
def test_a_file_of_the_users_own_is_never_overwritten(name: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("{}")
    with pytest.raises(UsageError, match=name):
        export(run, Wanted("safetensors", images=20, out=out))
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: "{}"}


def test_an_export_that_was_edited_is_left_as_it_is(run: Path) -> None:
    (done,) = export(run, Wanted("safetensors", images=20))
    recipe = done.path.parent / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "# mine\n")
    with pytest.raises(UsageError, match=r"recipe\.yaml: was not written by `groundup export`, or was changed since"):
        export(run, Wanted("safetensors", images=20))
    assert recipe.read_text().endswith("# mine\n")


@pytest.mark.parametrize("at", ["model.safetensors", "classifier.json", "model.safetensors.json"])
def test_a_kill_between_two_moves_leaves_what_the_next_export_replaces(
    at: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(run, Wanted("safetensors", images=20))
    change_the_weights(run)
    move, notes = os.replace, 0

    def killed(source: Any, target: Any) -> None:
        nonlocal notes
        name = Path(target).name
        notes += name.endswith("safetensors.json")
        if name == at and (notes == 2 or at != "model.safetensors.json"):
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            export(run, Wanted("safetensors", images=20))
    (done,) = export(run, Wanted("safetensors", images=20))
    assert not done.left
    assert sorted(path.name for path in (run / "export").iterdir()) == [
        *("classifier.json", "model.safetensors", "model.safetensors.json", "recipe.yaml"),
    ]


def test_the_command_prints_what_was_found_and_gives_it_as_json(run: Path, command: Callable[..., Any]) -> None:
    status, out, _ = command("export", run, "--to", "pt2", "--images", "64")
    assert status == 0
    assert out.startswith(f"{run}/export/model.pt2\n")
    for part in ("64 test images", "at most 0.0001", "top-1 agrees on", "images/s", "times as fast", "MB"):
        assert part in out
    status, out, _ = command("export", run, "--to", "pt2", "--images", "64", "--json")
    (found,) = json.loads(out)["exports"]
    assert (status, found["left_as_it_was"], found["agreement"]["images"]) == (0, True, 64)


def test_an_interruption_leaves_nothing(run: Path) -> None:
    stop = StopRequest()

    def tell(text: str) -> None:
        stop.request("enough")

    with pytest.raises(Interrupted):
        export(run, Wanted("pt2"), stop, tell)
    assert not (run / "export").exists()
