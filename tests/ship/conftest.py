"""Shared by the tests of this room: a small finished run, settings of runs for the demo, a small Hub on the loopback interface."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest

import groundup
from groundup.runs.train import Run

TINY = ["model={name: resnet18, stem: small, width: 8}", "schedule={name: one_cycle, max_lr: 0.1}"]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of 200 digits without a validation split. Tests that change it take a copy."""
    short = ["train={epochs: 1, batch_size: 50, threads: 1}", "data={limit: 200}"]
    return groundup.train("digits", [*TINY, *short], run=tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def short_settings() -> list[str]:
    """Overrides that make digits a run of a second with a validation split, whatever its network."""
    return [TINY[1], "train={epochs: 1, batch_size: 50, threads: 1}", "data={limit: 200, validation: 0.25}"]


@pytest.fixture(scope="session")
def averaged_run(tmp_path_factory: pytest.TempPathFactory, short_settings: list[str]) -> Run:
    """A finished tiny run that reports an average. Nothing in it may change by being published."""
    settings = [TINY[0], "average={name: ema, horizon: 2step}", *short_settings]
    return groundup.train("digits", settings, run=tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def place(averaged_run: Run, tmp_path: Path) -> Path:
    """A publication of that run, in a folder."""
    groundup.publish(averaged_run.folder, to=tmp_path / "published")
    return tmp_path / "published"


@pytest.fixture(scope="session")
def demo_settings() -> list[str]:
    """Overrides that make digits a run of a second with enough images to say what is unlike them."""
    return [*TINY, "train={epochs: 2, batch_size: 50, threads: 1}", "data.limit=600", "track.tensorboard=false"]


def _loopback() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loopback_hub", Path(__file__).with_name("loopback_hub.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loopback_hub"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The Hub of this test, with the client turned to it and logged in."""
    with _loopback().LoopbackHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield hub
