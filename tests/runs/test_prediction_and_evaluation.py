"""A run as something to use: names for pictures of every kind, and the honest report."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import groundup
from groundup.basis.errors import DataError, UsageError
from groundup.data import load_splits
from groundup.recipe import load_recipe
from groundup.runs.evaluate import evaluate
from groundup.runs.load import Classifier
from groundup.runs.predictions import predict_into
from groundup.runs.train import Run


@pytest.fixture(scope="module")
def classifier(finished: Run) -> Classifier:
    return groundup.load(finished.folder)


@pytest.fixture
def digit() -> np.ndarray:
    """A grey picture (8, 8) that is not symmetric."""
    return np.arange(64, dtype=np.uint8).reshape(8, 8) * 3


def test_a_prediction_has_five_names_with_falling_probabilities(classifier: Classifier, digit: np.ndarray) -> None:
    answer = classifier.predict(digit)
    assert len(answer) == 5
    names, probabilities = zip(*answer, strict=True)
    assert set(names) < {str(number) for number in range(10)}
    assert list(probabilities) == sorted(probabilities, reverse=True)
    everything = classifier.predict(digit, top=99)
    assert len(everything) == 10
    assert sum(p for _, p in everything) == pytest.approx(1, abs=1e-5)


def test_the_same_picture_in_every_kind_of_file_gets_the_same_answer(
    classifier: Classifier, digit: np.ndarray, tmp_path: Path
) -> None:
    grey = Image.fromarray(digit)
    files = {name: tmp_path / f"{name}.png" for name in ("grey", "rgb", "palette", "alpha", "sixteen")}
    grey.save(files["grey"])
    grey.convert("RGB").save(files["rgb"])
    palette = Image.fromarray(digit)
    palette.putpalette([level for grey_level in range(256) for level in (grey_level,) * 3])
    palette.save(files["palette"])
    grey.convert("RGBA").save(files["alpha"])
    Image.fromarray(digit.astype(np.uint16) << 8).save(files["sixteen"])
    with Image.open(files["palette"]) as opened:
        assert opened.mode == "P"
    expected = classifier.predict(digit)
    for name, file in files.items():
        assert classifier.predict(file) == expected, name
        assert classifier.predict(str(file)) == expected, name
    assert classifier.predict(files["rgb"].read_bytes()) == expected
    with Image.open(files["rgb"]) as opened:
        assert classifier.predict(opened) == expected


def test_a_transparent_background_counts_as_white(classifier: Classifier, digit: np.ndarray, tmp_path: Path) -> None:
    pixels = np.dstack([digit, digit, digit, np.full_like(digit, 255)])
    pixels[:4, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "half.png")
    on_white = digit.copy()
    on_white[:4] = 255
    assert classifier.predict(tmp_path / "half.png") == classifier.predict(on_white)


def test_a_photo_that_was_taken_with_the_camera_turned_is_turned_back(
    classifier: Classifier, digit: np.ndarray, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(np.rot90(digit).copy()).save(tmp_path / "turned.png", exif=exif)
    assert classifier.predict(tmp_path / "turned.png") == classifier.predict(digit)


def test_a_picture_of_another_size_is_brought_to_the_runs(classifier: Classifier, digit: np.ndarray) -> None:
    assert classifier.prepare(np.kron(digit, np.ones((5, 5), np.uint8))).shape == (3, 8, 8)


def test_a_file_that_is_no_picture_is_named(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png: not an image"):
        classifier.predict(tmp_path / "text.png")


def test_after_a_calibration_predictions_have_its_temperature_and_the_same_first_class(
    copied: Path, digit: np.ndarray, tmp_path: Path
) -> None:
    (copied / "evaluation.json").unlink(missing_ok=True)
    before = groundup.load(copied)
    evaluate(copied, sections=["calibration"])
    after = groundup.load(copied)
    fitted = json.loads((copied / "evaluation.json").read_text())["sections"]["calibration"]["test"]["temperature"]
    assert (before.temperature, after.temperature) == (None, fitted)
    images = before.prepare(digit)[None]
    raised = before.probabilities(images) ** (1 / fitted)
    assert after.probabilities(images).tolist()[0] == pytest.approx((raised / raised.sum()).tolist()[0], rel=1e-4)
    assert before.predict(digit)[0][0] == after.predict(digit)[0][0]


def test_a_table_of_predictions_has_the_temperature_too(copied: Path, digit: np.ndarray, tmp_path: Path) -> None:
    evaluate(copied, sections=["calibration"])
    Image.fromarray(digit).save(tmp_path / "one.png")
    classifier = groundup.load(copied)
    predict_into(tmp_path / "all.csv", classifier, [tmp_path / "one.png"], top=1)
    written = (tmp_path / "all.csv").read_text().splitlines()[1].split(",")
    assert classifier.temperature is not None
    assert float(written[2]) == pytest.approx(classifier.predict(digit)[0][1], rel=1e-5)


def test_the_report_on_the_test_split_is_the_summary_again(finished: Run) -> None:
    result = evaluate(finished.folder)
    assert result.top1 == finished.summary["top1"]
    assert list(result.top1_interval) == finished.summary["top1_interval"]
    assert np.asarray(result.confusion).sum() == finished.summary["images"]
    known = json.loads((finished.folder / "evaluation.json").read_text())["sections"]["accuracy"]["test"]
    assert known.pop("cost")["forward_passes"] == 1
    known.pop("pictures")
    assert known == json.loads(json.dumps(result.to_dict()))
    assert (finished.folder / "confusion-test.png").is_file()


def test_a_run_in_the_plain_order_of_memory_is_evaluated_in_it(tiny: list[str], tmp_path: Path) -> None:
    run = groundup.train("digits", [*tiny, "train.channels_last=false"], run=tmp_path / "run")
    seen: list[bool] = []
    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].is_contiguous()) if isinstance(module, nn.Conv2d) else None
    )
    try:
        result = evaluate(run.folder)
    finally:
        hook.remove()
    assert seen
    assert all(seen)
    assert result.top1 == run.summary["top1"]


def test_mirrored_evaluation_averages_the_picture_and_its_mirror_image(finished: Run, classifier: Classifier) -> None:
    result = evaluate(finished.folder, tta="flip")
    assert result.nll != evaluate(finished.folder).nll
    test = load_splits(load_recipe(str(finished.folder / "recipe.yaml")).data).test
    assert test is not None
    import torch

    images = torch.from_numpy(test.images[test.indices]).permute(0, 3, 1, 2)
    logits = [classifier.probabilities(view).log() for view in (images, images.flip(3))]
    # Averaging logits and averaging log-probabilities differ by a constant per image, so the order is the same.
    guessed = (logits[0] + logits[1]).argmax(1)
    assert result.top1 == pytest.approx((guessed.numpy() == test.labels).mean(), abs=1e-9)
    known = json.loads((finished.folder / "evaluation.json").read_text())["sections"]["accuracy"]["test-flip"]
    assert known["top1"] == result.top1


def test_other_splits_are_evaluated_by_name(finished: Run) -> None:
    assert evaluate(finished.folder, split="validation").images == 50
    assert evaluate(finished.folder, split="train").images == 150


@pytest.mark.parametrize(
    ("option", "part"), [({"tta": "rotate"}, "--tta rotate"), ({"split": "tests"}, "--split tests")]
)
def test_an_unknown_option_names_what_is_allowed(finished: Run, option: dict[str, str], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        evaluate(finished.folder, **option)


def test_the_best_model_on_validation_is_what_is_reported_if_asked_for(tiny: list[str], tmp_path: Path) -> None:
    run = groundup.train("digits", [*tiny, "evaluate.model=best", "train.epochs=3"], run=tmp_path / "run")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: line["validation_top1"])
    assert run.summary["selected_on"] == f"validation: step {best['step']}"
    assert run.summary["validation_top1"] == best["validation_top1"]
    assert evaluate(run.folder, split="validation").top1 == pytest.approx(best["validation_top1"])
