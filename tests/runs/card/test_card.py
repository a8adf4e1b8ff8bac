"""The model card: what it says, that the Hub's own client reads it, and that nobody's words in it are lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from groundup.basis.interruption import StopRequest
from groundup.runs.card.cost import cost_lines, watts
from groundup.runs.card.writing import BESIDE, card_of, published_card, with_words_of, write_card
from groundup.runs.evaluate import Wanted, evaluate_runs, text_of
from groundup.runs.folder import RunFolder
from groundup.runs.train import Run

CALIBRATION = {"as_trained": {"nll": 1.5, "brier": 0.4, "ece_equal_mass": 0.0625}, "temperature": None}


def write(folder: Path, sections: dict[str, Any] | None = None) -> bool:
    run = RunFolder(folder)
    return write_card(run, run.recipe(), run.summary() or {}, sections)


def metadata(folder: Path) -> Any:
    return ModelCard((folder / "README.md").read_text()).data


def test_the_hubs_client_reads_the_results_out_of_the_card(finished: Run) -> None:
    data = metadata(finished.folder)
    assert (data.library_name, data.pipeline_tag, data.metrics) == ("groundup", "image-classification", ["accuracy"])
    assert data.license == "unknown"
    found = {result.metric_name: result for result in data.eval_results}
    top1 = found["top-1 accuracy"]
    assert top1.metric_value == pytest.approx(finished.summary["top1"], abs=1e-6)
    assert (top1.task_type, top1.dataset_type, top1.dataset_split) == ("image-classification", "digits", "test")
    assert found["top-5 accuracy"].metric_value == pytest.approx(finished.summary["top5"], abs=1e-6)
    index = data.to_dict()["model-index"]
    name, results = model_index_to_eval_results(index)
    assert (name, len(results)) == ("digits", 3)


def test_the_card_says_what_the_run_is_what_it_cost_and_where_it_ends(finished: Run) -> None:
    text = (finished.folder / "README.md").read_text()
    low, high = finished.summary["top1_interval"]
    for said in (
        f"{finished.summary['top1']:.2%} (95% interval {low:.2%} to {high:.2%}) on 359 test images",
        "| selected on | nothing: the last step |",
        "[recipe.yaml](recipe.yaml)",
        "10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
        "It sees 8 x 8 px",
        "Not measured: whether its probabilities are as right as they are sure",
        "an estimate and not a measurement: 6 W (1 threads of a processor at 6 W each)",
        "PFLOP of training",
        'groundup.load("path/to/this/folder")',
        'groundup.load("hf:OWNER/NAME")',
        "![training curves](training_curves.png)",
    ):
        assert said in text, said
    assert "optimistic" not in text.lower()
    assert "pip install" not in text


def test_near_duplicates_are_told_as_what_they_are_and_a_network_without_features_has_none_measured(
    copied: Path,
) -> None:
    part = {"images": 9, "top1": 0.5, "interval": [0.2, 0.8]}
    found = {"found": 3, "images": 12, "accuracies": {"without near-duplicates": part}}
    assert write(copied, {"duplicates": {"test": found}})
    text = (copied / "README.md").read_text()
    assert "3 of 12 test images have a near-duplicate in train, by pixels alone: some may only be alike; top-1" in text
    assert "whether test images have near-copies" not in text
    assert write(copied, {"duplicates": {"test": {"found": None, "pictures": []}}})
    text = (copied / "README.md").read_text()
    assert "near-duplicate in train" not in text
    assert "whether test images have near-copies" in text


def test_a_picture_that_is_not_there_is_not_shown(copied: Path) -> None:
    (copied / "samples.png").unlink()
    assert write(copied)
    text = (copied / "README.md").read_text()
    assert "training_curves.png" in text
    assert "samples.png" not in text


def test_the_lines_of_the_card_load_the_run(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (finished.folder / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0].replace("path/to/this/folder", str(finished.folder))
    monkeypatch.chdir(finished.folder)
    exec(code.replace("photo.png", "samples.png"), {})


def test_a_new_measurement_enters_text_and_metadata_and_leaves_the_words_around_them(copied: Path) -> None:
    card = copied / "README.md"
    text = card.read_text().replace("license: unknown", "license: mit  # mine\nlanguage: en")
    card.write_text(f"{text}\nMy own words.\n")
    assert write(copied, {"calibration": {"test": CALIBRATION}})
    renewed = card.read_text()
    assert renewed.endswith("<!-- groundup: end -->\n\nMy own words.\n")
    assert "license: mit  # mine\nlanguage: en\n" in renewed
    assert "ECE 6.25% (equal mass)" in renewed
    found = {result.metric_type: result.metric_value for result in metadata(copied).eval_results}
    assert found["ece"] == 0.0625
    assert write(copied, {})
    assert card.read_text() == f"{text}\nMy own words.\n"


@pytest.mark.parametrize(
    ("ours", "edited"),
    [
        ("## Limits", "## My limits"),
        ("name: top-1 accuracy", "name: accuracy"),
        ("---\n\n<!--", "---\n\n<!- -"),
        ("---\n", ""),
    ],
)
def test_an_edit_inside_is_never_overwritten_and_ours_lies_beside(ours: str, edited: str, copied: Path) -> None:
    card = copied / "README.md"
    text = card.read_text().replace(ours, edited)
    card.write_text(text)
    (report,) = evaluate_runs([copied], Wanted(), StopRequest())
    assert card.read_text() == text
    beside = (copied / BESIDE).read_text()
    assert "## Limits" in beside
    (note,) = report.notes
    assert note.startswith("README.md is not as groundup")
    assert f"note: {note}" in text_of([report])
    card.unlink()
    assert write(copied)
    assert card.read_text() == beside
    assert not (copied / BESIDE).exists()


def test_a_card_of_which_nothing_is_left_is_still_published_with_metadata_and_the_repositorys_name(
    copied: Path,
) -> None:
    run = RunFolder(copied)
    recipe, summary = run.recipe(), run.summary() or {}
    (copied / "README.md").write_text("# All mine\n\nLoad it from hf:OWNER/NAME.\n")
    text, current = published_card(run, recipe, summary, "hf:acme/digits")
    assert not current
    assert ModelCard(text).data.eval_results
    assert text.endswith("# All mine\n\nLoad it from hf:acme/digits.\n")
    assert card_of(run, recipe, summary) == ("# All mine\n\nLoad it from hf:OWNER/NAME.\n", False)


def test_a_published_card_is_still_marked_as_ours_and_keeps_the_words_around(copied: Path) -> None:
    run = RunFolder(copied)
    run.card.write_text(run.card.read_text() + "\nMy words on hf:OWNER/NAME.\n")
    text, current = published_card(run, run.recipe(), run.summary() or {}, "hf:acme/digits")
    assert current
    assert text.endswith("\nMy words on hf:acme/digits.\n")
    assert with_words_of(text, text) == text
    run.card.write_text(text)
    assert write(copied), "a copy of the publication is renewed by an evaluation"


def test_a_card_without_our_marks_is_somebody_elses_and_is_published_as_it_is(copied: Path) -> None:
    run = RunFolder(copied)
    run.card.write_text("# digits\n\nMy own card.\n")
    text, current = published_card(run, run.recipe(), run.summary() or {}, None)
    assert not current
    assert text.endswith("# digits\n\nMy own card.\n")
    assert not write(copied)


def test_a_result_that_was_chosen_on_test_is_called_optimistic_in_the_metadata_too(copied: Path) -> None:
    file = copied / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"optimistic": True}))
    assert write(copied)
    names = [result.metric_name for result in metadata(copied).eval_results]
    assert "top-1 accuracy, optimistic: chosen on this split" in names
    assert "The accuracy is optimistic" in (copied / "README.md").read_text()


def test_a_data_set_of_the_hub_is_named_as_the_hub_names_it(copied: Path) -> None:
    run = RunFolder(copied)
    recipe = run.recipe()
    data = recipe.data.model_copy(update={"source": "hub:uoft-cs/cifar100"})
    run.card.unlink()
    assert write_card(run, recipe.model_copy(update={"data": data, "about": "a: [b | c"}), run.summary() or {})
    found = metadata(copied)
    assert found.datasets == ["uoft-cs/cifar100"]
    assert found.eval_results[0].dataset_type == "uoft-cs/cifar100"
    assert "| data | hub:uoft-cs/cifar100," in run.card.read_text()


@pytest.mark.parametrize(
    ("device", "hardware", "power", "source"),
    [
        ("cpu", "Some CPU", 48, "8 threads"),
        ("cuda", "NVIDIA H200", 700, "NVIDIA H200"),
        ("cuda:0", "NVIDIA A100 80GB PCIe", 300, "NVIDIA A100 80GB PCIe"),
        ("cuda", "Tesla T4, then NVIDIA L4", 72, "NVIDIA L4"),
        ("cuda", "Something New", 300, "unknown rated power"),
        ("mps", "Apple M3", 40, "assumed"),
    ],
)
def test_the_energy_is_rated_power_times_hours_and_says_so(
    device: str, hardware: str, power: float, source: str
) -> None:
    summary = {"device": device, "hardware": hardware, "threads": 8, "seconds": 7200, "pflop": 3.0}
    found, words = watts(summary)
    assert found == power
    assert source in words
    assert f"about {power * 2 / 1000:.2g} kWh, an estimate" in cost_lines(summary)[2]
    assert watts(summary | {"processes": 4}) == (4 * power, f"4 times {words}")


def test_a_finished_run_is_not_needed_to_be_writable_to_know_its_card(finished: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run", symlinks=True))
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    run = RunFolder(folder)
    published_card(run, run.recipe(), run.summary() or {}, "hf:acme/digits")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
