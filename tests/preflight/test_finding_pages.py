"""The pages of the codes are committed, so that a change of what is said is seen."""

import re
from pathlib import Path

import pytest

from groundup.preflight import CODES, five_systems
from groundup.preflight.findings import LEVELS
from groundup.preflight.pages import INDEX, pages, write_pages

FOLDER = Path(__file__).parents[2] / "docs/findings"


def test_the_committed_pages_are_current() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    assert committed == pages(CODES), "run: python -m groundup.preflight.pages docs/findings"


def test_every_code_has_a_page_that_the_index_links_to() -> None:
    written = pages(CODES)
    assert set(written) == {INDEX, five_systems.PAGE, *(f"{number}.md" for number in CODES)}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", written[INDEX])) == set(written) - {INDEX}


def test_the_page_of_the_five_systems_names_every_mistake_with_its_codes() -> None:
    written = pages(CODES)[five_systems.PAGE]
    for row in five_systems.MISTAKES:
        (line,) = [line for line in written.splitlines() if f"| {row.what} |" in line]
        assert re.findall(r"\((GU\d+)\.md\)", line) == list(row.codes)
        assert all(f"`{name}`" in line for name in row.recipes)
    assert all(what in written and why in written for _, what, why in five_systems.IMPOSSIBLE)


@pytest.mark.parametrize("number", CODES)
def test_a_code_says_what_why_and_what_to_do(number: str) -> None:
    code = CODES[number]
    assert number == code.number
    assert re.fullmatch(r"GU[1-7]\d\d", number)
    assert code.level in LEVELS
    assert code.title
    assert not code.title.endswith(".")
    assert len(code.why) > 60
    assert code.mend


def test_pages_of_codes_that_are_gone_are_removed(tmp_path: Path) -> None:
    one, *others = CODES
    write_pages(tmp_path, CODES)
    write_pages(tmp_path, {one: CODES[one]})
    assert {path.name for path in tmp_path.iterdir()} == {INDEX, five_systems.PAGE, f"{one}.md"}
    assert others
