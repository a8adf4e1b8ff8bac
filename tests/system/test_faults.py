"""The fault table, `bench/faults.py`: in short. A row counts when every run came to the result of the run that was left alone, and
showed what it had to.

Kills, signals, a full disk and a damaged checkpoint have quick tests of their own beside this file.
"""

import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    """The bench, as a module. It imports its neighbours by name."""
    for name in ("outages", "full_disk", "faults"):
        spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("run", "is_sound"),
    [
        ({}, True),
        ({"said_so": True, "named": True}, True),
        *[
            ({flag: False}, False)
            for flag in ("finished", "identical", "steps_went_on", "noticed", "said_so", "refused")
        ],
        ({"refused": True, "named": False}, False),
    ],
)
def test_a_row_is_sound_only_if_its_runs_showed_what_they_had_to(
    faults: ModuleType, tmp_path: Path, run: dict[str, bool], is_sound: bool
) -> None:
    class OneRun(faults.Table):  # type: ignore[name-defined]
        def disk(self, times: int) -> Iterator[dict[str, Any]]:
            yield {"faults": 1, "finished": True, "identical": True, **run}

    assert faults.sound(OneRun(tmp_path, random.Random(0)).row("disk", 1)) == is_sound


def test_a_lost_machine_after_an_outage_of_the_mirror_goes_on_from_the_mirror(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", *faults.outages.CREDENTIALS):
        monkeypatch.setenv(name, "")  # put back afterwards
    row = faults.Table(tmp_path, random.Random(0), epochs=4).row("outage", 1)
    assert row["each"][0]["machine_lost"]
    assert faults.sound(row), row["each"]
    said = "".join(file.read_text() for file in tmp_path.glob("*-outage/stderr"))
    assert "the run goes on, the upload is tried again" in said
    secret = faults.outages.CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(secret in file.read_bytes() for file in written)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", ["kill", "stop", "damage", "disk", "shard"])
def test_each_fault_once(faults: ModuleType, tmp_path: Path, name: str, ranks: int) -> None:
    row = faults.Table(tmp_path, random.Random(0), ranks).row(name, 1)
    assert faults.sound(row), row["each"]
