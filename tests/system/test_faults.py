"""The fault table, `bench/faults.py`: in short. A row counts when every run came to the result of the run that was left alone.

Kills, signals, a full disk and a damaged checkpoint have quick tests of their own beside this file.
"""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    """The bench, as a module. It imports its neighbour by name."""
    for name in ("outages", "faults"):
        spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def assert_nothing_lost(row: dict[str, Any]) -> None:
    assert row["runs"] == row["finished"] == row["identical"], row["each"]


def test_a_lost_machine_after_an_outage_of_the_mirror_goes_on_from_the_mirror(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", *faults.outages.CREDENTIALS):
        monkeypatch.setenv(name, "")  # put back afterwards
    row = faults.Table(tmp_path, random.Random(0), epochs=4).row("outage", 1)
    assert row["each"][0]["machine_lost"]
    assert row["each"][0]["steps_went_on"]
    assert row["each"][0]["noticed"]
    assert_nothing_lost(row)
    said = "".join(file.read_text() for file in tmp_path.glob("*-outage/stderr"))
    assert "the run goes on, the upload is tried again" in said
    secret = faults.outages.CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(secret in file.read_bytes() for file in written)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["kill", "stop", "damage", "disk", "shard"])
def test_each_fault_once(faults: ModuleType, tmp_path: Path, name: str) -> None:
    assert_nothing_lost(faults.Table(tmp_path, random.Random(0)).row(name, 1))
