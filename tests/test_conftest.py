"""What the suite does where the real data sets are missing."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def conftest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("the_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("there", [(), ("cifar100",), ("imagenette",)], ids=str)
@pytest.mark.parametrize("required", ["", "0", "1"])
def test_missing_data_sets_skip_a_test_and_fail_it_where_they_are_required(
    there: tuple[str, ...], required: str, conftest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    monkeypatch.setenv("GROUNDUP_DATASETS", str(tmp_path))
    monkeypatch.setenv("GROUNDUP_REQUIRE_DATA", required)
    ended = pytest.fail.Exception if required == "1" else pytest.skip.Exception
    with pytest.raises(ended, match=r"no (cifar100|imagenette).* set GROUNDUP_DATASETS"):
        conftest.real_datasets()


def test_data_sets_that_are_there_are_found(
    conftest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cifar100", "imagenette"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("GROUNDUP_DATASETS", str(tmp_path))
    monkeypatch.setenv("GROUNDUP_REQUIRE_DATA", "1")
    assert conftest.real_datasets() == tmp_path
