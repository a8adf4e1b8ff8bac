"""Which runs a report puts into one table, on what it ranks them, and how the diary judges a run by the one before."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from groundup.compare.report.boards import boards as boards_of
from groundup.compare.report.collect import Collection, read_run
from groundup.compare.report.text import markdown, ranking
from groundup.compare.report.writing import _board, report

MakeRun = Callable[..., None]


def test_runs_on_other_test_data_are_not_compared(make_run: MakeRun, tmp_path: Path) -> None:
    for place, (name, data) in enumerate([("a", "one"), ("b", "one"), ("c", "two")]):
        make_run(tmp_path / name, {"loss": {"label_smoothing": place}}, data=data)
        os.utime(tmp_path / name / "recipe.yaml", (place, place))
    document = report([tmp_path], tmp_path)
    assert [len(board["rows"]) for board in document["boards"]] == [2, 1]
    assert all("on different data" in board["notes"][0] for board in document["boards"])
    assert document["history"][1]["difference"] == 0
    assert "no difference to a on test shown" in document["history"][1]["verdict"]
    assert document["history"][2]["verdict"] == "not compared with b: other test data"


def test_runs_that_differ_in_seed_alone_are_one_row_ranked_on_validation(make_run: MakeRun, tmp_path: Path) -> None:
    for rate, base in ((0.1, 0.6), (0.2, 0.5)):
        for seed in range(3):
            settings = {"seed": seed, "name": f"lr {rate}", "schedule": {"lr": rate}}
            make_run(tmp_path / f"{rate}-{seed}", settings, top1=1 - base, validation=base + 0.001 * seed * (1 + rate))
    (board,) = report([tmp_path], tmp_path)["boards"]
    assert (board["metric"], board["split"]) == ("validation_top1", "validation")
    assert [row["label"] for row in board["rows"]] == ["lr 0.1", "lr 0.2"]
    assert [row["seeds"] for row in board["rows"]] == [3, 3]
    assert board["in_words"][0].startswith("lr 0.1 is better than lr 0.2 by 9.99 points")


def test_calibration_and_corruptions_stand_in_columns_where_they_were_measured(
    make_run: MakeRun, tmp_path: Path
) -> None:
    make_run(tmp_path / "a", {})
    run = read_run(tmp_path / "a")
    sections = {
        "calibration": {"test": {"as_trained": {"ece_equal_mass": 0.031}}},
        "corruptions": {"test": {"mean": 0.42}},
    }
    (board,) = boards_of(Collection([], [replace(run, sections=sections), replace(run, seed=1, folder=tmp_path / "b")]))
    head, (row,) = ranking(_board(board, tmp_path))
    assert row[head.index("ECE (test)")] == "3.10% (1 of 2 runs)"
    assert row[head.index("mean corruption accuracy (test)")] == "42.00% (1 of 2 runs)"


def test_an_unfinished_run_is_in_the_diary_and_in_no_table(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "a", {})
    (tmp_path / "a" / "summary.json").unlink()
    document = report([tmp_path], tmp_path)
    assert document["boards"] == []
    assert document["history"][0]["verdict"] == "no result: unfinished"
    assert "unfinished" in markdown(document)


def test_the_diary_judges_on_validation_where_both_runs_have_it(make_run: MakeRun, tmp_path: Path) -> None:
    for place, (name, validation) in enumerate([("a", 0.6), ("b", 0.5), ("c", None)]):
        settings, images = {"loss": {"label_smoothing": place}}, {"validation_images": 2000 if validation else 0}
        make_run(tmp_path / name, settings, top1=0.5 + place / 10, validation=validation, **images)
        os.utime(tmp_path / name / "recipe.yaml", (place, place))
    document = report([tmp_path], tmp_path)
    _, second, third = document["history"]
    assert second["verdict"].startswith("worse than a on validation: -10.0 points (95% interval -13.")
    assert (second["judged_on"], second["shown"]) == ("validation", True)
    assert third["verdict"].startswith("better than b on test: +10.0 points")
    assert "1 of 2 verdicts are on the test split" in markdown(document)
