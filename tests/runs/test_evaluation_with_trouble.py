"""Evaluations that are interrupted, find a damaged or a stranger's file, or are asked for what cannot be: what is kept and told."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from groundup.basis.errors import DataError, UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.data import Splits
from groundup.recipe import load_recipe
from groundup.runs.evaluate import Wanted, _open, evaluate, evaluate_runs
from groundup.runs.evaluation_page import page
from groundup.runs.folder import RunFolder
from groundup.runs.reports.merging import usable
from groundup.runs.trained import open_trained


def test_an_interrupted_evaluation_keeps_the_sections_that_were_measured(copied: Path) -> None:
    for file in ("evaluation.json", "evaluation.html"):
        (copied / file).unlink(missing_ok=True)
    stop = StopRequest()

    def tell(text: str) -> None:
        if text.startswith("near-duplicates: features"):
            stop.request("enough")

    with pytest.raises(Interrupted):
        evaluate_runs([copied], Wanted(sections=("duplicates", "calibration", "mistakes")), stop, tell)
    assert json.loads((copied / "evaluation.json").read_text())["sections"].keys() == {"accuracy", "calibration"}
    assert "Calibration" in (copied / "evaluation.html").read_text()
    assert "ECE" in (copied / "README.md").read_text()


MALFORMED = [
    ("accuracy", {}),
    ("corruptions", {}),
    ("comparison", {"images": 3}),
    ("calibration", {"as_trained": {"confidence": "high"}, "intervals": {}}),
    ("duplicates", {"found": 3, "pictures": 7}),
    ("corrupted", {"source": ["a"], "images": 1, "split": "test", "top1": 0.5, "top1_interval": [0, 1]}),
    ("corrupted", {"source": "a", "images": 1, "split": "test", "top1": float("nan"), "top1_interval": [0, 1]}),
]


def test_what_groundup_measured_is_never_left_out(measured: Path) -> None:
    known = json.loads((measured / "evaluation.json").read_text())["sections"]
    assert "generalisation" in known  # whose images are counted by split
    assert usable(known) == (known, ())


@pytest.mark.parametrize(("key", "facts"), MALFORMED)
def test_a_view_that_cannot_be_shown_again_is_left_out_with_a_note_and_ends_no_evaluation(
    copied: Path, key: str, facts: dict
) -> None:
    (copied / "evaluation.json").unlink(missing_ok=True)
    evaluate(copied, split="validation")
    known = json.loads((copied / "evaluation.json").read_text())
    known["sections"].setdefault(key, {})["test"] = facts
    (copied / "evaluation.json").write_text(json.dumps(known))
    (report,) = evaluate_runs([copied], Wanted(tta="flip"), StopRequest())
    (note,) = report.notes
    assert note == f"evaluation.json: what it said of {key} ('test') could not be read, and is left out"
    kept = json.loads((copied / "evaluation.json").read_text())["sections"]
    assert kept["accuracy"].keys() == {"validation", "test-flip"}
    assert "test" not in kept.get(key, {})


def test_a_strangers_evaluation_brings_no_file_of_mine_into_the_page(
    measured: Path, sections: dict, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(measured, tmp_path / "run", symlinks=True))
    recipe = load_recipe(str(run / "recipe.yaml"))
    (tmp_path / "secret").write_bytes(b"mine")
    (tmp_path / "secret.png").write_bytes(b"mine")
    (run / "link.png").symlink_to(tmp_path / "secret.png")
    (run / "below").mkdir()
    (run / "below" / "deep.png").write_bytes(b"mine")
    names = ["../secret", "../secret.png", str(tmp_path / "secret.png"), "link.png", "below/deep.png", "recipe.yaml"]
    for name in names:
        shown = {"corruptions": {"test": sections["corruptions"]["test"] | {"pictures": [name]}}}
        text = page(RunFolder(run), recipe, shown)
        assert "base64" not in text, name
        assert f"{name} is not there any more" in text
    own = {"corruptions": {"test": sections["corruptions"]["test"]}}
    assert page(RunFolder(run), recipe, own).count("base64") == 1


def test_corruptions_of_tiny_images_are_refused_before_anything_is_measured(copied: Path, splits: Splits) -> None:
    told: list[str] = []
    small = replace(splits, image_size=6)
    with pytest.raises(UsageError, match=r"--corruptions: images of 6 px; needs 8 or more \(data\.resolution\)"):
        _open(open_trained(copied), Wanted(sections=("corruptions",)), StopRequest(), told.append, data=small)


@pytest.mark.parametrize(
    ("source", "said"),
    [("foo:bar", "--corrupted foo:bar: "), ("parquet:nowhere", "nowhere"), ("arrays:nowhere.npz", "nowhere.npz")],
)
def test_a_corrupted_set_that_is_none_is_told_before_anything_is_measured(copied: Path, source: str, said: str) -> None:
    (copied / "evaluation.json").unlink(missing_ok=True)
    with pytest.raises((UsageError, DataError), match=re.escape(said)):
        evaluate_runs([copied], Wanted(sections=("corruptions",), corrupted=source), StopRequest())
    assert not (copied / "evaluation.json").exists()
