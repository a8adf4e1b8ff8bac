"""The files of a report: no name breaks out of them, nothing of the user's is written over, and charts may be missing."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.basis.errors import UsageError
from groundup.compare.report.writing import write_report

from .conftest import Reader

MakeRun = Callable[..., None]


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
