"""Several runs on the same images: against each other, as seeds of one recipe, and asked together."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import groundup
from groundup.basis.errors import UsageError
from groundup.basis.interruption import StopRequest
from groundup.evaluation import compare_groups, compare_runs, ensemble
from groundup.runs.evaluate import Wanted, evaluate_runs, json_of, text_of
from groundup.runs.reports.comparison import short_names


@pytest.fixture(scope="module")
def runs(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one recipe, two of another."""
    folder = tmp_path_factory.mktemp("several")
    short, longer = [*tiny, "train.epochs=1"], [*tiny, "train.epochs=3"]
    return [
        groundup.train("digits", [*settings, f"seed={seed}"], run=folder / f"{name}-{seed}").folder
        for name, settings in (("short", short), ("longer", longer))
        for seed in (1, 2)
    ]


def right(folder: Path) -> torch.Tensor:
    """Whether each test image is right, computed with the loaded classifier."""
    return probabilities(folder).argmax(1) == labels(folder)


def probabilities(folder: Path) -> torch.Tensor:
    return groundup.load(folder).probabilities(images(folder))


def images(folder: Path) -> torch.Tensor:
    test = _test(folder)
    return test.to_device("cpu")[0].permute(0, 3, 1, 2)


def labels(folder: Path) -> torch.Tensor:
    return _test(folder).labels_on("cpu")


def _test(folder: Path):  # type: ignore[no-untyped-def]
    from groundup.data import load_splits
    from groundup.recipe import load_recipe

    return load_splits(load_recipe(str(folder / "recipe.yaml")).data).test


def test_runs_are_compared_on_the_same_images_and_seeds_are_grouped(runs: list[Path]) -> None:
    reports = evaluate_runs(runs, Wanted(ensemble=True), StopRequest())
    found = json_of(reports)["comparison"]
    assert [run["name"] for run in found["runs"]] == ["short-1", "short-2", "longer-1", "longer-2"]
    assert len(found["pairs"]) == 6
    hits = [right(folder) for folder in runs]
    direct = compare_runs(hits[0], hits[2], names=("short-1", "longer-1"))
    (pair,) = [pair for pair in found["pairs"] if pair["names"] == ["short-1", "longer-1"]]
    assert pair["difference"] == pytest.approx(direct.difference)
    assert pair["in_words"] == direct.in_words()
    assert [group["runs"] for group in found["groups"]] == [["short-1", "short-2"], ["longer-1", "longer-2"]]
    (as_recipes,) = found["group_pairs"]
    grouped = compare_groups(torch.stack(hits[:2]), torch.stack(hits[2:]))
    assert as_recipes["difference"] == pytest.approx(grouped.difference)
    assert as_recipes["over"] == "seeds and images"
    together = ensemble([probabilities(folder).log() for folder in runs]).argmax(1) == labels(runs[0])
    assert found["ensemble"]["top1"] == pytest.approx(float(together.double().mean()), abs=0.004)
    assert found["ensemble"]["forward_passes"] == 4
    said = "\n".join(text_of(reports))
    assert "short-1 against longer-1:" in said
    assert "4 forward passes per image" in said
    for folder in runs:
        known = json.loads((folder / "evaluation.json").read_text())["sections"]
        assert found in known["comparison"].values()
        assert "Runs compared on the same images" in (folder / "evaluation.html").read_text()


def test_comparisons_with_other_runs_are_kept_beside_each_other(runs: list[Path], tmp_path: Path) -> None:
    one, other, third = (Path(shutil.copytree(run, tmp_path / run.name, symlinks=True)) for run in runs[:3])
    namesake = Path(shutil.copytree(runs[3], tmp_path / "elsewhere" / other.name, symlinks=True))
    for run in (one, other, third):
        (run / "evaluation.json").unlink(missing_ok=True)
    evaluate_runs([one, other], Wanted(ensemble=True), StopRequest())
    evaluate_runs([one, third], Wanted(), StopRequest())
    evaluate_runs([one, namesake], Wanted(), StopRequest())
    evaluate_runs(
        [other, one], Wanted(), StopRequest()
    )  # the first again, the other way round and without the ensemble
    kept = json.loads((one / "evaluation.json").read_text())["sections"]["comparison"]
    names = [{run["name"] for run in facts["runs"]} for facts in kept.values()]
    assert names == [{one.name, other.name}, {one.name, third.name}, {one.name, other.name}]
    assert [bool(facts["ensemble"]) for facts in kept.values()] == [True, False, False]
    assert (one / "evaluation.html").read_text().count("<h2>Runs compared on the same images") == 3
    assert len(json.loads((third / "evaluation.json").read_text())["sections"]["comparison"]) == 1


def test_the_cost_of_an_ensemble_counts_its_test_time_augmentation(runs: list[Path]) -> None:
    found = json_of(evaluate_runs(runs[:2], Wanted(tta="translate", ensemble=True), StopRequest()))["comparison"]
    assert found["ensemble"]["forward_passes"] == 6
    assert found["group_pairs"] == []


def test_runs_on_different_data_are_refused_before_anything_is_measured(
    runs: list[Path], tiny: list[str], tmp_path: Path
) -> None:
    other = groundup.train("digits", [*tiny, "train.epochs=1", "data.resolution=10"], run=tmp_path / "other").folder
    with pytest.raises(UsageError, match="cannot be compared"):
        evaluate_runs([runs[0], other], Wanted(), StopRequest())
    assert not (other / "evaluation.json").exists()


def test_runs_with_another_test_split_of_the_same_data_are_refused(
    runs: list[Path], tiny: list[str], tmp_path: Path
) -> None:
    other = groundup.train("digits", [*tiny, "train.epochs=1", "data.split_seed=5"], run=tmp_path / "other").folder
    with pytest.raises(UsageError, match="splits hold different images"):
        evaluate_runs([runs[0], other], Wanted(), StopRequest())


def test_a_run_that_is_named_twice_is_refused(runs: list[Path]) -> None:
    with pytest.raises(UsageError, match="named twice"):
        evaluate_runs([runs[0], runs[0] / "."], Wanted(), StopRequest())


def test_runs_of_one_name_are_told_apart_by_where_they_lie() -> None:
    assert short_names([Path("/a/one/run"), Path("/a/two/run")]) == ["one/run", "two/run"]
    assert short_names([Path("/a/one/run-1"), Path("/a/one/run-2")]) == ["run-1", "run-2"]
