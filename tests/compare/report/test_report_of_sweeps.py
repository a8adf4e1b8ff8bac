"""The report on sweeps: rows, effects of settings and importance, with runs that failed or are elsewhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from groundup.compare.report.text import markdown, ranking, summary_lines
from groundup.compare.report.writing import report, write_report

from .conftest import Reader

MakeRun = Callable[..., None]


def test_a_search_shows_importance_parallel_coordinates_and_the_front(search_folder: Path, tmp_path: Path) -> None:
    document, page, _ = write_report([search_folder], tmp_path / "report.html")
    (board,) = document["boards"]
    assert next(iter(board["importance"]["shares"])) == "schedule.max_lr"
    assert board["parallel"]
    assert board["effects"] is None
    front = [row for row in board["rows"] if row["front"]]
    assert board["rows"][0] in front
    for row in front:
        assert not any(other["pflop"] <= row["pflop"] and other["mean"] > row["mean"] for other in board["rows"])
    assert 'id="parallel-0"' in page.read_text(encoding="utf-8")


def test_a_row_whose_seeds_have_failed_stands_after_the_complete_ones_without_a_rank(
    make_run: MakeRun, tmp_path: Path
) -> None:
    folder = tmp_path / "grid"
    entries = []
    for rate, values in ((0.1, [0.5, 0.52]), (0.2, [0.9, None]), (0.3, [0.6, 0.61])):
        for seed, value in enumerate(values):
            name = f"{len(entries):03d}-seed{seed}"
            settings = {"seed": seed, "schedule": {"lr": rate}}
            if value is not None:
                make_run(folder / "runs" / name, settings, top1=value, validation=value)
            state = {"state": "failed" if value is None else "done", "value": value, "pflop": 0.2, "seconds": 4.0}
            entries.append({"name": name, "overrides": {"schedule.lr": rate}, "seed": seed, "reason": None, **state})
    document = {"format": 1, "name": "g", "file": {}, "metric": "validation_top1", "mode": "max", "runs": entries}
    (folder / "sweep.json").write_text(json.dumps(document))
    found, page, table = write_report([folder], tmp_path / "report.html")
    (board,) = found["boards"]
    assert [row["label"] for row in board["rows"]] == ["schedule.lr=0.3", "schedule.lr=0.1", "schedule.lr=0.2"]
    last = board["rows"][-1]
    assert (last["complete"], last["missing"], last["front"]) == (False, {"1": "failed"}, False)
    assert not any("schedule.lr=0.2" in pair["names"] for pair in board["differences"])
    assert "1 of 3 rows lack seeds (INCOMPLETE)" in board["in_words"][0]
    cells = ranking(board)[1][-1]
    assert cells[:2] == ["-", "schedule.lr=0.2 (INCOMPLETE)"]
    assert "0 (not 1 failed)" in cells
    assert any(line.split()[0] == "-." and "INCOMPLETE" in line for line in summary_lines(found) if "lr=0.2" in line)
    assert "schedule.lr=0.2 (INCOMPLETE)" in table.read_text()
    assert 'schedule.lr=0.2 <span class="mark">INCOMPLETE</span>' in page.read_text(encoding="utf-8")


def write_sweep(
    make_run: MakeRun, folder: Path, points: list[dict[str, Any]], values: list[list[float | None]], **more: Any
) -> list[dict[str, Any]]:
    """A sweep folder as a sweep leaves it. values: of each seed of each point, None: failed; more: of sweep.json or each run."""
    entries = []
    for number, (point, results) in enumerate(zip(points, values, strict=True)):
        for seed, value in enumerate(results):
            name = f"{number:03d}-seed{seed}"
            if value is not None:
                settings = more["recipe"](point, seed) if "recipe" in more else {}
                facts = {"data": more["data"](point, seed)} if "data" in more else {}
                own = {"seed": seed, "about": name, **settings}
                make_run(folder / "runs" / name, own, top1=value, validation=value, **facts)
            state = {"state": "failed" if value is None else "done", "value": value, "pflop": 0.2, "seconds": 4.0}
            entries.append({"name": name, "overrides": point, "seed": seed, "reason": None, **state})
    document = {"format": 1, "name": "g", "file": more.get("file", {}), "metric": "validation_top1", "mode": "max"}
    (folder / "sweep.json").write_text(json.dumps({**document, "runs": entries}))
    return entries


CELLS = [{"a": a, "b": b} for a in (0, 1) for b in (0, 1)]


FULL: list[list[float | None]] = [[0.5, 0.51, 0.53], [0.6, 0.62, 0.62], [0.5, 0.52, 0.52], [0.61, 0.62, 0.65]]


def test_effects_are_of_complete_rows_only_and_their_absence_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    write_sweep(make_run, tmp_path / "full", CELLS, FULL)
    write_sweep(make_run, tmp_path / "holes", CELLS, [*FULL[:3], [0.99, None, None]])
    write_sweep(make_run, tmp_path / "empty", CELLS, [*FULL[:3], [None, None, None]])
    wide = [{"a": a, "b": b} for a in (0, 1, 2) for b in (0, 1)]
    write_sweep(make_run, tmp_path / "less", wide, [*FULL, [0.9, None, 0.9], [None, None, None]])
    full, holes, empty, less = (
        report([tmp_path / name], tmp_path)["boards"][0] for name in ("full", "holes", "empty", "less")
    )
    assert full["effects"]["missing"] == 0
    assert not any("No effects" in said for said in full["in_words"])
    for board in (holes, empty):
        assert board["effects"] is None
        assert (
            "No effects of the settings are shown: 1 of the grid's 4 combinations lack seeds" in board["in_words"][-1]
        )
    assert less["effects"]["settings"] == {"a": ["0", "1"], "b": ["0", "1"]}
    assert [effect["effect"] for effect in less["effects"]["found"]] == [
        effect["effect"] for effect in full["effects"]["found"]
    ]
    assert "Without 2 combinations that lack seeds." in markdown(report([tmp_path / "less"], tmp_path))


def test_hand_made_runs_have_neither_effects_nor_importance(make_run: MakeRun, tmp_path: Path) -> None:
    for number in range(12):
        settings = {"loss": {"label_smoothing": number % 3}, "schedule": {"lr": number // 3}}
        make_run(tmp_path / "grid" / str(number), settings, top1=0.5 + number / 100)
        drawn = {"loss": {"label_smoothing": number * number}, "schedule": {"lr": number}}
        make_run(tmp_path / "drawn" / str(number), drawn, top1=0.5 + number / 100)
    for name in ("grid", "drawn"):
        (board,) = report([tmp_path / name], tmp_path)["boards"]
        assert (len(board["rows"]), board["effects"], board["importance"]) == (12, None, None)


def test_the_page_names_the_rates_that_labels_and_rules_stand_for(make_run: MakeRun, tmp_path: Path) -> None:
    points = [{"network": network, "optimizer": name} for network in ("small", "large") for name in ("sgd", "adamw")]
    file = {
        "name": "g",
        "base": "digits",
        "grid": {
            "network": {name: {"model.width": width} for name, width in (("small", 8), ("large", 16))},
            "optimizer": {"sgd": {"schedule.lr": 0.1}, "adamw": {"schedule.lr": 0.001}},
        },
        "rules": [{"when": {"network": "large", "optimizer": "sgd"}, "set": {"schedule.lr": 0.05}}],
    }
    write_sweep(make_run, tmp_path / "g", points, FULL, file=file)
    document, page, table = write_report([tmp_path / "g"], tmp_path / "report.html")
    (board,) = document["boards"]
    assert board["effects"]["follows"] == ["model.width", "schedule.lr"]
    assert board["labels"][-1] == {"where": "network=large, optimizer=sgd", "sets": {"schedule.lr": 0.05}}
    for text in (table.read_text(), Reader(page.read_text(encoding="utf-8")).text):
        assert "model.width, schedule.lr follow from these and are part of their effects." in text
        assert "schedule.lr=0.001" in text
        assert "network=large, optimizer=sgd" in text
        assert "schedule.lr=0.05" in text


def test_a_sweep_over_the_resolution_is_one_table(make_run: MakeRun, tmp_path: Path) -> None:
    points = [{"data.resolution": side} for side in (32, 48)]
    write_sweep(make_run, tmp_path / "g", points, FULL[:2], data=lambda point, _: f"decoded at {point}")
    (board,) = report([tmp_path / "g"], tmp_path)["boards"]
    assert len(board["rows"]) == 2
    assert len(board["differences"]) == 1


@pytest.mark.parametrize("key", ["data.limit", "data.split_seed", "data.source"])
def test_a_sweep_over_what_is_measured_on_is_not_one_table(key: str, make_run: MakeRun, tmp_path: Path) -> None:
    write_sweep(make_run, tmp_path / "g", [{key: value} for value in (1, 2)], FULL[:2])
    assert [len(board["rows"]) for board in report([tmp_path / "g"], tmp_path)["boards"]] == [1, 1]


def test_machines_with_other_images_in_one_sweep_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    write_sweep(make_run, tmp_path / "g", [{"a": 0}, {"a": 1}], FULL[:2], data=lambda point, _: f"machine {point}")
    boards = report([tmp_path / "g"], tmp_path)["boards"]
    assert [len(board["rows"]) for board in boards] == [1, 1]
    assert "Runs on different data" in boards[0]["notes"][0]


def test_seeds_of_a_configuration_whose_measured_constants_differ_are_one_row(
    make_run: MakeRun, tmp_path: Path
) -> None:
    def measured(_: dict[str, Any], seed: int) -> dict[str, Any]:
        return {"augment": {"normalize": {"mean": [0.5 + seed / 1000] * 3, "std": [0.2] * 3}}}

    write_sweep(make_run, tmp_path / "g", CELLS, FULL, recipe=measured)
    (board,) = report([tmp_path / "g"], tmp_path)["boards"]
    assert [(row["seeds"], row["complete"]) for row in board["rows"]] == [(3, True)] * 4


def test_a_run_of_another_machine_counts_with_the_result_that_the_sweep_noted(
    make_run: MakeRun, tmp_path: Path
) -> None:
    entries = write_sweep(make_run, tmp_path / "g", CELLS, FULL)
    for name in ("000-seed1", "003-seed0", "003-seed1", "003-seed2"):
        shutil.rmtree(tmp_path / "g" / "runs" / name)
    document, page, table = write_report([tmp_path / "g"], tmp_path / "report.html")
    (board,) = document["boards"]
    assert board["without"] == []
    assert "4 of 12 runs have no folder here" in board["notes"][0]
    rows = {row["label"]: row for row in board["rows"]}
    assert rows["a=1, b=1"]["results"] == {str(entry["seed"]): entry["value"] for entry in entries[9:]}
    assert [rows[label]["test"] is None for label in ("a=0, b=0", "a=0, b=1", "a=1, b=1")] == [True, False, True]
    assert (len(board["curves"]), board["effects"]["missing"]) == (8, 0)
    for link in Reader(page.read_text(encoding="utf-8")).links:
        assert (tmp_path / unquote(link)).exists()
    assert "003-seed2 (no folder here)" in table.read_text()
