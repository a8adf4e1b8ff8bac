"""evaluate, export and demo take what `groundup.load` takes: a run folder, a publication, a repository of the Hub."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import groundup
from groundup.basis.errors import DataError, UsageError
from groundup.cli.main import main
from groundup.runs.evaluate import evaluate
from groundup.runs.publication import local_folder
from groundup.runs.train import Run
from groundup.ship.demo.model import open_run
from groundup.ship.demo.space import write_space
from groundup.ship.export.exporting import Wanted, export

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(tiny_run: Run) -> Path:
    """A finished run, calibrated on nothing."""
    return tiny_run.folder


@pytest.fixture
def repository(hub: Any, run: Path) -> Iterator[str]:
    """The run on the Hub. Whatever is asked of it, the copy that the Hub's client keeps does not change."""
    groundup.publish(run, to="hf:acme/tiny")
    place = local_folder("hf:acme/tiny")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    yield "hf:acme/tiny"
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_evaluating_a_repository_gives_what_the_run_says_and_keeps_nothing(
    repository: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["groundup", "evaluate", repository, "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads((run / "summary.json").read_text())
    assert (found["top1"], found["images"]) == (summary["top1"], summary["images"])
    assert (found["run"], found["page"], found["notes"]) == (repository, None, [])


def test_data_that_is_not_there_is_told_with_the_way_on(repository: str, run: Path, tmp_path: Path, hub: Any) -> None:
    groundup.publish(run, to=tmp_path / "published")
    recipe = tmp_path / "published" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("source: digits", "source: folder:gone"))
    with pytest.raises(DataError, match=r"published: the data(?s:.*)gone(?s:.*)published/recipe.yaml where it is now"):
        evaluate(tmp_path / "published")


def test_a_repository_is_exported_into_a_folder_that_is_named(repository: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"hf:acme/tiny: has no folder to export into(?s:.*)--out DIR"):
        export(repository, Wanted("safetensors"))
    (done,) = export(repository, Wanted("safetensors", images=20, out=tmp_path / "out"))
    (own,) = export(run, Wanted("safetensors", images=20, out=tmp_path / "own"))
    saved, wanted = load_file(done.path), load_file(own.path)
    assert saved.keys() == wanted.keys()
    assert all(saved[name].equal(wanted[name]) for name in wanted)
    assert groundup.load(tmp_path / "out").classes == groundup.load(run).classes


def test_a_demo_of_a_repository_looks_at_it_once(repository: str, hub: Any, tmp_path: Path) -> None:
    hub.requests.clear()
    demo = open_run(repository, "tiny", tmp_path)
    assert demo.facts.missing == "it was published without its data"
    assert "test images" in demo.result
    assert len([request for request in hub.requests if "/revision/" in request.path]) == 1


def test_a_space_is_made_of_run_folders(repository: str, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    with pytest.raises(UsageError, match="a Space is made of run folders"):
        write_space([Path(repository)], tmp_path / "space")
    assert not (tmp_path / "space").exists()


def test_a_failure_of_loading_does_not_speak_of_commits(repository: str, hub: Any) -> None:
    hub.fail = lambda method, path: (503, "Service unavailable") if "/revision/" in path else None
    with pytest.raises(Exception, match=r"loading hf:acme/new(?s:.*)run the command again") as caught:
        groundup.load("hf:acme/new")
    assert "commit" not in str(caught.value)
