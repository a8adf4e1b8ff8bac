"""What `groundup export` writes: within the tolerance, of use without groundup, and with nothing of the machine."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import groundup
from groundup.basis.files import sha256
from groundup.runs.evaluate import evaluate
from groundup.ship.export import pt2_format
from groundup.ship.export.exporting import Exported, Wanted, export


@pytest.fixture(scope="module")
def onnx_exports(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Exported]:
    """The fp32 and the int8 file of `finished`."""
    return export(finished, Wanted("onnx", int8=True, out=tmp_path_factory.mktemp("onnx") / "deep" / "out"))


def fresh_process(code: str, *arguments: object) -> str:
    """Standard output of `code` in a new interpreter that finds no groundup, even where it is installed."""
    without = "import sys; sys.modules['groundup'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", without + code, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return done.stdout


def test_the_onnx_file_is_within_the_tolerance_and_says_what_it_is(
    finished: Path, onnx_exports: list[Exported]
) -> None:
    import onnx

    fp32, _ = onnx_exports
    agreement = fp32.record["agreement"]
    assert agreement["images"] == 256
    assert agreement["difference"] <= 1e-4
    assert agreement["agreement"] == 1
    assert fp32.record["speed"]["latency_p50_ms"].keys() == {"run", "onnx", "ratio"}
    model = onnx.load(fp32.path)
    assert [entry.version for entry in model.opset_import] == [18]
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["groundup.classes"]) == list("0123456789")
    assert (told["groundup.image_size"], told["groundup.resize"], told["groundup.opset"]) == ("8", "squash", "18")
    assert (told["groundup.version"], told["groundup.recipe"]) == (groundup.__version__, "digits")
    assert told["groundup.weights_sha256"] == sha256(finished / "checkpoints/last/model.safetensors")
    assert told["groundup.temperature"] == "null"


def test_int8_stands_beside_fp32_with_intervals_on_the_same_images(onnx_exports: list[Exported]) -> None:
    fp32, int8 = onnx_exports
    found = int8.record["accuracy"]
    assert found["images"] == 359  # the whole test split, since it has fewer than 2,000
    for name in ("fp32", "int8"):
        low, high = found[name]["top1_interval"]
        assert low < found[name]["top1"] < high
    assert found["fp32"]["top1"] > 0.7
    assert abs(found["difference"]) < 0.05
    assert found["largest_difference"] > 0
    assert int8.record["written"]["calibration_images"] == 256
    assert int8.record["speed"]["latency_p50_ms"].keys() == {"fp32", "int8", "ratio"}
    assert int8.record["fp32_bytes"] == fp32.path.stat().st_size


def test_int8_holds_integer_weights_and_keeps_the_first_convolution(onnx_exports: list[Exported]) -> None:
    import onnx

    model = onnx.load(onnx_exports[1].path)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    kinds = ["float" if node.input[1] in initializers else made_by[node.input[1]].op_type for node in convolutions]
    assert kinds[0] == "float"
    assert set(kinds[1:]) == {"DequantizeLinear"}
    stored = [onnx.numpy_helper.to_array(initializers[made_by[node.input[1]].input[0]]) for node in convolutions[1:]]
    assert all(weights.dtype == np.int8 and np.abs(weights).max() <= 64 for weights in stored)  # 7 bits


@pytest.mark.parametrize("number", [0, 1])
def test_onnx_runs_in_a_process_without_groundup_or_torch_on_any_batch(
    number: int, onnx_exports: list[Exported]
) -> None:
    code = """
import numpy, onnxruntime
sys.modules["torch"] = None
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for batch in (1, 7):
    images = numpy.zeros((batch, 8, 8, 3), numpy.uint8)
    (found,) = session.run(None, {"images": images})
    assert found.dtype == numpy.float32 and found.shape == (batch, 10), found.shape
    assert abs(found.sum(1) - 1).max() < 1e-5
print(session.get_modelmeta().custom_metadata_map["groundup.recipe"])
"""
    assert fresh_process(code, onnx_exports[number].path) == "digits\n"


def test_pt2_runs_in_a_process_without_groundup_and_gives_what_the_run_gives(run: Path, tmp_path: Path) -> None:
    (done,) = export(run, Wanted("pt2", images=20))
    assert done.path == run / "export" / "model.pt2"
    classifier = groundup.load(run)
    images = torch.randint(0, 256, (7, 8, 8, 3), dtype=torch.uint8)
    torch.save({"images": images, "wanted": classifier.probabilities(images.permute(0, 3, 1, 2))}, tmp_path / "io.pt")
    code = """
import json, torch
extra = {"groundup.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
io = torch.load(sys.argv[2], weights_only=True)
assert (program(io["images"]) - io["wanted"]).abs().max() < 1e-6
assert program(io["images"][:1]).shape == (1, 10)
print(json.loads(extra["groundup.json"])["classes"][3])
"""
    assert fresh_process(code, done.path, tmp_path / "io.pt") == "3\n"


def test_safetensors_are_the_reported_weights_with_what_it_takes_to_use_them(run: Path) -> None:
    (done,) = export(run, Wanted("safetensors", images=20))
    with safe_open(done.path, "pt") as opened, safe_open(run / "checkpoints/last/model.safetensors", "pt") as saved:
        assert opened.metadata()["groundup.recipe"] == "digits"
        assert set(opened.keys()) == set(saved.keys())
        assert all(torch.equal(opened.get_tensor(name), saved.get_tensor(name)) for name in saved.keys())  # noqa: SIM118
    for name in ("classifier.json", "recipe.yaml"):
        assert (done.path.parent / name).read_bytes() == (run / name).read_bytes()


def test_the_examples_of_the_documentation_run(
    run: Path, onnx_exports: list[Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "export.md").read_text(encoding="utf-8")
    with_onnx, with_pt2 = re.findall(r"```python\n(.*?)```", page.partition("## Use it")[2], re.DOTALL)[:2]
    (pt2,) = export(run, Wanted("pt2", images=20))
    shutil.copyfile(onnx_exports[0].path, tmp_path / "model.onnx")
    shutil.copyfile(pt2.path, tmp_path / "model.pt2")
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "photo.jpg", quality=100)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(with_onnx, names)
    name, said = capsys.readouterr().out.split()
    assert groundup.load(run).predict(tmp_path / "photo.jpg", 1)[0] == (name, pytest.approx(float(said), abs=1e-3))
    names["images"] = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    exec(with_pt2, names)
    assert names["classes"] == list("0123456789")
    assert names["probabilities"].shape == (3, 10)


def test_nothing_in_an_export_names_the_machine(onnx_exports: list[Exported], run: Path) -> None:
    (pt2,) = export(run, Wanted("pt2", images=20))
    files = [path for one in (*onnx_exports, pt2) for path in (one.path, one.path.with_name(f"{one.path.name}.json"))]
    for path in files:
        content = path.read_bytes()
        for said in (b"site-packages", b"/groundup/", str(Path.home()).encode() + b"/", str(run.parent).encode()):
            assert said not in content, (path.name, said)


def test_the_temperature_that_validation_gave_is_inside(run: Path) -> None:
    evaluate(run, sections=("calibration",))
    temperature = json.loads((run / "evaluation.json").read_text())["sections"]["calibration"]["test"]["temperature"]
    assert abs(temperature - 1) > 0.01
    (done,) = export(run, Wanted("pt2", images=64))
    assert done.record["made_of"]["temperature"] == temperature
    assert done.record["made_of"]["temperature_fitted_on"] == "validation"
    images = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    loaded = groundup.load(run)
    plain = replace(loaded, temperature=None).probabilities(images.permute(0, 3, 1, 2))
    wanted = (plain.log() / temperature).softmax(1)
    torch.testing.assert_close(loaded.probabilities(images.permute(0, 3, 1, 2)), wanted)
    found = pt2_format.open_pt2(done.path)(images.numpy())
    assert np.abs(found - wanted.numpy()).max() < 1e-5
    assert np.abs(found - plain.numpy()).max() > 1e-4
