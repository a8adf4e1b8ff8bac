"""Shared by all tests: nothing is written outside pytest's own temporary folders, and GPU tests skip without a GPU."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _caches_in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cache")
    os.environ["GROUNDUP_CACHE"] = str(folder / "groundup")
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def datasets_folder() -> Path:
    """Real CIFAR-100 and Imagenette as Hub-style Parquet, in `shared/datasets` beside the checkout, or $GROUNDUP_DATASETS."""
    folder = Path(os.environ.get("GROUNDUP_DATASETS") or Path(__file__).parents[2] / "shared" / "datasets")
    if not folder.is_dir():
        pytest.skip(f"real data sets: no folder {folder.name} beside the checkout; set GROUNDUP_DATASETS")
    return folder
