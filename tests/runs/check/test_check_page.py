"""The page that a check writes: self-contained, complete, and never over a file that is not its own."""

import base64
import html.parser
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundup.basis.errors import UsageError
from groundup.recipe import load_recipe
from groundup.runs.check.checking import Report, check
from groundup.runs.check.page import page, write_page
from groundup.runs.check.pictures import setting_curves


class Reader(html.parser.HTMLParser):
    """Collects the tags and attributes of a page, and the text in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return page(report)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_the_page_asks_for_nothing_from_anywhere(text: str) -> None:
    reader = read(text)
    assert not re.search(r"https?://", text)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object"}
    sources = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in text
    assert "@import" not in text


def test_its_pictures_are_the_settings_the_samples_beside_their_originals_and_the_classes(
    text: str, report: Report
) -> None:
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))).convert("RGB"))
        for tag, attributes in read(text).tags
        if tag == "img" and attributes["src"]
    ]
    small = [picture for picture in pictures if picture.shape == (8, 8, 3)]
    curves = len(setting_curves(report.plan))
    assert len(pictures) == curves + 1 + len(small)
    assert len(small) == 64
    originals = report.samples.originals[:32].permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(picture, original) for picture, original in zip(small[::2], originals, strict=True))
    assert any(not np.array_equal(before, after) for before, after in zip(small[::2], small[1::2], strict=True))
    assert all(picture.std() > 5 for picture in pictures if picture.shape != (8, 8, 3))


def test_it_tells_findings_samples_sizes_and_costs(text: str, report: Report) -> None:
    said = read(text).text
    for part in ("GU202", "PFLOP", "first loss", "memory: weights", "layer4.1.bn2", "no errors", "saturation", "range"):
        assert part in said or part in text, part
    for title in report.samples.titles[:32]:
        assert title in said
    assert text.count("<section>") == text.count("</section>")


def test_it_is_made_for_phones_and_for_the_dark(text: str) -> None:
    assert 'name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text


def test_names_from_outside_are_escaped(tiny: list[str], report: Report) -> None:
    odd = load_recipe("digits", [*tiny, "about='<script>alert(1)</script>'"])
    text = page(check(odd.model_copy(update={"name": "<i>&"})))  # no recipe that was read has such a name
    assert "<script>" not in text
    assert "<i>&" not in text


def test_it_replaces_its_own_earlier_page_and_no_other_file(
    report: Report, text: str, tiny: list[str], tmp_path: Path
) -> None:
    mine = tmp_path / "check.html"
    mine.write_text("<p>my notes</p>")
    assert write_page(report, mine) == tmp_path / "check-2.html"
    assert write_page(report, mine) == tmp_path / "check-2.html"
    assert mine.read_text() == "<p>my notes</p>"
    other = check(load_recipe("digits", [*tiny, "name=other"]))
    assert write_page(other, mine) == tmp_path / "check-3.html"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["check-2.html", "check-3.html", "check.html"]


@pytest.mark.parametrize(("out", "said"), [("check.txt", "a name that ends in .html"), ("no/check.html", "no folder")])
def test_a_place_where_no_page_can_be_is_refused(out: str, said: str, report: Report, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        write_page(report, tmp_path / out)
