"""Finding runs and sweeps, and reading what is in them as it is."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.basis.errors import UsageError
from groundup.compare.report.collect import collect, flat, read_run

MakeRun = Callable[..., None]


def test_runs_are_found_at_and_below_a_path_and_each_once(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "one", {})
    make_run(tmp_path / "a" / "deep" / "two", {})
    (tmp_path / "a" / "recipes").mkdir()
    (tmp_path / "a" / "recipes" / "recipe.yaml").write_text("name: not a run\n")
    found = collect([tmp_path / "a", tmp_path / "a" / "one"])
    assert sorted(run.name for run in found.runs) == ["one", "two"]
    assert not found.sweeps
    assert not found.notes


def test_nothing_inside_a_run_folder_is_taken_for_a_run(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "outer", {})
    make_run(tmp_path / "outer" / "copy", {})
    assert [run.name for run in collect([tmp_path]).runs] == ["outer"]


def test_a_sweep_holds_its_runs_and_says_what_became_of_the_others(search_folder: Path) -> None:
    found = collect([search_folder.parent])
    (sweep,) = found.sweeps
    assert not found.runs
    assert (sweep.name, sweep.metric, sweep.mode) == ("search", "validation_top1", "max")
    assert [run.finished for run in sweep.runs] == [True] * 24 + [False]
    assert sweep.runs[3].value == json.loads((search_folder / "sweep.json").read_text())["runs"][3]["value"]
    assert (sweep.runs[-1].state, sweep.runs[-1].reason) == ("pruned", "below the median at step 10")


def test_the_sweep_file_says_which_keys_a_point_stands_for(search_folder: Path) -> None:
    content = json.loads((search_folder / "sweep.json").read_text())
    content["file"] = {
        "name": "rates",
        "base": "digits",
        "fixed": {"train": {"epochs": 2}},
        "grid": {"optimizer": {"plain": {"optimizer": {"name": "sgd"}}, "adam": {"optimizer": {"name": "adamw"}}}},
        "rules": [{"when": {"optimizer": ["adam"]}, "set": {"schedule.lr": 0.001}}],
    }
    content["runs"] = [{**content["runs"][0], "overrides": {"optimizer": label}} for label in ("plain", "adam", "gone")]
    (search_folder / "sweep.json").write_text(json.dumps(content))
    (sweep,) = collect([search_folder]).sweeps
    assert sweep.runs[0].plan == {"train.epochs": 2, "optimizer.name": "sgd"}
    assert sweep.runs[1].plan == {"train.epochs": 2, "optimizer.name": "adamw", "schedule.lr": 0.001}
    assert sweep.runs[2].plan == {"optimizer": "gone"}
    assert list(sweep.labels) == [
        ("optimizer=plain", {"optimizer.name": "sgd"}),
        ("optimizer=adam", {"optimizer.name": "adamw"}),
        ("optimizer=adam", {"schedule.lr": 0.001}),
    ]


def test_a_sweep_file_of_another_version_does_not_keep_its_results_from_being_read(search_folder: Path) -> None:
    content = json.loads((search_folder / "sweep.json").read_text())
    content["file"] = {"name": "rates", "key_of_another_version": 1}
    (search_folder / "sweep.json").write_text(json.dumps(content))
    (sweep,) = collect([search_folder]).sweeps
    assert (len(sweep.runs), sweep.labels, sweep.runs[0].plan) == (25, (), sweep.runs[0].overrides)


def test_one_damaged_run_of_a_sweep_leaves_the_others(search_folder: Path) -> None:
    (search_folder / "runs" / "003-seed0" / "summary.json").write_text('{"top1": ')
    (search_folder / "runs" / "004-seed0" / "recipe.yaml").unlink()
    found = collect([search_folder])
    (sweep,) = found.sweeps
    assert [run.name for run in sweep.runs if run.state == "damaged"] == ["003-seed0", "004-seed0"]
    assert sum(run.finished for run in sweep.runs) == 22
    assert ["003-seed0" in found.notes[0], "recipe.yaml" in found.notes[1]] == [True, True]


def test_links_are_followed_once_and_a_run_keeps_its_own_name(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "disk" / "one", {})
    make_run(tmp_path / "runs" / "two", {})
    (tmp_path / "runs" / "elsewhere").symlink_to(tmp_path / "disk")
    (tmp_path / "runs" / "latest").symlink_to(tmp_path / "runs" / "two")
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    assert sorted(run.name for run in collect([tmp_path / "runs"]).runs) == ["one", "two"]


def test_hand_made_runs_come_in_the_order_in_which_they_began(make_run: MakeRun, tmp_path: Path) -> None:
    for place, name in enumerate(["c", "a", "b"]):
        make_run(tmp_path / name, {})
        os.utime(tmp_path / name / "recipe.yaml", (1000 + place, 1000 + place))
    assert [run.name for run in collect([tmp_path]).runs] == ["c", "a", "b"]


def test_the_time_of_a_run_is_that_of_its_first_tensorboard_record(make_run: MakeRun, tmp_path: Path) -> None:
    from groundup.tracking import TensorBoardTracker

    make_run(tmp_path / "run", {})
    tracker = TensorBoardTracker(tmp_path / "run" / "tensorboard")
    tracker.close()
    os.utime(tmp_path / "run" / "recipe.yaml", (1000, 1000))
    age = (tmp_path / "run" / "metrics.jsonl").stat().st_mtime - read_run(tmp_path / "run").began
    assert abs(age) < 60


def test_a_run_that_broke_off_is_unfinished(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "run", {})
    (tmp_path / "run" / "summary.json").unlink()
    (run,) = collect([tmp_path]).runs
    assert (run.state, run.finished, run.pflop) == ("unfinished", False, None)


def test_a_damaged_run_is_left_out_with_a_note(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "good", {})
    make_run(tmp_path / "bad", {})
    (tmp_path / "bad" / "summary.json").write_text('{"top1": ')
    found = collect([tmp_path])
    assert [run.name for run in found.runs] == ["good"]
    assert str(tmp_path / "bad") in found.notes[0]


def test_a_sweep_of_another_format_is_left_out_with_a_note(search_folder: Path, make_run: MakeRun) -> None:
    make_run(search_folder.parent / "run", {})
    (search_folder / "sweep.json").write_text('{"format": 2, "runs": []}')
    found = collect([search_folder.parent])
    assert not found.sweeps
    assert "format version 2" in found.notes[0]


@pytest.mark.parametrize("place", ["missing", "empty", "file"])
def test_a_path_without_runs_is_a_mistake_of_the_caller(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=place):
        collect([tmp_path / place])


def test_what_an_optimistic_recipe_calls_validation_is_no_validation(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "fair", {"evaluate": {"model": "last"}}, validation=0.6)
    make_run(tmp_path / "not", {"evaluate": {"optimistic": True, "model": "last"}}, validation=0.6)
    fair, other = (read_run(tmp_path / name) for name in ("fair", "not"))
    assert (fair.validation_top1, other.validation_top1) == (0.6, None)


def test_names_of_runs_and_what_is_written_while_training_do_not_make_another_recipe(
    make_run: MakeRun, tmp_path: Path
) -> None:
    make_run(tmp_path / "a", {"name": "a", "seed": 1, "track": {"tensorboard": True}})
    make_run(tmp_path / "b", {"name": "b", "seed": 2, "track": {"tensorboard": False}})
    make_run(tmp_path / "c", {"name": "a", "seed": 1, "loss": {"label_smoothing": 0.1}})
    a, b, c = (read_run(tmp_path / name).settings for name in "abc")
    assert a == b != c


def test_leaves_of_a_recipe_have_dotted_keys() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}) == {"a.b": 1, "a.c.d": [2], "e": None, "f": {}}


def test_a_run_whose_summary_lacks_what_a_table_needs_is_left_out_and_named(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "good", {})
    make_run(tmp_path / "old", {})
    (tmp_path / "old" / "summary.json").write_text(json.dumps({"top1": 0.5, "images": 100}))
    found = collect([tmp_path])
    assert [run.name for run in found.runs] == ["good"]
    assert "old: left out" in found.notes[0]
    assert "lacks top1_interval" in found.notes[0]
