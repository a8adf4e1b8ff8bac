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
from groundup.models import forward_flops
from groundup.recipe import load_recipe
from groundup.runs.evaluate import Wanted, evaluate_runs, json_of, text_of
from groundup.runs.reports.comparison import Member, compare, short_names, show


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


def flop(folder: Path) -> int:
    return forward_flops(groundup.load(folder).model, 8)


def _test(folder: Path):  # type: ignore[no-untyped-def]
    from groundup.data import load_splits

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
    assert f"4 forward passes, {4 * flop(runs[0]) / 1e9:.3g} GFLOP per image" in said
    assert "longer-1 are called digits, but are no seeds of one recipe: train.epochs: 1.0 there, 3.0 here" in said
    card = (runs[0] / "README.md").read_text()
    assert f"- ensemble of 4 (short-1, short-2, longer-1, longer-2): top-1 {found['ensemble']['top1']:.2%} (95%" in card
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
    assert found["ensemble"]["flop"] == 6 * flop(runs[0])
    assert [run["flop"] for run in found["runs"]] == [3 * flop(run) for run in runs[:2]]
    assert found["group_pairs"] == []


def member(name: str, overrides: list[str], flop: int = 1) -> Member:
    """A run of digits that is right about the first of two images."""
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    return Member(name, load_recipe("digits", overrides), scores, torch.tensor([0, 1]), "none", flop)


def test_members_of_unlike_networks_cost_what_each_costs() -> None:
    found = compare([member("a", [], 10**9), member("b", ["seed=1"], 5 * 10**9)], asked_together=True)
    assert found["ensemble"]["flop"] == 6 * 10**9
    said = show(found)
    assert [row[-1] for row in said.tables[0].rows] == ["1", "5", "6"]
    assert "2 forward passes, 6 GFLOP per image" in said.lines[-1]


def test_seeds_from_other_machines_and_places_are_one_group() -> None:
    measured = "augment.normalize={mean: [0.3, 0.3, 0.3], std: [0.37, 0.37, 0.37]}"
    close = "augment.normalize={mean: [0.301, 0.3, 0.3], std: [0.37, 0.371, 0.37]}"
    there = [
        "seed=1",
        "name=elsewhere",
        "train.device=cpu",
        "train.threads=2",
        "data.cache=none",
        "data.workers=1",
        close,
    ]
    found = compare([member("a", [measured]), member("b", there)], asked_together=False)
    assert [group["seeds"] for group in found["groups"]] == [[0, 1]]
    assert found["apart"] == []


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.epochs=3", "train.epochs"),
        ("data.validation=0.2", "data.validation"),
        ("augment.normalize={mean: [0.4, 0.3, 0.3], std: [0.37, 0.37, 0.37]}", "augment.normalize.mean"),
    ],
)
def test_runs_of_one_name_that_differ_are_no_group_and_it_is_said_why(override: str, key: str) -> None:
    measured = "augment.normalize={mean: [0.3, 0.3, 0.3], std: [0.37, 0.37, 0.37]}"
    found = compare([member("a", [measured]), member("b", [measured, override, "seed=1"])], asked_together=False)
    assert found["groups"] == []
    (line,) = [line for line in show(found).lines if "no seeds of one recipe" in line]
    assert line.startswith("a and b are called digits, but are no seeds of one recipe: ")
    assert f"{key}: " in line


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
