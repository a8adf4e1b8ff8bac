"""One finished run in depth: every number against a direct computation, the page and the pictures that come with it."""

import base64
import io
import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import groundup
from groundup import augment
from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.data import Splits
from groundup.evaluation import calibration, fit_temperature, wilson, with_temperature
from groundup.evaluation.corruptions import CORRUPTIONS, corrupt
from groundup.models import forward_flops
from groundup.recipe import load_recipe
from groundup.runs.evaluate import Wanted, evaluate, evaluate_runs, json_of, text_of
from groundup.runs.evaluation_file import Sections, fullest, write_sections
from groundup.runs.evaluation_page import page
from groundup.runs.folder import RunFolder
from groundup.runs.load import Classifier
from groundup.runs.reports import SECTIONS
from groundup.runs.reports.base import between
from groundup.runs.train import Run


def logits(classifier: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return classifier.model(augment.normalize(images, classifier.mean, classifier.std)).float()


def whole(splits: Splits, split: str) -> tuple[Tensor, Tensor]:
    images, labels = getattr(splits, split).to_device("cpu")
    return images.permute(0, 3, 1, 2).contiguous(), labels


def test_an_evaluation_of_a_newer_format_is_left_as_it_is(finished: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run, symlinks=True)
    (run / "evaluation.json").write_text('{"format": 2, "sections": {"new": {}}}')
    with pytest.raises(GroundupError, match="has format 2, written by a newer groundup"):
        evaluate(run)
    assert (run / "evaluation.json").read_text() == '{"format": 2, "sections": {"new": {}}}'


def test_evaluations_of_one_run_at_one_moment_lose_nothing(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_late(folder: RunFolder, sections: Sections) -> None:
        time.sleep(0.5)
        write_sections(folder, sections)

    monkeypatch.setattr("groundup.runs.evaluate.write_sections", write_late)
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run, symlinks=True)
    wanted = [Wanted(tta, split) for tta in ("none", "flip") for split in ("test", "validation")]
    with ThreadPoolExecutor(len(wanted)) as threads:
        list(threads.map(lambda one: evaluate_runs([run], one, StopRequest()), wanted))
    kept = json.loads((run / "evaluation.json").read_text())["sections"]["accuracy"]
    assert {one.view for one in wanted} <= kept.keys()


def test_the_report_on_the_test_split_is_the_summary_again(measured: Path, finished: Run, sections: dict) -> None:
    found = sections["accuracy"]["test"]
    assert found["top1"] == finished.summary["top1"]
    assert found["top1_interval"] == finished.summary["top1_interval"]
    assert found["nll"] == finished.summary["nll"]
    assert np.asarray(found["confusion"]).sum() == finished.summary["images"]


def test_calibration_is_that_of_the_logits_and_the_temperature_that_of_validation(
    sections: dict, classifier: Classifier, splits: Splits
) -> None:
    found = sections["calibration"]["test"]
    images, labels = whole(splits, "test")
    scores = logits(classifier, images)
    direct = calibration(scores, labels)
    assert found["as_trained"]["brier"] == pytest.approx(direct.brier, abs=1e-6)
    assert found["as_trained"]["ece_equal_mass"] == pytest.approx(direct.ece_equal_mass, abs=1e-6)
    validation, of_validation = whole(splits, "validation")
    temperature = fit_temperature(logits(classifier, validation), of_validation)
    assert found["temperature"] == pytest.approx(temperature, rel=1e-4)
    after = calibration(with_temperature(scores, temperature), labels)
    assert found["with_temperature"]["nll"] == pytest.approx(after.nll, abs=1e-5)
    assert found["with_temperature"]["accuracy"] == found["as_trained"]["accuracy"]


def test_corruptions_are_measured_on_the_damaged_images(sections: dict, classifier: Classifier, splits: Splits) -> None:
    found = sections["corruptions"]["test"]
    images, labels = whole(splits, "test")
    assert found["images"] == found["of"] == len(labels)
    assert list(found["by_corruption"]) == list(CORRUPTIONS)
    for name, severity in (("fog", 3), ("defocus_blur", 5), ("frost", 1)):
        hits = logits(classifier, corrupt(images, name, severity, 0)).argmax(1) == labels
        assert found["by_corruption"][name][severity - 1] == pytest.approx(float(hits.double().mean()), abs=0.004)
    everything = [share for row in found["by_corruption"].values() for share in row]
    assert len(everything) == 75
    assert found["mean"] == pytest.approx(np.mean(everything))
    low, high = found["mean_interval"]
    assert low < found["mean"] < high
    assert found["procedural"] == ["frost"]


def test_gaps_are_those_of_the_clean_splits(sections: dict, classifier: Classifier, splits: Splits) -> None:
    found = sections["generalisation"]["test"]
    for split in ("train", "validation", "test"):
        images, labels = whole(splits, split)
        share = float((logits(classifier, images).argmax(1) == labels).double().mean())
        assert found["accuracies"][split] == pytest.approx(share, abs=1e-9)
    assert "readings on validation" in found["selection"]


def test_new_batch_norm_statistics_are_compared_and_not_kept(
    sections: dict, measured: Path, classifier: Classifier
) -> None:
    found = sections["recalibrated"]["test"]
    assert found["accuracies"]["as stored"] == sections["accuracy"]["test"]["top1"]
    assert found["batch_norms"] is True
    for key, value in groundup.load(measured).model.state_dict().items():
        assert torch.equal(value, classifier.model.state_dict()[key]), key


def test_mistakes_are_the_wrong_answers_that_are_surest(sections: dict, classifier: Classifier, splits: Splits) -> None:
    found = sections["mistakes"]["test"]
    images, labels = whole(splits, "test")
    sure, said = logits(classifier, images).softmax(1).max(1)
    wrong = said != labels
    assert found["wrong"] == int(wrong.sum())
    assert found["grad_cam"] is True
    assert found["shown"][0]["confidence"] == pytest.approx(float(sure[wrong].max()), abs=1e-5)
    for row in found["shown"]:
        place = row["image"]
        assert (row["said"], row["is"]) == (classifier.classes[said[place]], classifier.classes[labels[place]])


def test_chosen_images_are_answered_and_looked_into(copied: Path, classifier: Classifier, splits: Splits) -> None:
    (report,) = evaluate_runs([copied], Wanted(images=(17, 3, 17)), StopRequest())
    ((view, found),) = report.sections["chosen"].items()
    assert view == "test: images 17, 3"
    images, labels = whole(splits, "test")
    sure, said = logits(classifier, images).softmax(1).max(1)
    for row, place in zip(found["shown"], (17, 3), strict=True):
        assert row["image"] == place
        assert (row["said"], row["is"]) == (classifier.classes[said[place]], classifier.classes[labels[place]])
        assert row["confidence"] == pytest.approx(float(sure[place]), abs=1e-5)
    assert found["grad_cam"] is True
    (picture,) = found["pictures"]
    assert (copied / picture).is_file()
    evaluate_runs([copied], Wanted(images=(4,)), StopRequest())
    kept = json.loads((copied / "evaluation.json").read_text())["sections"]["chosen"]
    assert list(kept) == ["test: images 17, 3", "test: images 4"]
    assert (copied / "evaluation.html").read_text().count("<h2>Chosen images") == 2
    with pytest.raises(UsageError, match=f"--image {len(labels)}: the test split has images 0 to {len(labels) - 1}"):
        evaluate_runs([copied], Wanted(images=(len(labels),)), StopRequest())


def test_confusions_of_superclasses_are_shown_the_most_frequent_first(sections: dict) -> None:
    found = sections["accuracy"]["test"]
    rows = [{"superclass": name, "right": 1, "within": 0, "outside": 0, "images": 9} for name in ("a", "b", "c")]
    coarse = {"superclass_accuracy": 0.5, "superclass_interval": [0.4, 0.6], "per_superclass": rows}
    shown = SECTIONS["accuracy"].show({**found, **coarse, "superclass_confusion": [[9, 2, 0], [0, 9, 0], [7, 0, 9]]})
    (table,) = [table for table in shown.tables if table.folded == "Most frequent confusions of superclasses"]
    assert table.rows == [["c", "a", "7"], ["a", "b", "2"]]
    assert not any("superclasses" in table.folded for table in SECTIONS["accuracy"].show(found).tables)


def test_the_page_needs_nothing_else_and_its_pictures_decode(measured: Path) -> None:
    text = (measured / "evaluation.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) >= 4
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as opened:
            assert min(opened.size) > 50
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "http" not in text
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    for said in (
        "Generated corruptions",
        "frost (procedural)",
        "Near-duplicates in train",
        "temperature",
        "95% interval",
    ):
        assert said in text


def test_the_page_escapes_what_comes_from_the_data(measured: Path, finished: Run) -> None:
    recipe = load_recipe(str(measured / "recipe.yaml")).model_copy(update={"name": "<script>alert(1)</script>"})
    text = page(RunFolder(measured), recipe, json.loads((measured / "evaluation.json").read_text())["sections"])
    assert "<script" not in text


def test_the_card_takes_its_numbers_from_the_evaluation(measured: Path, sections: dict) -> None:
    text = (measured / "README.md").read_text()
    assert f"mean accuracy {sections['corruptions']['test']['mean']:.2%}" in text
    assert f"ECE {sections['calibration']['test']['as_trained']['ece_equal_mass']:.2%}" in text
    assert text.count("## Calibration and robustness") == 1


def test_a_card_that_somebody_edited_is_left_alone(copied: Path) -> None:
    card = copied / "README.md"
    card.write_text(card.read_text().replace("## Limits", "## My own words"))
    before = card.read_text()
    (report,) = evaluate_runs([copied], Wanted(sections=("calibration",)), StopRequest())
    assert card.read_text() == before
    (note,) = report.notes
    assert note.startswith("README.md is not as groundup")
    assert f"note: {note}" in text_of([report])


def test_a_later_evaluation_adds_to_the_file_and_other_weights_begin_anew(copied: Path) -> None:
    (copied / "evaluation.json").unlink(missing_ok=True)
    evaluate(copied, tta="flip")
    evaluate(copied, sections=["calibration"])
    facts = json.loads((copied / "evaluation.json").read_text())["sections"]["accuracy"]
    one = forward_flops(groundup.load(copied).model, 8)
    assert [facts[view]["cost"] for view in ("test", "test-flip")] == [
        {"forward_passes": 1, "flop": one},
        {"forward_passes": 2, "flop": 2 * one},
    ]
    said = f"; 2 forward passes, {2 * one / 1e9:.3g} GFLOP per image"
    assert said in (copied / "evaluation.html").read_text()
    assert (
        f"- with flip test-time augmentation: top-1 {facts['test-flip']['top1']:.2%} (95% interval"
        in (copied / "README.md").read_text()
    )
    assert said in (copied / "README.md").read_text()
    known = json.loads((copied / "evaluation.json").read_text())
    assert set(known["sections"]["accuracy"]) == {"test", "test-flip"}
    assert set(known["sections"]["calibration"]) == {"test"}
    (copied / "evaluation.json").write_text(json.dumps({**known, "weights": "others"}))
    evaluate(copied)
    assert list(json.loads((copied / "evaluation.json").read_text())["sections"]) == ["accuracy"]


def test_without_a_validation_split_the_report_says_where_a_temperature_comes_from(
    tiny: list[str], tmp_path: Path
) -> None:
    run = groundup.train("digits", [*tiny, "data.validation=0", "train.epochs=1"], run=tmp_path / "run")
    (report,) = evaluate_runs([run.folder], Wanted(sections=("calibration", "generalisation")), StopRequest())
    said = "\n".join(text_of([report]))
    assert "a twin run with data.validation=0.1 gives one" in said
    assert json_of([report])["calibration"]["temperature"] is None
    assert set(json_of([report])["generalisation"]["accuracies"]) == {"train", "test"}
    assert report.sections["generalisation"]["test"]["selection"] is None


def test_top_5_the_classes_and_their_mean_have_intervals_on_terminal_page_and_card(
    measured: Path, sections: dict, finished: Run
) -> None:
    found = sections["accuracy"]["test"]
    images = found["images"]
    assert (
        found["top5_interval"]
        == list(wilson(round(found["top5"] * images), images))
        == finished.summary["top5_interval"]
    )
    low, high = found["macro_interval"]
    assert low < found["macro_accuracy"] < high
    shown = SECTIONS["accuracy"].show(found)
    assert all(row[2] for row in shown.tables[0].rows)
    (every,) = (table for table in shown.tables if table.folded.startswith("Every class"))
    assert every.head[2] == "95% interval"
    assert every.rows[0][2] == between(
        wilson(
            round(found["per_class"][0]["recall"] * found["per_class"][0]["images"]), found["per_class"][0]["images"]
        ),
        1,
    )
    card = (measured / "README.md").read_text()
    assert f"(macro) {found['macro_accuracy']:.2%} (95% interval {low:.2%} to {high:.2%})" in card
    assert f"| top-5 | {found['top5']:.2%} (95% interval " in card
    before = {key: value for key, value in found.items() if key not in ("top5_interval", "macro_interval")}
    assert SECTIONS["accuracy"].show(before).tables[0].rows[1][2] == ""


def test_an_ece_stands_beside_what_chance_gives_and_one_of_an_older_file_stands_alone(sections: dict) -> None:
    found = sections["calibration"]["test"]
    assert found["intervals"].keys() == {"nll", "brier"}
    chance = found["by_chance"]["ece_equal_mass"]
    assert 0 < chance["low"] < chance["mean"] < chance["high"] < 1
    shown = SECTIONS["calibration"].show(found)
    assert shown.tables[1].rows[0][2] == f"{chance['mean']:.2%} ({chance['low']:.2%} to {chance['high']:.2%})"
    assert shown.tables[1].rows[0][4] != shown.tables[1].rows[0][2]
    older = {key: value for key, value in found.items() if not key.startswith("by_chance")}
    older["intervals"] = found["intervals"] | {"ece_equal_mass": [0.0, 0.5]}
    assert SECTIONS["calibration"].show(older).tables[1].rows[0][2] == ""
    assert not any(line.startswith("by chance") for line in SECTIONS["calibration"].show(older).lines)


def test_an_interrupted_evaluation_leaves_what_was_known(copied: Path) -> None:
    evaluate(copied)
    before = {path.name: path.read_bytes() for path in copied.glob("evaluation.*")}
    stop = StopRequest(max_seconds=0)
    with pytest.raises(Interrupted):
        evaluate(copied, sections=["corruptions"], stop=stop)
    assert {path.name: path.read_bytes() for path in copied.glob("evaluation.*")} == before
    assert not list(copied.glob(".*.tmp"))


def test_images_that_were_corrupted_elsewhere_are_evaluated(
    copied: Path, classifier: Classifier, splits: Splits, tmp_path: Path
) -> None:
    images, labels = whole(splits, "test")
    dark = images // 2
    stored = dark.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "dark.npz", x_train=stored, y_train=labels.numpy(), classes=np.array(splits.classes))
    wanted = Wanted(corrupted=f"arrays:{tmp_path / 'dark.npz'}")
    (report,) = evaluate_runs([copied], wanted, StopRequest())
    (found,) = report.sections["corrupted"].values()
    share = float((logits(classifier, dark).argmax(1) == labels).double().mean())
    assert found["top1"] == pytest.approx(share, abs=1e-9)
    assert str(tmp_path) not in (copied / "evaluation.json").read_text()
    np.savez(tmp_path / "other.npz", x_train=stored, y_train=labels.numpy(), classes=np.array(list("abcdefghij")))
    with pytest.raises(UsageError, match="has other classes than the run"):
        evaluate_runs([copied], Wanted(corrupted=f"arrays:{tmp_path / 'other.npz'}"), StopRequest())


def test_sets_of_corrupted_images_are_kept_beside_each_other(copied: Path, splits: Splits, tmp_path: Path) -> None:
    images, labels = whole(splits, "test")
    stored = images.permute(0, 2, 3, 1).numpy()
    for folder, damaged in (("a", stored // 2), ("b", 255 - stored)):
        (tmp_path / folder).mkdir()
        np.savez(
            tmp_path / folder / "set.npz", x_train=damaged, y_train=labels.numpy(), classes=np.array(splits.classes)
        )
        evaluate_runs([copied], Wanted(corrupted=f"arrays:{tmp_path / folder / 'set.npz'}"), StopRequest())
    kept = json.loads((copied / "evaluation.json").read_text())["sections"]["corrupted"]
    assert [facts["source"] for facts in kept.values()] == ["arrays:set.npz"] * 2  # of one name, and two sets
    dark, negative = (facts["top1"] for facts in kept.values())
    assert dark != negative
    for place in ("evaluation.html", "README.md"):
        assert (copied / place).read_text().count("arrays:set.npz") >= 2
    assert f"top-1 {dark:.2%}" in (copied / "README.md").read_text()
    assert f"top-1 {negative:.2%}" in (copied / "README.md").read_text()
    evaluate_runs([copied], Wanted(corrupted=f"arrays:{tmp_path / 'a' / 'set.npz'}"), StopRequest())
    assert json.loads((copied / "evaluation.json").read_text())["sections"]["corrupted"] == kept


def test_corruptions_of_some_images_do_not_displace_those_of_all(
    copied: Path, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("evaluation.json", "README.md"):
        (copied / file).write_bytes((measured / file).read_bytes())
    (whole_split,) = json.loads((copied / "evaluation.json").read_text())["sections"]["corruptions"].values()
    monkeypatch.setattr("groundup.runs.reports.corruptions._IMAGES", 100)
    evaluate(copied, sections=["corruptions"])
    known = json.loads((copied / "evaluation.json").read_text())["sections"]
    assert [facts["images"] for facts in known["corruptions"].values()] == [whole_split["images"], 100]
    assert len({name for facts in known["corruptions"].values() for name in facts["pictures"]}) == 2
    assert fullest(known, "corruptions") == whole_split
    text = (copied / "README.md").read_text()
    assert f"mean accuracy {whole_split['mean']:.2%}" in text
    assert text.count("generated corruptions, ") == 1
    assert (copied / "evaluation.html").read_text().count("Generated corruptions") == 2


def test_a_card_of_before_a_kill_is_brought_up_to_date_by_the_next_evaluation(copied: Path) -> None:
    for file in ("evaluation.json", "README.md"):
        (copied / file).unlink(missing_ok=True)
    evaluate(copied)
    before = (copied / "README.md").read_text()
    evaluate(copied, sections=["calibration"])
    after = (copied / "README.md").read_text()
    assert "ECE" in after
    assert "ECE" not in before
    (copied / "README.md").write_text(before)  # as if killed behind evaluation.json
    evaluate(copied)  # measures nothing that was not there
    assert (copied / "README.md").read_text() == after


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        (Wanted(full=True), "--full: does nothing without --corruptions"),
        (Wanted(ensemble=True), "--ensemble: needs at least 2 runs"),
        (Wanted(split="train", sections=("duplicates",)), "--duplicates: looks for images of another split"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(finished: Run, wanted: Wanted, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        evaluate_runs([finished.folder], wanted, StopRequest())
