"""Publishing to the Hub and loading from it: the real client, over HTTP, against a small Hub on the loopback interface."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import groundup
from groundup import augment
from groundup.basis.errors import GroundupError, UsageError
from groundup.runs.train import Run

# Of the client's own HTTP library, when the client sends a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(tiny_run: Run) -> Run:
    return tiny_run


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Path:
    """The run, to be changed."""
    return Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))


def uploads(hub: Any) -> int:
    return sum(request.method == "PUT" for request in hub.requests)


def commits(hub: Any) -> int:
    return sum("/commit/" in request.path for request in hub.requests)


def answers(classifier: Any) -> torch.Tensor:
    images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return classifier.model(augment.normalize(images, classifier.mean, classifier.std))


_FRESH = """
import sys, torch, groundup
from groundup import augment
classifier = groundup.load(sys.argv[1])
images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save(classifier.model(augment.normalize(images, classifier.mean, classifier.std)), sys.argv[2])
"""


def test_a_published_run_is_loaded_in_a_fresh_process_and_answers_to_the_bit(
    hub: Any, run: Run, tmp_path: Path
) -> None:
    done = groundup.publish(run.folder, to="hf:acme/digits")
    assert (done.url, commits(hub)) == (f"{hub.url}/acme/digits", 1)
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    out = tmp_path / "logits.pt"
    command = [sys.executable, "-c", _FRESH, "hf:acme/digits", str(out)]
    result = subprocess.run(command, env={**os.environ, **home}, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert torch.equal(torch.load(out), answers(groundup.load(run.folder)))
    # Pictures and metrics were not asked for.
    fetched = {request.path.rpartition("/")[2] for request in hub.requests if "/resolve/" in request.path}
    assert "model.safetensors" in fetched
    assert not fetched & {"samples.png", "metrics.jsonl"}


def test_the_repository_holds_the_publication_and_a_card_that_the_hub_accepts(
    hub: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    groundup.publish(run.folder, to="hf:acme/digits")
    files = hub.files("acme/digits")
    assert {*files} - {".gitattributes"} == {
        *("README.md", "model.safetensors", "classifier.json", "recipe.yaml", "environment.json", "summary.json"),
        *("metrics.jsonl", "samples.png", "training_curves.png", "publication.json"),
    }
    card = files["README.md"].decode()
    assert 'groundup.load("hf:acme/digits")' in card
    assert "OWNER/NAME" not in card
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    ModelCard(card).validate()
    with pytest.raises(ValueError, match="KeyError"):  # and what is wrong is noticed
        ModelCard(card.replace("model-index:\n", "model-index:\n- name: x\nold:\n", 1))
    repo = hub.repos["model", "acme/digits"]
    assert repo.large == {"model.safetensors", "samples.png", "training_curves.png"}
    assert repo.titles[-1].startswith(f"digits: {run.summary['top1']:.2%} top-1")
    assert not repo.private


def test_the_lines_of_the_card_are_run_as_they_stand(
    hub: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    groundup.publish(run.folder, to="hf:acme/digits")
    code = hub.files("acme/digits")["README.md"].decode().partition("```python\n")[2].partition("```")[0]
    Image.new("L", (8, 8), 128).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.startswith("[('")


def test_only_what_changed_is_sent(hub: Any, copied: Path) -> None:
    groundup.publish(copied, to="hf:acme/digits")
    first = (uploads(hub), commits(hub))
    again = groundup.publish(copied, to="hf:acme/digits")
    assert [name for name, _, sent in again.files if sent] == []
    assert (uploads(hub), commits(hub)) == first == (3, 1)
    with open(copied / "metrics.jsonl", "a") as stream:
        stream.write("{}\n")
    (copied / "samples.png").unlink()
    changed = groundup.publish(copied, to="hf:acme/digits")
    assert {name for name, _, sent in changed.files if sent} == {"metrics.jsonl", "README.md", "publication.json"}
    assert changed.removed == ("samples.png",)
    assert (uploads(hub), commits(hub)) == (3, 2)
    assert "samples.png" not in hub.files("acme/digits")


def test_a_dry_run_asks_and_sends_nothing(hub: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")  # nor is a token needed to look
    planned = groundup.publish(run.folder, to="hf:acme/digits", dry_run=True)
    assert all(sent for *_, sent in planned.files)
    assert hub.repos == {}
    assert {request.method for request in hub.requests} == {"GET"}
    monkeypatch.setenv("HF_TOKEN", hub.token)
    groundup.publish(run.folder, to="hf:acme/digits")
    planned = groundup.publish(run.folder, to="hf:acme/digits", dry_run=True)
    assert not any(sent for *_, sent in planned.files)
    assert "would send 0 of 10 files, 0 B" in planned.lines()


def test_a_dry_run_without_a_network_lists_the_files_and_says_what_it_does_not_know(
    hub: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    lines = groundup.publish(run.folder, to="hf:acme/digits", dry_run=True).lines()
    assert any(line.startswith("would send") and line.endswith(" model.safetensors") for line in lines)
    (note,) = [line for line in lines if line.startswith("note:")]
    assert note.startswith("note: what is at hf:acme/digits already is not known, so every file is listed: ")
    assert "could not be reached" in note
    assert not any("groundup.load" in line for line in lines)


def test_results_measured_in_a_copy_of_the_repository_are_not_lost(hub: Any, copied: Path) -> None:
    from groundup.runs.evaluate import evaluate

    groundup.publish(copied, to="hf:acme/digits")
    elsewhere = copied.parent / "elsewhere"
    elsewhere.mkdir()
    for name, content in hub.files("acme/digits").items():
        (elsewhere / name).write_bytes(content)
    evaluate(elsewhere)
    theirs = {name: (elsewhere / name).read_bytes() for name in ("README.md", "evaluation.json")}
    hub.commit(hub.repos["model", "acme/digits"], "main", theirs, "evaluated elsewhere")
    groundup.publish(copied, to="hf:acme/digits")
    assert hub.files("acme/digits")["evaluation.json"] == theirs["evaluation.json"]
    evaluate(copied, sections=["calibration"])
    assert groundup.publish(copied, to="hf:acme/digits").notes == ()
    found = json.loads(hub.files("acme/digits")["evaluation.json"])["sections"]
    assert found.keys() == {"accuracy", "calibration"}
    assert 'groundup.load("hf:acme/digits")' in hub.files("acme/digits")["README.md"].decode()


def test_a_private_repository_stays_private_and_a_public_one_is_not_used_for_a_private_run(hub: Any, run: Run) -> None:
    groundup.publish(run.folder, to="hf:acme/secret", private=True)
    assert hub.repos["model", "acme/secret"].private
    groundup.publish(run.folder, to="hf:acme/secret", private=True)
    assert torch.equal(answers(groundup.load("hf:acme/secret")), answers(groundup.load(run.folder)))
    hub.make("acme/open", {})
    with pytest.raises(UsageError, match="hf:acme/open exists and is public"):
        groundup.publish(run.folder, to="hf:acme/open", private=True)
    assert {*hub.files("acme/open")} == {".gitattributes"}


def test_a_branch_is_made_and_loaded_by_its_name(hub: Any, run: Run, copied: Path) -> None:
    groundup.publish(run.folder, to="hf:acme/digits")
    (copied / "metrics.jsonl").write_text("{}\n")
    groundup.publish(copied, to="hf:acme/digits", revision="later")
    assert hub.files("acme/digits", "later")["metrics.jsonl"] == b"{}\n"
    assert hub.files("acme/digits")["metrics.jsonl"] != b"{}\n"
    assert 'groundup.load("hf:acme/digits@later")' in hub.files("acme/digits", "later")["README.md"].decode()
    assert len(groundup.load("hf:acme/digits@later").classes) == 10
    with pytest.raises(GroundupError, match="no such branch, tag or commit"):
        groundup.load("hf:acme/digits@never")


def test_somebody_elses_model_is_left_alone(hub: Any, run: Run) -> None:
    for files in ({"README.md": b"# A language model\n"}, {"pytorch_model.bin": b"weights", "config.json": b"{}"}):
        hub.make("acme/other", files)
        before = hub.files("acme/other")
        with pytest.raises(UsageError, match=r"hf:acme/other: holds files that groundup did not publish"):
            groundup.publish(run.folder, to="hf:acme/other")
        assert hub.files("acme/other") == before


def test_what_others_added_or_edited_there_stays(hub: Any, copied: Path) -> None:
    groundup.publish(copied, to="hf:acme/digits")
    repo = hub.repos["model", "acme/digits"]
    hub.commit(repo, "main", {"README.md": b"# Edited there\n", "LICENSE": b"MIT", "samples.png": b"theirs"}, "by hand")
    (copied / "samples.png").unlink()
    done = groundup.publish(copied, to="hf:acme/digits")
    files = hub.files("acme/digits")
    assert (files["README.md"], files["LICENSE"], files["samples.png"]) == (b"# Edited there\n", b"MIT", b"theirs")
    assert [note.partition(" ")[0] for note in done.notes] == ["README.md", "samples.png"]
    hub.commit(repo, "main", {"evaluation.json": b"not ours"}, "by hand")
    (copied / "evaluation.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds evaluation\.json, which groundup did not write there"):
        groundup.publish(copied, to="hf:acme/digits")
    assert hub.files("acme/digits")["evaluation.json"] == b"not ours"


def test_a_commit_that_came_between_is_not_overwritten(hub: Any, copied: Path) -> None:
    groundup.publish(copied, to="hf:acme/digits")
    (copied / "metrics.jsonl").write_text("{}\n")
    repo = hub.repos["model", "acme/digits"]

    def meanwhile(method: str, path: str) -> None:
        if "/preupload/" in path and len(repo.titles) == 2:
            hub.commit(repo, "main", {"new.txt": b"theirs"}, "by hand")

    hub.fail = meanwhile
    with pytest.raises(
        GroundupError, match=r"changed at the same time, nothing was committed(?s:.*)run the command again"
    ):
        groundup.publish(copied, to="hf:acme/digits")
    groundup.publish(copied, to="hf:acme/digits")
    assert hub.files("acme/digits")["metrics.jsonl"] == b"{}\n"
    assert hub.files("acme/digits")["new.txt"] == b"theirs"


def test_what_was_loaded_once_is_loaded_without_a_network(hub: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    groundup.publish(run.folder, to="hf:acme/digits")
    groundup.load("hf:acme/digits")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert torch.equal(answers(groundup.load("hf:acme/digits")), answers(groundup.load(run.folder)))


def test_an_interrupted_upload_changes_nothing_and_goes_on_where_it_was(hub: Any, run: Run) -> None:
    sent: list[str] = []

    def dies_at_the_commit(method: str, path: str) -> tuple[int, str] | None:
        if method == "PUT":
            sent.append(path)
        return (503, "Service unavailable") if "/commit/" in path else None

    hub.fail = dies_at_the_commit
    with pytest.raises(
        GroundupError, match=r"status 503(?s:.*)run the command again: what is there already is not sent twice"
    ):
        groundup.publish(run.folder, to="hf:acme/digits")
    assert {*hub.files("acme/digits")} == {".gitattributes"}
    assert len(sent) == 3
    hub.fail = lambda method, path: (sent.append(path), None)[1] if method == "PUT" else None
    groundup.publish(run.folder, to="hf:acme/digits")
    assert len(sent) == 3  # the large files were there already
    assert torch.equal(answers(groundup.load("hf:acme/digits")), answers(groundup.load(run.folder)))


def test_predict_takes_a_repository_in_place_of_a_run(hub: Any, run: Run, tmp_path: Path, capsys: Any) -> None:
    from typer.testing import CliRunner

    from groundup.cli.main import app

    groundup.publish(run.folder, to="hf:acme/digits")
    Image.new("L", (8, 8), 128).save(tmp_path / "grey.png")
    result = CliRunner().invoke(app, ["predict", "hf:acme/digits", str(tmp_path / "grey.png"), "--json"])
    assert result.exit_code == 0, result.output
    (top,) = json.loads(result.stdout)["answers"].values()
    assert len(top) == 5


def test_without_a_terminal_no_progress_bar_is_drawn(hub: Any, run: Run, tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    for command in (
        ["publish", str(run.folder), "--to", "hf:acme/digits"],
        ["predict", "hf:acme/digits", str(run.folder / "samples.png")],
    ):
        result = subprocess.run(
            [sys.executable, "-m", "groundup", *command],
            env={**os.environ, **home},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert (result.returncode, result.stderr) == (0, "")


def test_the_data_door_hub_reads_a_data_set_over_http(hub: Any, tmp_path: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(count: int) -> bytes:
        images = []
        for index in range(count):
            stream = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 20 * index, np.uint8)).save(stream, "PNG")
            images.append({"bytes": stream.getvalue(), "path": None})
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        made = pa.table({"image": pa.array(images, kind), "label": [index % 2 for index in range(count)]})
        features = {"image": {"_type": "Image"}, "label": {"names": ["even", "odd"], "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        out = io.BytesIO()
        pq.write_table(made, out)
        return out.getvalue()

    files = {"data/train-00000-of-00001.parquet": table(8), "data/test-00000-of-00001.parquet": table(4)}
    hub.make("acme/shapes", files, "dataset")
    code = """
import json
from groundup.data import DataSettings, load_splits
splits = load_splits(DataSettings(source="hub:acme/shapes"))
print(json.dumps([splits.classes, splits.train.labels.tolist(), len(splits.test), splits.train.images[3, 0, 0].tolist()]))
"""
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "GROUNDUP_CACHE": str(tmp_path / "decoded")}
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **home}, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == [["even", "odd"], [0, 1] * 4, 4, [60, 60, 60]]
