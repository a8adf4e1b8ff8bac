"""The report on real runs: what is in its tables, its page and its Markdown file, and what it leaves alone."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from groundup.basis.errors import UsageError
from groundup.compare.report.boards import boards as boards_of
from groundup.compare.report.collect import Collection, read_run
from groundup.compare.report.text import markdown, ranking, summary_lines
from groundup.compare.report.writing import _board, report, write_report

MakeRun = Callable[..., None]


class Reader(HTMLParser):
    """What a browser would find: `links`, everything that would be `loaded`, the text of `scripts`, the cells of tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.scripts: dict[str, str] = {}
        self.open: list[str] = []
        self.policy = ""
        self.text = ""
        self._script: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if tag not in ("meta", "br", "img", "input", "link"):
            self.open.append(tag)
        if tag == "a":
            self.links.append(given["href"])
        elif "src" in given or "href" in given:
            self.loaded.append(given.get("src") or given["href"])
        if tag == "script":
            self._script = given.get("id", f"script {len(self.scripts)}")
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        self._script = None if tag == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif "style" not in self.open:
            self.text += data


@pytest.fixture(scope="session")
def reported(
    sweep_folder: Path, runs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """The report on a real grid and three real runs: the document and the page."""
    folder = tmp_path_factory.mktemp("report here")
    document, page, _ = write_report([sweep_folder, runs_folder], folder / "report.html")
    return document, page


@pytest.fixture(scope="session")
def read(reported: tuple[dict[str, Any], Path]) -> Reader:
    """The page as it is parsed."""
    return Reader(reported[1].read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_loads_nothing(read: Reader) -> None:
    assert read.open == []
    assert read.loaded == []
    assert "default-src 'none'" in read.policy
    assert not re.search(
        r"(url\(|@import)", (Path(sys.modules[report.__module__].__file__ or "").parent / "page.css").read_text()
    )


def test_every_link_is_relative_and_leads_to_a_file_that_is_there(
    read: Reader, reported: tuple[dict[str, Any], Path]
) -> None:
    assert len(read.links) == 2 * 8 + 2 * 3 + 3
    for link in read.links:
        assert not re.match(r"[a-z]+:|/", link)
        assert (reported[1].parent / unquote(link)).exists()


def test_the_data_in_the_page_is_the_document(read: Reader, reported: tuple[dict[str, Any], Path]) -> None:
    assert json.loads(read.scripts["data"]) == json.loads(json.dumps(reported[0]))


def test_curves_are_the_lines_of_metrics_jsonl(read: Reader, sweep_folder: Path) -> None:
    board = json.loads(read.scripts["data"])["boards"][0]
    assert len(board["curves"]) == 8
    for curve in board["curves"]:
        lines = (sweep_folder / "runs" / curve["run"] / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert curve["values"]["validation_top1"] == [record["validation_top1"] for record in records]
        assert curve["clocks"]["epoch"] == [record["epoch"] for record in records]


def test_a_row_is_the_mean_of_its_seeds(reported: tuple[dict[str, Any], Path], sweep_folder: Path) -> None:
    entries = json.loads((sweep_folder / "sweep.json").read_text())["runs"]
    board = reported[0]["boards"][0]
    assert [row["mean"] for row in board["rows"]] == sorted((row["mean"] for row in board["rows"]), reverse=True)
    for row in board["rows"]:
        own = {str(entry["seed"]): entry["value"] for entry in entries if entry["overrides"] == row["settings"]}
        assert row["results"] == own
        assert row["mean"] == pytest.approx(sum(own.values()) / 2)
        tested = [
            json.loads((sweep_folder / "runs" / run["name"] / "summary.json").read_text())["top1"]
            for run in row["runs"]
        ]
        assert row["test"]["mean"] == pytest.approx(sum(tested) / 2)


def test_a_grid_shows_effects_and_a_failed_run_its_reason(reported: tuple[dict[str, Any], Path], read: Reader) -> None:
    board = reported[0]["boards"][0]
    assert board["effects"]["settings"] == {
        "schedule.max_lr": ["0.1", "0.0001"],
        "loss.label_smoothing": ["0.0", "0.1"],
    }
    assert board["importance"] is None
    assert board["without"] == [{"name": "004-seed0", "seed": 0, "state": "failed", "reason": "loss is not finite"}]
    assert "loss is not finite" in read.text


def test_validation_and_test_are_never_in_one_column(reported: tuple[dict[str, Any], Path]) -> None:
    sweep, runs = reported[0]["boards"]
    assert (sweep["metric"], sweep["split"]) == ("validation_top1", "validation")
    assert (runs["metric"], runs["split"]) == ("top1", "test")  # one of the three has no validation split
    assert any("Ranked on the test split" in note for note in runs["notes"])
    optimistic = next(curve for curve in runs["curves"] if curve["run"] == "third")
    assert "test_top1" in optimistic["values"]
    assert not any("validation" in key for key in optimistic["values"])
    assert all(row["test"] is None for row in runs["rows"])


def test_an_optimistic_run_is_marked_in_every_table(reported: tuple[dict[str, Any], Path], read: Reader) -> None:
    document, page = reported
    assert [row["optimistic"] for row in sorted(document["boards"][1]["rows"], key=lambda row: row["label"])] == [
        False,
        False,
        True,
    ]
    text = page.with_suffix(".md").read_text()
    marked = [line for line in text.splitlines() if line.startswith("|") and "third" in line]
    assert len(marked) == 2
    assert all("OPTIMISTIC" in line for line in marked)
    assert read.text.count("OPTIMISTIC") == 2
    assert any("1 of 12 runs are optimistic" in note for note in document["notes"])
    assert any("OPTIMISTIC" in line for line in summary_lines(document))


def test_one_seed_has_no_interval_and_says_so(reported: tuple[dict[str, Any], Path]) -> None:
    runs = reported[0]["boards"][1]
    assert all(row["interval"] is None and row["sd"] is None for row in runs["rows"])
    head, rows = ranking(runs)
    assert all(
        row[head.index("95% interval over seeds")].startswith("one seed: none; over test images") for row in rows
    )
    assert "3 of 3 rows have one seed" in runs["in_words"][0]


def test_the_diary_says_what_was_changed_and_what_came_of_it(
    reported: tuple[dict[str, Any], Path], runs_folder: Path
) -> None:
    first, second, third = reported[0]["history"]
    assert (first["changes"], first["verdict"]) == (None, "the first result")
    assert second["changes"] == [{"key": "schedule.max_lr", "before": "0.1", "now": "1e-06"}]
    assert second["top1"] == json.loads((runs_folder / "second" / "summary.json").read_text())["top1"]
    assert re.match(
        r"(worse than first on validation|no difference to first on validation shown): -?[\d.]+ points \(95% interval",
        second["verdict"].replace("+", ""),
    )
    assert second["shown"] == (not second["difference_interval"][0] <= 0 <= second["difference_interval"][1])
    assert {"evaluate.optimistic", "data.validation"} <= {change["key"] for change in third["changes"]}
    assert "no fair comparison" in third["verdict"]


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


def test_names_cannot_break_out_of_the_page_or_the_table(make_run: MakeRun, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>|<img src=x>"
    make_run(tmp_path / "runs" / "a", {"name": evil})
    _, page, table = write_report([tmp_path / "runs"], tmp_path / "report.html")
    read = Reader(page.read_text(encoding="utf-8"))
    assert (len(read.scripts), read.loaded, read.open) == (3, [], [])
    assert json.loads(read.scripts["data"])["boards"][0]["rows"][0]["label"] == evil
    row = next(line for line in table.read_text().splitlines() if "alert" in line)
    assert "<script" not in row
    assert "\\|&lt;img" in row


def test_only_an_earlier_report_is_written_over(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", {})
    out = tmp_path / "report.html"
    assert [place.name for place in write_report([tmp_path / "runs"], out)[1:]] == ["report.html", "report.md"]
    assert [place.name for place in write_report([tmp_path / "runs"], out)[1:]] == ["report.html", "report.md"]
    (tmp_path / "report.md").write_text("my notes")
    assert [place.name for place in write_report([tmp_path / "runs"], out)[1:]] == ["report-2.html", "report-2.md"]
    assert (tmp_path / "report.md").read_text() == "my notes"


@pytest.mark.parametrize("out", ["report.txt", "nowhere/report.html"])
def test_a_place_that_cannot_hold_the_page_is_told(out: str, make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", {})
    with pytest.raises(UsageError, match="--out"):
        write_report([tmp_path / "runs"], tmp_path / out)


def test_without_the_chart_library_the_tables_are_written_and_the_extra_is_named(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs" / "a", {})
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    document, page, table = write_report([tmp_path / "runs"], tmp_path / "report.html")
    assert "groundup[report]" in document["notes"][0]
    read = Reader(page.read_text(encoding="utf-8"))
    assert (list(read.scripts), "div" in read.open) == (["data"], False)
    assert "The page has no charts" in read.text
    assert 'id="curves-0"' not in page.read_text(encoding="utf-8")
    assert "The page has no charts" in table.read_text()


def test_an_unfinished_run_is_in_the_diary_and_in_no_table(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "a", {})
    (tmp_path / "a" / "summary.json").unlink()
    document = report([tmp_path], tmp_path)
    assert document["boards"] == []
    assert document["history"][0]["verdict"] == "no result: unfinished"
    assert "unfinished" in markdown(document)


def test_the_command_prints_the_ranks_and_where_the_page_is(
    runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from groundup.cli.main import main

    shutil.copytree(runs_folder, tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    for flags in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["groundup", "report", "runs", *flags])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
    text, _, last = capsys.readouterr().out.rstrip().rpartition("\n")
    assert "OPTIMISTIC" in text
    assert text.endswith("report.html\nreport.md")
    document = json.loads(last)
    assert (document["page"], document["markdown"], len(document["history"])) == ("report.html", "report.md", 3)
    assert document["boards"][0]["rows"][0]["runs"][0]["command"].startswith("groundup train runs/")


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


def test_the_markdown_file_has_the_tables_of_the_page(reported: tuple[dict[str, Any], Path], read: Reader) -> None:
    text = reported[1].with_suffix(".md").read_text()
    pairs = reported[0]["boards"][0]["differences"]
    assert len(pairs) == 6
    rows = text.partition("### All comparisons")[2].partition("###")[0]
    assert rows.count("\n| schedule.max_lr") == 6
    for said in ("another seed may turn it round", "whoever goes on from the better run has used the test split"):
        assert said in text
        assert said in read.text


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
