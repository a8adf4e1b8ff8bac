"""What `groundup export` refuses, before it begins or when the file is not what the run is, and what it then leaves."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import groundup
from groundup.basis.errors import CheckpointError, DataError, GroundupError, UsageError
from groundup.basis.interruption import Interrupted
from groundup.ship.export import onnx_format, pt2_format
from groundup.ship.export.exporting import Wanted, export

from .conftest import TINY


def corrupted(write: Callable[..., Any]) -> Callable[..., Any]:
    """A writer that changes one weight of the network on its way into the file."""

    def change(module: Any, *rest: Any) -> Any:
        with torch.no_grad():
            next(module.network.parameters())[0].mul_(1.2)
        return write(module, *rest)

    return change


@pytest.mark.parametrize("to", ["pt2", "safetensors"])
def test_a_file_beyond_the_tolerance_is_refused_and_does_not_stay(
    to: str, run: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    module = f"groundup.ship.export.{to}_format.write_{to}"
    name = module.rpartition(".")[2]
    monkeypatch.setattr(module, corrupted(getattr(sys.modules[module.rpartition(".")[0]], name)))
    status, out, err = command("export", run, "--to", to)
    assert (status, out) == (1, "")
    assert f"model.{to}: refused" in err
    assert "at most 0.0001" in err
    assert not (run / "export").exists()


def test_probabilities_that_are_no_numbers_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = pt2_format.open_pt2
    monkeypatch.setattr(pt2_format, "open_pt2", lambda path: lambda images: opened(path)(images) * np.float32("nan"))
    with pytest.raises(GroundupError, match=r"model\.pt2: refused"):
        export(run, Wanted("pt2", images=20))


def test_int8_that_loses_too_much_is_refused_and_fp32_stays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = onnx_format.open_onnx

    def reversed_if_int8(path: Path, threads: int) -> Any:
        runner = opened(path, threads)
        return (lambda images: runner(images)[:, ::-1]) if "int8" in path.name else runner

    monkeypatch.setattr(onnx_format, "open_onnx", reversed_if_int8)
    with pytest.raises(GroundupError, match=r"model\.int8\.onnx: refused: its accuracy is"):
        export(run, Wanted("onnx", int8=True, calibration_images=32))
    assert sorted(path.name for path in (run / "export").iterdir()) == ["model.onnx", "model.onnx.json"]


def test_an_unfinished_run_is_told_how_to_finish(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        groundup.train("digits", TINY, run=tmp_path / "run", max_seconds=0.001)
    with pytest.raises(UsageError, match=r"is not finished, and an export is of its result[\s\S]*groundup resume"):
        export(tmp_path / "run", Wanted("pt2"))
    assert not (tmp_path / "run" / "export").exists()


def test_damaged_weights_are_not_exported(run: Path) -> None:
    weights = run / "checkpoints" / "last" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        export(run, Wanted("pt2"))
    assert not (run / "export").exists()


def test_data_that_has_moved_is_found_by_an_override_and_other_data_refused(run: Path, tmp_path: Path) -> None:
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("source: digits", "source: folder:gone"))
    with pytest.raises(DataError, match=r"cannot be opened[\s\S]*data\.source=parquet:DIR"):
        export(run, Wanted("pt2"))
    (done,) = export(run, Wanted("pt2", images=20, overrides=("data.source=digits",)))
    assert done.record["agreement"]["images"] == 20
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "other.npz", x_train=images, y_train=np.arange(40) % 10)
    with pytest.raises(UsageError, match="other images now than the run was trained on"):
        export(run, Wanted("pt2", overrides=(f"data.source=arrays:{tmp_path / 'other.npz'}",)))


def test_a_missing_package_is_told_with_its_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"onnxruntime, which is not installed[\s\S]*pip install 'groundup\[export\]'"):
        export(run, Wanted("onnx"))
    assert export(run, Wanted("safetensors", images=20))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--to", "onx"], ["--to='onx'", "did you mean 'onnx'?"]),
        (["--to", "pt2", "--int8"], ["--int8", "--to onnx --int8"]),
        (["--to", "pt2", "--images", "0"], ["--images 0", "1 or more"]),
        (["--to", "pt2", "train.epochs=3"], ["train.epochs=3", "data.source"]),
    ],
)
def test_a_mistake_of_the_caller_is_told_before_anything_is_done(
    arguments: list[str], parts: list[str], finished: Path, command: Callable[..., Any]
) -> None:
    status, out, err = command("export", finished, *arguments)
    assert (status, out) == (2, "")
    assert all(part in err for part in parts), err
    assert not (finished / "export").exists()
