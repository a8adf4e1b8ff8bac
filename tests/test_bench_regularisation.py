"""bench/regularisation.py: nothing of other settings is taken for its own, and what a seed lacks is left out."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from groundup.basis.errors import UsageError
from groundup.evaluation import mean_interval
from groundup.recipe import Recipe, load_recipe, to_yaml
from groundup.runs.train import train

SOURCE = "parquet:somewhere"
DATA = "1234abcd"  # a fingerprint


@pytest.fixture(scope="module")
def bench(load_bench: Callable[[str], ModuleType]) -> ModuleType:
    """The bench, as a module."""
    return load_bench("regularisation")


def folder_of(recipe: Recipe, place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "recipe.yaml").write_text(to_yaml(recipe))
    return place


def test_the_arms_differ_in_their_phases_alone(bench: ModuleType) -> None:
    _, constant, reduced = bench.settings(SOURCE, DATA).values()
    changed = {key for key in constant if constant[key] != reduced[key]}
    assert changed == {"name", "phases"}


def test_a_run_of_other_settings_is_refused_and_its_own_is_gone_on_with(bench: ModuleType, tmp_path: Path) -> None:
    recipe = bench.meant("constant", SOURCE, 0)
    normalize = recipe.augment.normalize.model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)})
    measured = recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"normalize": normalize})})
    left = recipe.augment.normalize.model_copy(update={"mean": None, "std": None})
    open_ = recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"normalize": left})})
    bench.require_meant(folder_of(measured, tmp_path / "own"), open_, DATA)
    moved = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": "parquet:elsewhere"})})
    bench.require_meant(folder_of(moved, tmp_path / "moved"), recipe, DATA)
    shorter = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": 6.0})})
    folder_of(shorter, tmp_path / "constant-seed0")
    with pytest.raises(UsageError, match=r"other settings: train\.epochs: 6\.0 there, 40"):
        bench.trained("constant", SOURCE, 0, tmp_path, DATA)
    folder_of(bench.meant("reduced", SOURCE, 0), tmp_path / "constant-seed1")
    with pytest.raises(UsageError, match="is a run of other settings"):
        bench.trained("constant", SOURCE, 1, tmp_path, DATA)


def test_results_of_other_settings_are_refused_and_those_of_none_are_read_again(
    bench: ModuleType, tmp_path: Path
) -> None:
    now, out = bench.settings(SOURCE, DATA), tmp_path / "out.json"
    assert bench.known_seeds(None, now) == bench.known_seeds(out, now) == []
    out.write_text(json.dumps({"settings": now, "seeds": [{"seed": 0}]}))
    assert bench.known_seeds(out, bench.settings("parquet:elsewhere", DATA)) == [{"seed": 0}]
    other = json.loads(json.dumps(now))
    other["reduced"]["train"]["epochs"] = 6.0
    out.write_text(json.dumps({"settings": other, "seeds": [{"seed": 0}]}))
    with pytest.raises(UsageError, match=r"results of other settings: reduced\.train\.epochs: 6\.0"):
        bench.known_seeds(out, now)
    out.write_text(json.dumps({"seeds": [{"seed": 0}]}))
    assert bench.known_seeds(out, now) == []


def test_runs_and_results_of_other_data_are_refused(bench: ModuleType, tmp_path: Path) -> None:
    recipe = load_recipe("digits", ["data.limit=64", "train={epochs: 1, batch_size: 32}", "model.width=8"])
    run = train(recipe, run=tmp_path / "run").folder
    trained_on = json.loads((run / "classifier.json").read_text())["data"]
    bench.require_meant(run, load_recipe(run / "recipe.yaml"), trained_on)
    with pytest.raises(UsageError, match=f"on other data: fingerprint {trained_on}, here {DATA}"):
        bench.require_meant(run, load_recipe(run / "recipe.yaml"), DATA)
    out = tmp_path / "out.json"
    out.write_text(json.dumps({"settings": bench.settings(SOURCE, DATA), "seeds": [{"seed": 0}]}))
    with pytest.raises(UsageError, match="results of other settings: data: '1234abcd' there, 'other' here"):
        bench.known_seeds(out, bench.settings(SOURCE, "other"))


def seed(number: int, constant: float | None, reduced: float | None) -> dict[str, Any]:
    return {"seed": number, "constant": {"test_top1": constant}, "reduced": {"test_top1": reduced}}


def test_every_mean_has_the_interval_of_the_seeds_that_both_arms_have(bench: ModuleType) -> None:
    (row,) = bench.summarized(
        [seed(0, 0.2, 0.25), seed(1, 0.22, 0.24), seed(2, None, 0.9), seed(3, 0.21, 0.28)]
    ).values()
    for name, values in {"constant": [0.2, 0.22, 0.21], "reduced": [0.25, 0.24, 0.28]}.items():
        mean, low, high = mean_interval(values)
        assert (row[name], row[f"{name}_interval"]) == (mean, [low, high])
    assert row["difference"] == pytest.approx((0.05 + 0.02 + 0.07) / 3)
    assert row["seeds"] == 3
    said = bench.table({"test_top1": row})
    assert "| test_top1 (%) | 21.00 (18.52 to 23.48) | 25.67 (20.50 to 30.84) | +4.67 (" in said


def test_one_seed_has_no_interval_and_none_at_all_is_a_dash(bench: ModuleType) -> None:
    rows = bench.summarized([seed(0, 0.2, 0.25)])
    assert rows["test_top1"]["interval"] is None
    assert "20.00 (-inf to inf)" in bench.table(rows)
    rows = bench.summarized([seed(0, None, 0.25)])
    assert "| test_top1 (%) | - | - | - | 0 |" in bench.table(rows)


def test_a_run_without_a_temperature_has_none_of_its_numbers(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {
        "calibration": {"as_trained": {"nll": 2.0, "ece_equal_mass": 0.1}, "temperature": None},
        "corruptions": {"mean": 0.1},
        "generalisation": {"accuracies": {"train": 0.9}},
    }
    folder = folder_of(bench.meant("constant", SOURCE, 0), tmp_path / "run")
    summary = {"top1": 0.3, "pflop": 1.0, "seconds": 2.0}
    monkeypatch.setattr(bench, "read_sections", lambda folder: facts)
    monkeypatch.setattr(bench, "fullest", lambda sections, section: sections[section])
    monkeypatch.setattr(bench.open_run_folder(folder).__class__, "summary", lambda folder: summary)
    found = bench.measured(folder)
    assert found["ece_with_temperature"] is found["nll_with_temperature"] is found["temperature"] is None
    assert (found["nll"], found["gap"]) == (2.0, pytest.approx(0.6))
