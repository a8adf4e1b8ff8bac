"""The report on a real grid and three real runs: what is in its tables, its page and its Markdown file."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from groundup.compare.report.text import ranking, summary_lines
from groundup.compare.report.writing import report, write_report

from .conftest import Reader


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


def test_the_markdown_file_has_the_tables_of_the_page(reported: tuple[dict[str, Any], Path], read: Reader) -> None:
    text = reported[1].with_suffix(".md").read_text()
    pairs = reported[0]["boards"][0]["differences"]
    assert len(pairs) == 6
    rows = text.partition("### All comparisons")[2].partition("###")[0]
    assert rows.count("\n| schedule.max_lr") == 6
    for said in ("another seed may turn it round", "whoever goes on from the better run has used the test split"):
        assert said in text
        assert said in read.text
