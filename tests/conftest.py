"""Shared by all tests: nothing is written outside pytest's own temporary folders, and GPU tests skip without a GPU."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

# Read when torch is loaded. The suite runs as one process per core: threads that spin while they wait would take each other's.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _caches_in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cache")
    os.environ["GROUNDUP_CACHE"] = str(folder / "groundup")
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The files that take longest first: two processes then end at about the same moment.
    items.sort(key=lambda item: "system" not in item.path.parts)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module")
def load_bench() -> Iterator[Callable[[str], ModuleType]]:
    """load_bench(NAME): the script bench/NAME.py as a module."""
    loaded = []

    def load(name: str) -> ModuleType:
        path = Path(__file__).parents[1] / "bench" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        loaded.append(spec.name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


@pytest.fixture(scope="session")
def photographs() -> Callable[[int, int], Tensor]:
    """photographs(COUNT, SIDE): pictures of soft shapes with some texture, in which neighbouring pixels are alike; uint8
    (COUNT, 3, SIDE, SIDE), the same at every call."""

    def draw(count: int, side: int) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        layers = [torch.randn(count, 3, size, size, generator=generator) * size**-0.5 for size in (3, 6, 12, 24)]
        shown = [F.interpolate(layer, size=(side, side), mode="bicubic", align_corners=False) for layer in layers]
        total = sum(weight * layer for layer, weight in zip(shown, (60, 60, 70, 90), strict=True))
        return (128 + total).clamp(0, 255).to(torch.uint8)

    return draw


@pytest.fixture
def datasets_folder() -> Path:
    """Real CIFAR-100 and Imagenette as Hub-style Parquet, in `shared/datasets` beside the checkout, or $GROUNDUP_DATASETS."""
    return real_datasets()


def real_datasets() -> Path:
    """Their folder. Where one of them is missing the test is skipped; with GROUNDUP_REQUIRE_DATA=1 it fails."""
    folder = Path(os.environ.get("GROUNDUP_DATASETS") or Path(__file__).parents[2] / "shared" / "datasets")
    missing = [name for name in ("cifar100", "imagenette") if not (folder / name).is_dir()]
    if missing:
        why = f"real data sets: no {' and no '.join(missing)} in shared/datasets beside the checkout; set GROUNDUP_DATASETS"
        if os.environ.get("GROUNDUP_REQUIRE_DATA") == "1":
            pytest.fail(f"{why}, or unset GROUNDUP_REQUIRE_DATA")
        pytest.skip(why)
    return folder
