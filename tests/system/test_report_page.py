"""The page of a report in a real browser: a quiet console, no request elsewhere, charts drawn, a series hidden by a click."""

import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
browser: ModuleType = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(browser)

CHROMIUM = browser.find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
RUNS = 12
MIDDLE = (
    "(({x, y, width, height}) => [x + width / 2, y + height / 2])(document.querySelector('%s').getBoundingClientRect())"
)
CHOOSE = (
    "((select) => { select.value = '%s'; select.dispatchEvent(new Event('change')); })(document.querySelector('%s'))"
)
GROUPS = "#curves-0 .legend .traces"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, make_commands: Callable[[Path], Any]) -> Path:
    """The report on a search of 12 runs, and on 2 real ones made by hand."""
    folder = tmp_path_factory.mktemp("report")
    commands = make_commands(folder)
    tiny = ["model.width=8", "data.limit=200", "data.validation=0.25", "train={epochs: 2, batch_size: 50, threads: 1}"]
    for name, rate in (("first", 0.05), ("second", 0.01)):
        commands.run("train", "digits", *tiny, f"schedule.max_lr={rate}", "--run", folder / "runs" / name)
    _as_search(folder / "runs" / "first", folder / "search")
    commands.run("report", "search", "runs")
    return folder / "report.html"


def _as_search(run: Path, folder: Path) -> None:
    """A sweep folder of copies of one run, each with a learning rate and a result of its own."""
    entries = []
    for number in range(RUNS):
        target = folder / "runs" / f"{number:03d}-seed0"
        target.mkdir(parents=True)
        rate = 10 ** (-3 + number / 4)
        value = 0.7 - 0.1 * abs(math.log10(rate) + 1.5)
        recipe = (run / "recipe.yaml").read_text()
        (target / "recipe.yaml").write_text(recipe.replace("max_lr: 0.05", f"max_lr: {rate}"))
        (target / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text())
        summary = json.loads((run / "summary.json").read_text())
        (target / "summary.json").write_text(json.dumps({**summary, "pflop": 0.1 * (1 + number % 3)}))
        stochastic = {"model.drop": number / RUNS} if number % 2 == 0 else {}  # an axis that is active for one network
        point = {"schedule.max_lr": rate, "model.name": ["resnet18", "speed_net"][number % 2], **stochastic}
        facts = {"state": "done", "reason": None, "value": value, "pflop": 0.1, "seconds": 1.0}
        entries.append({"name": target.name, "overrides": point, "seed": 0, **facts})
    content = {"format": 1, "name": "search", "file": {}, "metric": "validation_top1", "mode": "max", "runs": entries}
    (folder / "sweep.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def page(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page, open, with its charts drawn."""
    with browser.Page(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        opened.open(page_file)
        opened.wait("document.querySelectorAll('#curves-0 .scatterlayer .trace').length > 0")
        yield opened


def test_nothing_is_asked_for_elsewhere_and_the_console_is_quiet(page: Any, page_file: Path) -> None:
    assert {address.partition("?")[0] for address in page.requests} == {page_file.resolve().as_uri()}
    # What the software renderer of a machine without a GPU says about itself is no fault of the page.
    assert [error for error in page.errors if "GL Driver Message" not in error] == []
    assert page.run("performance.getEntriesByType('resource').length") == 0


def test_the_page_may_not_load_anything(page: Any) -> None:
    assert page.run("fetch('data:text/plain,x').then(() => 'loaded', () => 'refused')") == "refused"
    page.errors.clear()  # the refusal


def test_every_chart_is_drawn(page: Any) -> None:
    lines = "[...document.querySelectorAll('#curves-0 .scatterlayer .js-line')]"
    curves = page.run(f"{lines}.map((line) => line.getAttribute('d').length)")
    assert len(curves) == RUNS
    assert min(curves) > 10
    assert page.run("document.querySelectorAll('#costs-0 .scatterlayer .point').length") >= RUNS
    assert page.run("document.querySelectorAll('#parallel-0 .parcoords .y-axis').length") == 4
    ticks = page.run(
        "[...document.querySelectorAll('#parallel-0 .parcoords .tick text')].map((tick) => tick.textContent)"
    )
    assert ticks.count("not active") == 1
    assert "0.42" in ticks  # the middle of the numbers, not a name of its own for each of them
    assert "0.17" not in ticks
    assert page.run("document.querySelectorAll('#curves-1 .scatterlayer .js-line').length") == 2
    buttons = page.run("[...document.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title)")
    assert "Zoom" in buttons
    assert not [title for title in buttons if "share" in title.lower() or "cloud" in title.lower()]


def test_a_click_on_the_legend_hides_a_series(page: Any) -> None:
    page.run(f"document.querySelector('{GROUPS}').scrollIntoView({{block: 'center'}})")
    shown = "document.querySelectorAll('#curves-0 .scatterlayer .js-line').length"
    box = page.run(MIDDLE % f"{GROUPS} .legendtoggle")
    page.click(*box)
    page.wait(f"{shown} === {RUNS - 1}")
    page.run("new Promise((done) => setTimeout(done, 500))")  # two clicks at once would be a double click
    page.click(*box)
    page.wait(f"{shown} === {RUNS}")


def test_hovering_shows_the_value_of_the_point_below_the_mouse(page: Any) -> None:
    page.run("document.getElementById('costs-0').scrollIntoView({block: 'center'})")
    x, y = page.run(MIDDLE % "#costs-0 .scatterlayer .trace:last-child .point")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - 2, y=y)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.wait("document.querySelector('#costs-0 .hoverlayer .hovertext') !== null")
    assert "PFLOP" in page.run("document.querySelector('#costs-0 .hoverlayer').textContent")


def test_another_measurement_can_be_chosen(page: Any) -> None:
    title = "document.querySelector('#curves-0 .ytitle').textContent"
    assert page.run(title) == "validation top1"
    page.run(CHOOSE % ("train_loss", "#curves-controls-0 select"))
    page.wait(f"{title} === 'train loss'")


def test_colours_follow_the_reader_s_choice_and_paper_is_white(page: Any) -> None:
    text = "getComputedStyle(document.querySelector('#curves-0 .xtitle')).fill"
    back = "getComputedStyle(document.body).backgroundColor"
    for media, scheme, expected_text, expected_back in (
        ("screen", "dark", "rgb(230, 233, 237)", "rgb(21, 24, 28)"),
        ("screen", "light", "rgb(29, 33, 38)", "rgb(255, 255, 255)"),
        ("print", "dark", "rgb(29, 33, 38)", "rgb(255, 255, 255)"),
    ):
        page.call(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        page.wait(f"{text} === '{expected_text}' && {back} === '{expected_back}'")
    page.call("Emulation.setEmulatedMedia", media="", features=[])


def test_the_page_fits_a_narrow_window_and_prints(page: Any) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    page.wait("document.documentElement.scrollWidth <= 390")
    page.call("Emulation.clearDeviceMetricsOverride")
    printed = page.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
    assert len(printed["data"]) > 20_000
