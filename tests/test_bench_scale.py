"""The calculator of docs/scale.md: what it takes from measurements, what limits a machine, and that page and recipes repeat it."""

import importlib.util
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from groundup.recipe import source_text

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "bench" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["scale"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_decoding_rate_is_the_measured_one_where_it_was_measured(scale: ModuleType) -> None:
    measured = scale.measured()
    for kind, sizes in measured["sizes"].items():
        for side, decoders in sizes.items():
            for decoder in ("simplejpeg", "pillow"):
                ms = scale.decoding_ms(measured["kilobytes"][kind], float(side), decoder)
                assert ms == pytest.approx(decoders[decoder]["ms"], rel=0.03)
    assert scale.decoding_ms(110, 168) > scale.decoding_ms(59, 168)


def test_a_process_decodes_with_no_more_than_its_threads_and_what_the_lock_lets_through(scale: ModuleType) -> None:
    work = scale.recipes()["imagenet-resnet50-16ep"]
    rates = [scale.predict(replace(scale.H200, cores=cores), work, 1) for cores in (9, 24, 96)]
    assert rates[0]["images_per_second"] == pytest.approx(8 * 1000 / scale.decoding_ms(110, 168))
    assert rates[1]["images_per_second"] == rates[2]["images_per_second"] == 2 * rates[0]["images_per_second"]
    assert {rate["bottleneck"] for rate in rates} == {"decoding"}
    small = scale.predict(replace(scale.H200, mfu=0.4), replace(work, image_kb=25), 1)
    assert small["bottleneck"] == "Python's lock"
    assert small["images_per_second"] == pytest.approx(1000 / scale.measured()["python_ms"])
    assert scale.predict(scale.H200, replace(work, decoded=math.inf), 1)["bottleneck"] == "the GPUs"


def test_a_stream_has_no_pass_before_its_first_step(scale: ModuleType) -> None:
    work = scale.recipes()["imagenet-resnet50-16ep"]
    whole, stream = (scale.predict(scale.H200, replace(work, first_pass=passes), 8) for passes in (1.0, 0.0))
    pass_seconds = scale.IMAGENET * scale.decoding_ms(110, 256, "pillow") / 1000 / 16
    assert whole["first_pass_seconds"] == pytest.approx(pass_seconds)
    assert stream["first_pass_seconds"] == 0
    assert 3600 * (whole["hours"] - stream["hours"]) == pytest.approx(pass_seconds, rel=0.01)


def test_a_machine_data_and_several_rates_of_failure_can_be_given() -> None:
    own = [*("--machine", "A100", "--cores", "12", "--dollars", "1.5", "--images", "5e6", "--image-kb", "25")]
    own += ["--gpus", "8", "32", "--failures", "0.05", "5"]
    command = [sys.executable, str(ROOT / "bench" / "scale.py"), *own]
    head, _, *rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "lost to failures at 0.05, 5" in head
    assert [row.split(" | ")[0] for row in rows] == ["| 8", "| 32"]
    hours, dollars = (float(value.replace(",", "")) for value in rows[0].split(" | ")[3:5])
    assert dollars == pytest.approx(1.5 * hours, abs=0.6)
    few, many = (float(rate.strip("% |")) for rate in rows[1].split(" | ")[-1].split(", "))
    assert few < many


def test_the_page_and_the_recipes_say_what_the_model_says(scale: ModuleType) -> None:
    page, tables = (ROOT / "docs" / "scale.md").read_text(), scale.tables()
    work = scale.recipes()["imagenet-resnet50-16ep"]
    for name in list(tables)[:3]:
        for line in scale.shown(tables[name], work, scale.RATES).splitlines():
            assert line in page
    for row in scale.published():
        assert f"| {row['published_minutes']} min | {row['model_minutes']:.1f} min | {row['ratio']:.2f} |" in page
    for name in scale.recipes():
        (row,) = tables[f"{name} on 8 H100"]
        cost = f"{row['pflop']:,.0f} PFLOP, {8 * row['hours']:.1f} H100-hours, {row['dollars']:.0f} dollars"
        assert cost in source_text(name)
        assert f"| {8 * row['hours']:.1f} | {row['dollars']:.0f} | {row['bottleneck']} |" in page
    one = scale.decoding_ms(110, 168)
    assert f"{1000 / one:.0f} images/s of a core: {one:.2f} ms" in page
    assert f"{scale.decoding_ms(110, 256, 'pillow'):.1f} ms of a core per image" in page
