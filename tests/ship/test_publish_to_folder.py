"""Publishing to a folder: what is sent, what stays as it was changed there, and what is refused."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import groundup
from groundup.basis.errors import CheckpointError, GroundupError, UsageError
from groundup.basis.files import sha256
from groundup.runs.evaluation_file import read_sections
from groundup.runs.folder import RunFolder
from groundup.runs.train import Run
from groundup.ship.export.place import Place
from groundup.ship.publish import size_text


@pytest.fixture
def run(averaged_run: Run) -> Run:
    return averaged_run


def test_it_holds_the_run_flat_and_a_manifest_that_fits(run: Run, place: Path) -> None:
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    manifest = json.loads((place / "publication.json").read_text())
    assert files == {*manifest["files"], "publication.json"}
    assert files == {
        *("README.md", "model.safetensors", "classifier.json", "recipe.yaml", "environment.json", "summary.json"),
        *("metrics.jsonl", "samples.png", "training_curves.png", "publication.json"),
    }
    assert (manifest["format"], manifest["recipe"]) == (1, "digits")
    assert (place / "recipe.yaml").read_bytes() == (run.folder / "recipe.yaml").read_bytes()


def test_the_run_folder_is_not_changed(run: Run, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    groundup.publish(run.folder, to=tmp_path / "published")
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_a_dry_run_lists_files_and_sizes_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    planned = groundup.publish(run.folder, to=tmp_path / "published", dry_run=True)
    assert not (tmp_path / "published").exists()
    sizes = {name: size for name, size, sent in planned.files if sent}
    assert sizes["recipe.yaml"] == (run.folder / "recipe.yaml").stat().st_size
    lines = planned.lines()
    assert any(line.startswith("would send") and line.endswith("model.safetensors") for line in lines)
    assert f"would send 10 of 10 files, {size_text(sum(sizes.values()))}" in lines
    assert not any("groundup.load" in line for line in lines), "nothing is there to be loaded"


def test_publishing_again_writes_what_changed_and_keeps_what_is_not_ours(run: Run, place: Path, tmp_path: Path) -> None:
    (place / "LICENSE").write_text("mine")
    (place / "notes").mkdir()
    (place / "notes" / "deep.txt").write_text("mine too")
    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    (copy / "samples.png").unlink()
    done = groundup.publish(copy, to=place)
    assert {name for name, _, sent in done.files if sent} == {"README.md", "publication.json"}
    assert done.removed == ("samples.png",)
    assert not (place / "samples.png").exists()
    assert (place / "LICENSE").read_text() == "mine"
    assert (place / "notes" / "deep.txt").read_text() == "mine too"
    assert [path.name for path in place.parent.iterdir() if path.name.startswith(".published")] == []
    again = groundup.publish(copy, to=place)
    assert (again.removed, [name for name, _, sent in again.files if sent]) == ((), [])


def test_a_card_that_was_edited_there_stays(run: Run, place: Path) -> None:
    (place / "README.md").write_text("# Mine\n")
    for _ in range(2):
        done = groundup.publish(run.folder, to=place)
        assert (place / "README.md").read_text() == "# Mine\n"
        assert "README.md was edited there" in done.notes[0]
    (place / "README.md").unlink()
    groundup.publish(run.folder, to=place)
    assert "groundup: begin" in (place / "README.md").read_text()


def test_words_around_the_card_stay_there_and_ours_are_renewed(run: Run, place: Path, tmp_path: Path) -> None:
    card = place / "README.md"
    card.write_text(card.read_text().replace("license: unknown", "license: mit") + "\nMy words.\n")
    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    (copy / "samples.png").unlink()
    done = groundup.publish(copy, to=place)
    text = card.read_text()
    assert ("license: mit" in text, text.endswith("\nMy words.\n"), "samples.png" in text) == (True, True, False)
    assert done.notes == ("README.md has words of its own there: they stay, groundup's part is renewed",)
    before = text
    groundup.publish(copy, to=place)
    assert card.read_text() == before


def test_what_was_changed_there_stays_and_is_told_every_time(run: Run, place: Path, tmp_path: Path) -> None:
    recipe = (place / "recipe.yaml").read_text().replace("source: digits", "source: folder:/elsewhere")
    (place / "recipe.yaml").write_text(recipe)
    (place / "samples.png").write_bytes(b"another picture")
    for _ in range(2):
        done = groundup.publish(run.folder, to=place)
        assert [note.partition(" was changed there: it is left")[0] for note in done.notes] == [
            "recipe.yaml",
            "samples.png",
        ]
        assert (place / "recipe.yaml").read_text() == recipe
        assert (place / "samples.png").read_bytes() == b"another picture"
    (place / "recipe.yaml").unlink()
    (place / "samples.png").unlink()
    assert groundup.publish(run.folder, to=place).notes == ()
    assert (place / "recipe.yaml").read_bytes() == (run.folder / "recipe.yaml").read_bytes()


def test_damaged_weights_there_are_mended_with_a_note(run: Run, place: Path) -> None:
    (place / "model.safetensors").write_bytes(b"damaged")
    done = groundup.publish(run.folder, to=place)
    assert done.notes == ("model.safetensors was changed there, and could not be loaded: it is sent again",)
    assert len(groundup.load(place).classes) == 10


def test_a_card_of_the_run_that_was_edited_is_published_with_a_note(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    (copy / "README.md").write_text((run.folder / "README.md").read_text().replace("## Limits", "## My limits"))
    done = groundup.publish(copy, to=tmp_path / "published")
    assert "## My limits" in (tmp_path / "published" / "README.md").read_text()
    (note,) = done.notes
    assert note.startswith("README.md of the run is not as groundup wrote it: it is published as it is")
    assert f"note: {note}" in done.lines()


def test_any_other_folder_is_refused_and_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("mine")
    for place, said in (("other", "not an earlier publication"), ("file", "is a file")):
        with pytest.raises(UsageError, match=said):
            groundup.publish(run.folder, to=tmp_path / place)
    for place in (run.folder, run.folder / "published"):
        with pytest.raises(UsageError, match="lies in the run folder"):
            groundup.publish(run.folder, to=place)
    assert not (run.folder / "published").exists()
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_publication_of_other_classes_is_not_overwritten(run: Run, place: Path) -> None:
    manifest = json.loads((place / "publication.json").read_text()) | {"classes": "0" * 64, "recipe": "cats"}
    (place / "publication.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"other classes \(recipe 'cats'\)"):
        groundup.publish(run.folder, to=place)


def test_a_publication_is_not_published_again(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is published already"):
        groundup.publish(place, to=tmp_path / "again")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "s3://bucket/x"}, "unknown place"),
        ({"to": "hf:digits"}, "not the name of a repository"),
        ({"to": "hf:acme/../x"}, "not the name of a repository"),
        ({"to": "published", "private": True}, "means nothing for a folder"),
        ({"to": "published", "include": ["thoughts"]}, "unknown; allowed: export"),
        ({"to": "published", "include": ["export"]}, "the run has none"),
    ],
)
def test_mistakes_are_named(
    options: dict[str, Any], said: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        groundup.publish(run.folder, **options)
    assert list(tmp_path.iterdir()) == []


def test_exports_travel_when_asked_for_and_go_when_they_are_gone(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    (copy / "export").mkdir()
    (copy / "export" / "model.onnx").write_bytes(b"a network")
    place = Place(copy / "export", "model.onnx")
    place.write({}, {"model.onnx": [sha256(place.path)]})
    (copy / "export" / "diary.txt").write_text("not meant for anybody")
    (copy / "export" / ".building-x").mkdir()
    (copy / "export" / ".building-x" / "model.onnx").write_bytes(b"half a network, unchecked")
    (copy / ".draft.png").write_bytes(b"not to be seen")
    done = groundup.publish(copy, to=tmp_path / "published", include=["export"])
    there = tmp_path / "published" / "export"
    assert (there / "model.onnx").read_bytes() == b"a network"
    assert sorted(path.name for path in there.iterdir()) == ["model.onnx", "model.onnx.json"]
    assert any("export/diary.txt: not as `groundup export` wrote it: left out" in note for note in done.notes)
    assert [path.name for path in (tmp_path / "published").rglob(".*")] == []
    removed = groundup.publish(copy, to=tmp_path / "published").removed
    assert removed == ("export/model.onnx", "export/model.onnx.json")
    assert not there.exists()


def test_an_export_that_was_changed_does_not_travel(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    place = Place(copy / "export", "model.onnx")
    place.folder.mkdir()
    place.path.write_bytes(b"a network")
    place.write({}, {"model.onnx": [sha256(place.path)]})
    place.path.write_bytes(b"another network")
    with pytest.raises(UsageError, match="the run has none"):
        groundup.publish(copy, to=tmp_path / "published", include=["export"])


def test_an_unfinished_run_is_refused_with_the_way_on(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    (copy / "summary.json").unlink()
    with pytest.raises(UsageError, match=r"is not finished(?s:.*)groundup resume"):
        groundup.publish(copy, to=tmp_path / "published")


def test_damaged_weights_are_not_published(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    with open(copy / "checkpoints" / "last" / "average.safetensors", "rb+") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    with pytest.raises(CheckpointError, match="damaged"):
        groundup.publish(copy, to=tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_a_failure_half_way_leaves_what_was_there(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    (copy / "metrics.jsonl").write_text("{}\n")
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(GroundupError, match="No space left on device; what was there before is untouched"):
        groundup.publish(copy, to=place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "run"]


def test_a_kill_between_the_two_moves_loses_nothing(run: Run, place: Path) -> None:
    (place / "LICENSE").write_text("mine")
    os.rename(place, place.with_name(f".{place.name}.0123abcd.old"))
    groundup.publish(run.folder, to=place)
    assert (place / "LICENSE").read_text() == "mine"
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_ctrl_c_between_the_two_moves_puts_the_folder_back(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    (copy / "metrics.jsonl").write_text("{}\n")
    before, move = {path.name: path.read_bytes() for path in place.iterdir()}, os.rename

    def interrupted(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        groundup.publish(copy, to=place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_a_link_to_a_folder_keeps_pointing_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    groundup.publish(run.folder, to=tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "publication.json").is_file()


def test_an_evaluation_travels_with_the_weights_it_speaks_of(run: Run, tmp_path: Path) -> None:
    from groundup.runs.evaluate import evaluate

    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    evaluate(copy, sections=["calibration"])
    groundup.publish(copy, to=tmp_path / "published")
    assert read_sections(RunFolder(tmp_path / "published"))["calibration"].keys() == {"test"}
    assert "ECE" in (tmp_path / "published" / "README.md").read_text()


def test_what_was_evaluated_in_the_publication_stands_beside_what_was_evaluated_in_the_run(
    run: Run, tmp_path: Path
) -> None:
    from groundup.runs.evaluate import evaluate

    copy, place = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True)), tmp_path / "published"
    groundup.publish(copy, to=place)
    evaluate(place)
    evaluate(copy, sections=["calibration"])
    done = groundup.publish(copy, to=place)
    assert done.notes == ()
    assert read_sections(RunFolder(place)) == read_sections(RunFolder(copy))
    evaluate(place, split="validation", sections=["generalisation"])
    groundup.publish(copy, to=place)
    found = read_sections(RunFolder(place))
    assert {view for views in found.values() for view in views} == {"test", "validation"}
    assert {"accuracy", "calibration", "generalisation"} <= found.keys()
    card = (place / "README.md").read_text()
    assert "ECE" in card
    manifest = json.loads((place / "publication.json").read_text())["files"]
    assert {"README.md", "evaluation.json", "reliability-test.png"} <= manifest.keys()
    again = groundup.publish(copy, to=place)
    assert ([name for name, _, sent in again.files if sent], again.notes) == ([], ())
    assert "validation" not in read_sections(RunFolder(copy))["accuracy"], "publishing changes nothing in the run"


def test_an_evaluation_of_other_weights_makes_way_with_a_note(run: Run, place: Path, tmp_path: Path) -> None:
    from groundup.runs.evaluate import evaluate

    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    evaluate(copy)
    known = json.loads((copy / "evaluation.json").read_text())
    (place / "evaluation.json").write_text(json.dumps(known | {"weights": "0" * 64}))
    done = groundup.publish(copy, to=place)
    assert done.notes == (
        "evaluation.json there was measured on other weights: what was measured on these takes its place",
    )
    assert read_sections(RunFolder(place)).keys() == {"accuracy"}


def test_an_evaluation_there_that_cannot_be_shown_is_left_out_with_a_note(
    run: Run, place: Path, tmp_path: Path
) -> None:
    from groundup.runs.evaluate import evaluate

    copy = Path(shutil.copytree(run.folder, tmp_path / "run", symlinks=True))
    evaluate(copy)
    known = json.loads((copy / "evaluation.json").read_text())
    (place / "evaluation.json").write_text(json.dumps(known | {"sections": {"corruptions": {"test": {}}}}))
    done = groundup.publish(copy, to=place)
    assert done.notes == ("evaluation.json: what it said of corruptions ('test') could not be read, and is left out",)
    assert read_sections(RunFolder(place)).keys() == {"accuracy"}


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (44_900_000_000, "44.9 GB")]
)
def test_sizes_are_said_for_people(size: int, text: str) -> None:
    assert size_text(size) == text
