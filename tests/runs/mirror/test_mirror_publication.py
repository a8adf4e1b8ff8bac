"""The mirror on the Hub is the run's publication: it can be loaded from the first copy on, and `publish` takes it over."""

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import groundup
from groundup.basis.errors import UsageError
from groundup.runs.train import Run
from groundup.tracking import Tracker

# Of the client's own HTTP library, when the client sends a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

_HUB = Path(__file__).parents[2] / "ship" / "loopback_hub.py"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import huggingface_hub.constants as constants

    spec = importlib.util.spec_from_file_location("hub_for_mirrors", _HUB)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["hub_for_mirrors"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.LoopbackHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


class InTheMiddle(Tracker):
    """Looks at the mirror while the run is in its third epoch, and edits the card there as its owner may."""

    def __init__(self, hub: Any) -> None:
        self.hub, self.said = hub, []  # type: ignore[var-annotated]
        self.card = ""
        self.weights: dict[str, torch.Tensor] = {}
        self.expected: dict[str, torch.Tensor] = {}

    def message(self, text: str) -> None:
        self.said.append(text)

    def evaluation(self, record: Any) -> None:
        if record["step"] != 6:
            return
        end = time.monotonic() + 60
        while "publication.json" not in self.files() and time.monotonic() < end:
            time.sleep(0.05)
        self.weights = dict(groundup.load("hf:acme/m").model.state_dict())
        files = self.files()
        (newest,) = [name for name in files if name.endswith("/model.safetensors")]
        (self.hub.folder / "newest").write_bytes(files[newest])
        self.expected = load_file(self.hub.folder / "newest")
        self.card = files["README.md"].decode()
        repo = self.hub.repos["model", "acme/m"]
        edited = self.card.replace("license: unknown", "license: mit").encode()
        self.hub.commit(repo, "main", {"README.md": edited}, "by its owner")

    def files(self) -> dict[str, bytes]:
        return self.hub.files("acme/m") if ("model", "acme/m") in self.hub.repos else {}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def train(folder: Path, tiny: list[str], *settings: str, **options: Any) -> Run:
    every = ["checkpoint.mirror=hf:acme/m", "checkpoint.mirror_keep=1", "track.tensorboard=false"]
    return groundup.train("digits", [*tiny, *every, *settings], run=folder, **options)


def test_a_run_is_loaded_from_its_mirror_in_the_middle_and_after_its_end(
    hub: Any, tiny: list[str], tmp_path: Path
) -> None:
    seen = InTheMiddle(hub)
    run = train(tmp_path / "run", tiny, "train.epochs=3", terminal=seen)
    assert len(seen.weights) > 50
    assert same(seen.weights, seen.expected), "what is loaded in the middle is the checkpoint that was copied"
    assert "**This run is not finished.** The weights are those of epoch 1 of 3 (step 3 of 9)." in seen.card
    assert "on validation, at this step" in seen.card
    assert 'groundup.load("hf:acme/m")' in seen.card
    assert "OWNER/NAME" not in seen.card
    assert ModelCard(seen.card).data.eval_results is None, "there is no result yet"

    files = hub.files("acme/m")
    card = files["README.md"].decode()
    assert same(dict(groundup.load("hf:acme/m").model.state_dict()), dict(groundup.load(run.folder).model.state_dict()))
    assert "not finished" not in card
    assert ModelCard(card).data.eval_results[0].metric_value == pytest.approx(run.summary["top1"], abs=1e-6)
    assert "license: mit" in card, "what its owner wrote there stays"
    assert files["metrics.jsonl"] == (run.folder / "metrics.jsonl").read_bytes()
    assert {"training_curves.png", "samples.png", "recipe.yaml", "classifier.json", "summary.json"} <= files.keys()
    assert any("README.md has words of its own there" in text for text in seen.said)

    titles = hub.repos["model", "acme/m"].titles
    copies = [title for title in titles if title.startswith("mirror: step")]
    assert len(copies) == len(titles) - 4, "a copy is one commit; the others: initial, claim, owner, result"
    done = groundup.publish(run.folder, to="hf:acme/m")
    assert [name for name, _, sent in done.files if sent] == []


def test_weights_with_two_names_are_sent_once(hub: Any, tiny: list[str], tmp_path: Path) -> None:
    train(tmp_path / "run", tiny, "train.epochs=1")
    size = len(hub.files("acme/m")["model.safetensors"])
    assert [request.size for request in hub.requests if request.method == "PUT"].count(size) == 1


def test_publish_takes_over_the_mirror_of_its_run_and_leaves_its_checkpoints(
    hub: Any, tiny: list[str], tmp_path: Path
) -> None:
    run = train(tmp_path / "run", tiny, "train.epochs=1")
    repo = hub.repos["model", "acme/m"]
    # As an earlier groundup left it, which wrote no publication there.
    before = {"publication.json": None, "model.safetensors": None, "samples.png": None, "README.md": b"# digits\n"}
    hub.commit(repo, "main", before, "as it was")
    groundup.publish(run.folder, to="hf:acme/m")
    files = hub.files("acme/m")
    assert same(dict(groundup.load("hf:acme/m").model.state_dict()), dict(groundup.load(run.folder).model.state_dict()))
    assert b"groundup: begin" in files["README.md"]
    assert "checkpoints/step-0000003/manifest.json" in files
    back = groundup.resume("hf:acme/m", into=tmp_path / "back")
    assert back.summary == run.summary


def test_a_finished_run_that_is_asked_for_again_completes_its_publication(
    hub: Any, tiny: list[str], tmp_path: Path
) -> None:
    run = train(tmp_path / "run", tiny, "train.epochs=1")
    before = hub.files("acme/m")
    lost = ["checkpoints/step-0000003/manifest.json", "summary.json", "publication.json", "model.safetensors"]
    hub.commit(hub.repos["model", "acme/m"], "main", dict.fromkeys(lost), "as if the last upload had failed")
    assert groundup.resume(run.folder).summary == run.summary
    assert hub.files("acme/m").keys() == before.keys()
    assert same(dict(groundup.load("hf:acme/m").model.state_dict()), dict(groundup.load(run.folder).model.state_dict()))
    commits = len(hub.repos["model", "acme/m"].titles)
    groundup.resume(run.folder)
    assert len(hub.repos["model", "acme/m"].titles) == commits, "nothing is sent twice"


def test_publish_refuses_the_mirror_of_another_run(hub: Any, tiny: list[str], tmp_path: Path) -> None:
    run = train(tmp_path / "run", tiny, "train.epochs=1")
    other = Path(shutil.copytree(run.folder, tmp_path / "other", symlinks=True))
    recipe = other / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("\nseed: 0", "\nseed: 7"))
    before = hub.files("acme/m")
    with pytest.raises(UsageError, match=r"hf:acme/m: is the mirror of another run: seed: 0 there, 7 here"):
        groundup.publish(other, to="hf:acme/m")
    assert hub.files("acme/m") == before


def test_what_cannot_be_published_does_not_keep_a_checkpoint_from_being_copied(
    hub: Any, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from groundup.runs.mirror import publishing

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "draw_curves", full)
    seen = InTheMiddle(hub)
    run = train(tmp_path / "run", tiny, "train.epochs=1", terminal=seen)
    said = [text for text in seen.said if "the copies go without what loads them" in text]
    assert len(said) == 1
    files = hub.files("acme/m")
    assert "checkpoints/step-0000003/manifest.json" in files
    assert json.loads(files["summary.json"]) == run.summary, "the result does not need the drawing"
    assert len(groundup.load("hf:acme/m").classes) == 10
