"""A run that was trained on everything takes the temperature of a twin, and says whose it is wherever it says the number."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import groundup
from groundup import augment
from groundup.basis.errors import UsageError
from groundup.basis.interruption import StopRequest
from groundup.data import Splits, load_splits
from groundup.evaluation import calibration, fit_temperature, with_temperature
from groundup.recipe import load_recipe
from groundup.runs.evaluate import Wanted, evaluate, evaluate_runs, json_of, text_of
from groundup.runs.evaluation_file import fitted_temperature
from groundup.runs.folder import RunFolder
from groundup.runs.train import Run


@pytest.fixture(scope="module")
def whole(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run like `finished`, with another seed and name, trained on all of train."""
    place = tmp_path_factory.mktemp("whole") / "run"
    return groundup.train("digits", [*tiny, "data.validation=0", "seed=3", "name=everything"], run=place).folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))


@pytest.fixture(scope="module")
def splits(finished: Run) -> Splits:
    """Of the twin."""
    return load_splits(load_recipe(str(finished.folder / "recipe.yaml")).data)


def scores(folder: Path, splits: Splits, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels, computed directly."""
    loaded = groundup.load(folder)
    images, labels = getattr(splits, split).to_device("cpu")
    with torch.no_grad():
        return loaded.model(augment.normalize(images.permute(0, 3, 1, 2), loaded.mean, loaded.std)).float(), labels


def wanted(twin: Path) -> Wanted:
    return Wanted(sections=("calibration",), temperature_from=twin)


def test_the_temperature_is_that_of_the_twins_validation_split(run: Path, finished: Run, splits: Splits) -> None:
    (report,) = evaluate_runs([run], wanted(finished.folder), StopRequest())
    found = json_of([report])["calibration"]
    temperature = fit_temperature(*scores(finished.folder, splits, "validation"))
    assert found["temperature"] == pytest.approx(temperature, rel=1e-4)
    assert (found["temperature_from"], found["fitted_on"]) == (finished.folder.name, 50)
    logits, labels = scores(run, splits, "test")
    assert found["with_temperature"]["nll"] == pytest.approx(
        calibration(with_temperature(logits, temperature), labels).nll, abs=1e-5
    )


def test_whose_temperature_it_is_stands_on_terminal_page_and_card(run: Path, finished: Run) -> None:
    (report,) = evaluate_runs([run], wanted(finished.folder), StopRequest())
    said = f"fitted on the 50 validation images of a twin run, {finished.folder.name}"
    assert said in "\n".join(text_of([report]))
    assert said in (run / "evaluation.html").read_text()
    assert said in (run / "README.md").read_text()


def test_prediction_demo_and_exports_take_it_like_one_of_its_own(run: Path, finished: Run, splits: Splits) -> None:
    before = groundup.load(run)
    evaluate(run, sections=["calibration"], temperature_from=finished.folder)
    after = groundup.load(run)
    assert (before.temperature, after.temperature) == (None, fitted_temperature(RunFolder(run)))
    assert after.temperature is not None
    logits, _ = scores(run, splits, "test")
    images = splits.test.to_device("cpu")[0].permute(0, 3, 1, 2)  # type: ignore[union-attr]
    torch.testing.assert_close(after.probabilities(images), (logits / after.temperature).softmax(1))
    assert torch.equal(after.probabilities(images).argmax(1), before.probabilities(images).argmax(1))


def test_measured_again_without_the_twin_it_stays_with_its_picture(run: Path, finished: Run) -> None:
    evaluate(run, sections=["calibration"], temperature_from=finished.folder)
    before = json.loads((run / "evaluation.json").read_text())["sections"]["calibration"]
    (picture,) = before["test"]["pictures"]
    drawn = (run / picture).read_bytes()
    evaluate(run, sections=["calibration"])
    assert json.loads((run / "evaluation.json").read_text())["sections"]["calibration"] == before
    assert (run / picture).read_bytes() == drawn


def test_several_runs_take_the_temperature_of_one_twin(run: Path, whole: Path, finished: Run, tmp_path: Path) -> None:
    other = Path(shutil.copytree(whole, tmp_path / "other", symlinks=True))
    reports = evaluate_runs([run, other], wanted(finished.folder), StopRequest())
    assert len({json_of(reports)["runs"][place]["calibration"]["temperature"] for place in (0, 1)}) == 1


def test_a_run_that_is_no_twin_is_refused_before_anything_is_measured(
    run: Path, finished: Run, whole: Path, copied: Path, tiny: list[str], tmp_path: Path
) -> None:
    longer = groundup.train("digits", [*tiny, "train.epochs=1"], run=tmp_path / "shorter").folder
    (copied / "summary.json").unlink()
    shutil.copytree(whole, tmp_path / "second", symlinks=True)
    refused = {
        run: "is the run itself",
        copied: "is not finished",
        tmp_path / "second": "has no validation split either",
        longer: r"is no twin of .*: train\.epochs: 1\.0 there, 2\.0 here",
    }
    for twin, said in refused.items():
        with pytest.raises(UsageError, match=rf"--temperature-from .*{said}"):
            evaluate_runs([run], wanted(twin), StopRequest())
    assert not (run / "evaluation.json").exists()


def test_a_twin_of_other_images_is_refused(run: Path, finished: Run, copied: Path) -> None:
    described = json.loads((copied / "classifier.json").read_text())
    (copied / "classifier.json").write_text(json.dumps({**described, "data": "0" * 32}))
    with pytest.raises(UsageError, match="was trained on other images than"):
        evaluate_runs([run], wanted(copied), StopRequest())


def test_a_run_with_a_validation_split_of_its_own_needs_no_twin(finished: Run, copied: Path) -> None:
    with pytest.raises(UsageError, match="has a validation split of its own, 50 images") as refused:
        evaluate_runs([copied], wanted(finished.folder), StopRequest())
    assert refused.value.hint == "leave --temperature-from out"


def test_the_hint_is_a_command_that_trains_a_twin(run: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "second", symlinks=True)
    with pytest.raises(UsageError) as refused:
        evaluate_runs([run], wanted(tmp_path / "second"), StopRequest())
    assert f"`groundup train {run}/recipe.yaml data.validation=0.1` trains a twin" in str(refused.value)
    # A tenth of so few images is too few for a temperature.
    twin = groundup.train(str(run / "recipe.yaml"), ["data.validation=0.25"], run=tmp_path / "twin").folder
    evaluate(run, sections=["calibration"], temperature_from=twin)
    assert fitted_temperature(RunFolder(run)) is not None


def test_without_calibration_the_option_is_refused(run: Path, finished: Run) -> None:
    with pytest.raises(UsageError, match="--temperature-from: does nothing without --calibration"):
        evaluate_runs([run], Wanted(temperature_from=finished.folder), StopRequest())
