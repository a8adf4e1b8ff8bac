"""One small finished run that the tests of this room look at, and the settings that keep every other run as small."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import groundup
from groundup.data import Splits, load_splits
from groundup.recipe import load_recipe
from groundup.runs.check.checking import Report, check
from groundup.runs.evaluate import EXTRA, evaluate
from groundup.runs.evaluation_file import without_input
from groundup.runs.load import Classifier
from groundup.runs.train import Run

TINY = [
    "model={name: resnet18, stem: small, width: 8}",
    "schedule={name: one_cycle, max_lr: 0.1}",
    "train.epochs=2",
    "train.batch_size=50",
    "train.threads=1",
    "train.precision=fp32",  # what the tests compare with; auto would take bf16 on a CPU with AMX
    "data.limit=200",
    "data.validation=0.25",
]


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUNDUP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides that make digits a run of a second: 150 images for training, 50 for validation, 2 epochs of 3 steps."""
    return TINY


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> Run:
    """A finished tiny run. Tests that change it take `copied`."""
    return groundup.train("digits", TINY, run=tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Path:
    """The folder of a finished tiny run, to be changed."""
    return Path(shutil.copytree(finished.folder, tmp_path / "copied", symlinks=True))


@pytest.fixture(scope="session")
def measured(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run about which everything is known."""
    folder = Path(shutil.copytree(finished.folder, tmp_path_factory.mktemp("measured") / "tiny", symlinks=True))
    evaluate(folder, sections=EXTRA)
    return folder


@pytest.fixture(scope="session")
def sections(measured: Path) -> dict[str, dict[str, dict[str, object]]]:
    """Section -> split -> facts: what was measured on several inputs, here on one, is found under its split too."""
    known = json.loads((measured / "evaluation.json").read_text())["sections"]
    return {key: {without_input(view): facts for view, facts in views.items()} for key, views in known.items()}


@pytest.fixture(scope="session")
def classifier(finished: Run) -> Classifier:
    """The network of the finished run."""
    return groundup.load(finished.folder)


@pytest.fixture(scope="session")
def splits(finished: Run) -> Splits:
    """The data of the finished run."""
    return load_splits(load_recipe(str(finished.folder / "recipe.yaml")).data)


@pytest.fixture(scope="session")
def report(tiny: list[str], _cache: None) -> Report:
    """The check of the run that `finished` is, and one batch learned by heart."""
    return check(load_recipe("digits", tiny), learn_by_heart=True)
