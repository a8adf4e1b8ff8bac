"""`groundup export` on a real finished run: what is written, compared, refused, left alone and replaced."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import groundup
from groundup.basis.errors import CheckpointError, DataError, GroundupError, UsageError
from groundup.basis.files import sha256, write_json
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.cli.main import main
from groundup.runs.evaluate import evaluate
from groundup.ship.export import onnx_format, pt2_format
from groundup.ship.export.exporting import Exported, Wanted, export

TINY = [
    "model={name: wide_resnet, depth: 10, width: 1}",
    "schedule={name: one_cycle, max_lr: 0.1}",
    "train={epochs: 6, batch_size: 50, threads: 1}",
    "data={limit: 600, validation: 0.25}",
]


@pytest.fixture(scope="module", autouse=True)
def _quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUNDUP_CACHE", str(tmp_path_factory.mktemp("cache")))
        # How fast an export is is not what these tests ask.
        patch.setattr("groundup.ship.export.check._ROUNDS", {1: 3, 32: 3})
        patch.setattr("groundup.ship.export.check._SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, _quiet_machine: None) -> Path:
    """A finished run on digits. Tests that change it take `run`."""
    return groundup.train("digits", TINY, run=tmp_path_factory.mktemp("runs") / "tiny").folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


@pytest.fixture(scope="module")
def onnx_exports(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Exported]:
    """The fp32 and the int8 file of `finished`."""
    return export(finished, Wanted("onnx", int8=True, out=tmp_path_factory.mktemp("onnx") / "deep" / "out"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """command("export", run): exit status, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["groundup", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


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


def test_an_export_of_the_same_weights_is_left_and_one_of_others_replaced(run: Path) -> None:
    (first,) = export(run, Wanted("pt2", images=20))
    written = first.path.stat().st_mtime_ns
    (again,) = export(run, Wanted("pt2", images=30))
    assert (first.left, again.left) == (False, True)
    assert again.path.stat().st_mtime_ns == written
    assert again.record["agreement"]["images"] == 30
    change_the_weights(run)
    (other,) = export(run, Wanted("pt2", images=20))
    assert not other.left
    assert other.record["made_of"]["weights_sha256"] != first.record["made_of"]["weights_sha256"]
    assert sorted(path.name for path in (run / "export").iterdir()) == ["model.pt2", "model.pt2.json"]


def change_the_weights(run: Path) -> None:
    import safetensors.torch

    weights = run / "checkpoints" / "last" / "model.safetensors"
    changed = {name: tensor * 1.01 for name, tensor in safetensors.torch.load_file(weights).items()}
    safetensors.torch.save_file({k: v if v.is_floating_point() else v.long() for k, v in changed.items()}, weights)
    sums = json.loads((weights.parent / "checksums.json").read_text())
    write_json(weights.parent / "checksums.json", {**sums, weights.name: sha256(weights)})


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.yaml", "model.safetensors.json"])
def test_a_file_of_the_users_own_is_never_overwritten(name: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("{}")
    with pytest.raises(UsageError, match=name):
        export(run, Wanted("safetensors", images=20, out=out))
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: "{}"}


def test_an_export_that_was_edited_is_left_as_it_is(run: Path) -> None:
    (done,) = export(run, Wanted("safetensors", images=20))
    recipe = done.path.parent / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "# mine\n")
    with pytest.raises(UsageError, match=r"recipe\.yaml: was not written by `groundup export`, or was changed since"):
        export(run, Wanted("safetensors", images=20))
    assert recipe.read_text().endswith("# mine\n")


@pytest.mark.parametrize("at", ["model.safetensors", "classifier.json", "model.safetensors.json"])
def test_a_kill_between_two_moves_leaves_what_the_next_export_replaces(
    at: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(run, Wanted("safetensors", images=20))
    change_the_weights(run)
    move, notes = os.replace, 0

    def killed(source: Any, target: Any) -> None:
        nonlocal notes
        name = Path(target).name
        notes += name.endswith("safetensors.json")
        if name == at and (notes == 2 or at != "model.safetensors.json"):
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            export(run, Wanted("safetensors", images=20))
    (done,) = export(run, Wanted("safetensors", images=20))
    assert not done.left
    assert sorted(path.name for path in (run / "export").iterdir()) == [
        *("classifier.json", "model.safetensors", "model.safetensors.json", "recipe.yaml"),
    ]


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


def test_the_command_prints_what_was_found_and_gives_it_as_json(run: Path, command: Callable[..., Any]) -> None:
    status, out, _ = command("export", run, "--to", "pt2", "--images", "64")
    assert status == 0
    assert out.startswith(f"{run}/export/model.pt2\n")
    for part in ("64 test images", "at most 0.0001", "top-1 agrees on", "images/s", "times as fast", "MB"):
        assert part in out
    status, out, _ = command("export", run, "--to", "pt2", "--images", "64", "--json")
    (found,) = json.loads(out)["exports"]
    assert (status, found["left_as_it_was"], found["agreement"]["images"]) == (0, True, 64)


def test_an_interruption_leaves_nothing(run: Path) -> None:
    stop = StopRequest()

    def tell(text: str) -> None:
        stop.request("enough")

    with pytest.raises(Interrupted):
        export(run, Wanted("pt2"), stop, tell)
    assert not (run / "export").exists()
