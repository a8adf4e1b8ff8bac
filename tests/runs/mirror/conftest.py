"""Where the tests of this folder mirror to: an S3 server on loopback behind a proxy that fails on demand, or a small Hub."""

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from groundup.runs.mirror import restore as mirror_restore
from groundup.runs.mirror import sending as mirror_module

ROOT = Path(__file__).parents[3]


def _loaded(name: str, path: Path) -> ModuleType:
    """A Python file that is not part of the package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


outages = _loaded("outages_of_a_mirror", ROOT / "bench" / "outages.py")
# Loaded before the test files, which import it by this name.
mirrored_runs = _loaded("mirrored_runs", Path(__file__).with_name("mirrored_runs.py"))


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of an S3 server on loopback."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with outages.s3_server() as port:
        yield port


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The proxy before the S3 server, which has an empty bucket `bucket-NAME`; the environment points to it."""
    proxy = outages.Proxy(s3_port)
    proxy.bucket = re.sub(r"[^a-z0-9]", "-", f"b-{tmp_path.name.lower()}")[:60].strip("-")
    outages.make_bucket(s3_port, proxy.bucket)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in outages.environment(proxy.url).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    yield proxy
    proxy.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses before what failed is tried again."""
    monkeypatch.setattr(mirror_module, "PAUSES", (0.05, 0.2))
    monkeypatch.setattr(mirror_restore, "FIRST_PAUSE", 0.05)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run folder without checkpoints, `mirrored_runs.ARun`."""
    return mirrored_runs.ARun(tmp_path / "here" / "run")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The Hub of this test, with the client turned to it and logged in."""
    module = _loaded("hub_of_a_mirror", ROOT / "tests" / "ship" / "loopback_hub.py")
    with module.LoopbackHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        import huggingface_hub.constants as constants

        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub
