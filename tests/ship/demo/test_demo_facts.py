"""What is kept in RUN/demo: made once, whole, for the weights it belongs to; and what is said where the data is not there."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import groundup
from groundup.basis.errors import DataError
from groundup.runs import trained
from groundup.runs.evaluation_file import weights_checksum
from groundup.runs.folder import RunFolder
from groundup.ship.demo import model as demo_model
from groundup.ship.demo.facts import read_facts
from groundup.ship.demo.model import DemoRun, open_run
from groundup.ship.demo.picture import read_picture


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, demo_settings: list[str]) -> Iterator[Path]:
    """A finished run with a validation split of 150 images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUNDUP_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("runs") / "tiny"
        groundup.train("digits", [*demo_settings, "data.validation=0.25"], run=folder)
        yield folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def opened(run: Path) -> DemoRun:
    return open_run(run, "tiny", run.parent / "scratch")


def test_examples_and_reference_come_from_validation_and_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = opened(run).facts
    assert facts.examples_from == "validation"
    assert len({example.label for example in facts.examples}) == 8
    assert facts.reference is not None
    assert (facts.reference.held_out, facts.reference.held_out_images) == ("validation", 150)
    assert len(facts.reference.features) == 450
    assert sorted(file.name for file in (run / "demo").iterdir())[0] == "demo.json"
    # The second time nothing is opened.
    monkeypatch.setattr(demo_model, "data_of", None)
    again = opened(run).facts
    assert again.examples == facts.examples
    assert again.reference is not None
    assert again.reference.features.equal(facts.reference.features)
    assert [file.name for file in run.iterdir() if file.name.startswith(".")] == []


def test_an_example_is_like_the_training_images_and_a_red_page_is_not(run: Path, tmp_path: Path) -> None:
    demo = opened(run)
    red = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(red)
    known = demo.answer(read_picture(demo.facts.examples[0].file, "example")).unlike
    strange = demo.answer(read_picture(red, "red.png")).unlike
    assert known is not None
    assert strange is not None
    assert known < 1 < 3 < strange


def test_answers_are_those_of_groundup_load(run: Path) -> None:
    demo = opened(run)
    file = demo.facts.examples[3].file
    answer = demo.answer(read_picture(file, "example"))
    expected = groundup.load(run).predict(file)
    assert [name for name, _ in answer.top] == [name for name, _ in expected]
    assert [share for _, share in answer.top] == pytest.approx([share for _, share in expected], rel=1e-5)
    heat = demo.heat(answer)
    assert heat is not None
    assert heat.shape == (8, 8)


def test_facts_of_other_weights_are_made_again(run: Path) -> None:
    opened(run)
    kept = json.loads((run / "demo" / "demo.json").read_text())
    (run / "demo" / "demo.json").write_text(json.dumps({**kept, "weights": "0" * 64, "examples_from": "nowhere"}))
    assert opened(run).facts.examples_from == "validation"


@pytest.mark.parametrize("damage", ["demo.json", "features.safetensors", "example-2.png"])
def test_damaged_facts_are_made_again(run: Path, damage: str) -> None:
    opened(run)
    if damage.endswith("png"):
        (run / "demo" / damage).unlink()
    else:
        (run / "demo" / damage).write_bytes(b"{")
    assert opened(run).facts.reference is not None
    assert (run / "demo" / damage).stat().st_size > 1


def test_without_its_data_a_run_is_shown_and_says_what_is_missing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object) -> None:
        raise DataError("data.source='folder:../somebody/pictures': there is no such folder")

    monkeypatch.setattr(trained, "open_data", gone)
    said: list[str] = []
    demo = open_run(run, "tiny", run.parent / "scratch", say=said.append)
    assert demo.facts.examples == ()
    assert demo.facts.missing == "the data of this run could not be opened here"  # the page names no path
    assert "there is no such folder" in said[0]
    assert not (run / "demo").exists()
    picture = run.parent / "grey.png"
    Image.new("RGB", (8, 8)).save(picture)
    assert demo.answer(read_picture(picture, "grey.png")).unlike is None


def test_other_data_than_it_was_trained_on_is_not_used(run: Path) -> None:
    described = json.loads((run / "classifier.json").read_text())
    (run / "classifier.json").write_text(json.dumps({**described, "data": "0" * 32}))
    assert "other images" in opened(run).facts.missing


def test_a_folder_of_that_name_that_is_somebodys_own_stays_as_it_is(run: Path) -> None:
    (run / "demo").mkdir()
    (run / "demo" / "app.py").write_text("mine")
    said: list[str] = []
    demo = open_run(run, "tiny", run.parent / "scratch", say=said.append)
    assert demo.facts.reference is not None
    assert {file.name: file.read_text() for file in (run / "demo").iterdir()} == {"app.py": "mine"}
    assert "did not write" in said[-1]


def test_an_example_that_is_a_link_is_not_shown(run: Path) -> None:
    opened(run)
    kept = json.loads((run / "demo" / "demo.json").read_text())
    Image.new("RGB", (8, 8)).save(run / "secret.png")
    (run / "demo" / "example-0.png").unlink()
    (run / "demo" / "example-0.png").symlink_to(run / "secret.png")
    assert read_facts(run / "demo", kept["weights"]) is None


@pytest.mark.parametrize("nonsense", ["nan", 0, -1.0, [2.0], "warm"])
def test_a_temperature_that_cannot_be_one_is_not_taken(run: Path, nonsense: object) -> None:
    sections = {"calibration": {"test": {"temperature": nonsense}}}
    document = {"format": 1, "weights": weights_checksum(RunFolder(run)), "sections": sections}
    (run / "evaluation.json").write_text(json.dumps(document))
    assert opened(run).temperature is None


def test_examples_are_looked_for_in_the_folder_alone(run: Path) -> None:
    opened(run)
    kept = json.loads((run / "demo" / "demo.json").read_text())
    (run / "secret.png").write_bytes(b"not to be shown")
    kept["examples"][0]["file"] = "../secret.png"
    (run / "demo" / "demo.json").write_text(json.dumps(kept))
    assert read_facts(run / "demo", kept["weights"]) is None


def test_a_fitted_temperature_divides_the_logits(run: Path) -> None:
    demo = opened(run)
    assert demo.temperature is None
    document = {
        "format": 1,
        "weights": weights_checksum(RunFolder(run)),
        "sections": {"calibration": {"test-flip": {"temperature": 9.0}, "test": {"temperature": 4.0}}},
    }
    (run / "evaluation.json").write_text(json.dumps(document))
    cooled = opened(run)
    assert cooled.temperature == 4.0
    picture = read_picture(demo.facts.examples[0].file, "example")
    plain, cool = demo.answer(picture), cooled.answer(picture)
    assert plain.top[0][0] == cool.top[0][0]
    ratio = plain.top[0][1] / plain.top[1][1]
    assert cool.top[0][1] / cool.top[1][1] == pytest.approx(ratio**0.25, rel=1e-3)
    (run / "evaluation.json").write_text(json.dumps({**document, "weights": "0" * 64}))
    assert opened(run).temperature is None
