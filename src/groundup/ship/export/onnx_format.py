"""The run as an ONNX file: one graph from uint8 images to probabilities, for onnxruntime and whatever else reads ONNX.

Opset    18, which torch's exporter writes without converting; onnxruntime has run it since 1.14.
Checked  by `onnx.checker`, with shape inference.
Removed  what torch writes about every node: call stacks, with the paths of the machine that exported.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from groundup.basis.errors import GroundupError, UsageError
from groundup.ship.export.module import INPUT, OUTPUT, ExportedClassifier, Facts, Pixels, Probabilities, Runner, example

OPSET = 18
FILE = "model.onnx"


def require_onnx() -> None:
    """UsageError unless the packages of the extra `export` are installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            raise UsageError(
                f"groundup export --to onnx: needs the package {name}, which is not installed",
                hint="pip install 'groundup[export]'",
            ) from None


def write_onnx(module: ExportedClassifier, facts: Facts, path: Path) -> dict[str, Any]:
    """Write the graph to `path`, checked. Gives the opset."""
    import onnx

    with quiet():
        program = torch.onnx.export(
            module,
            (example(facts.image_size),),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: "batch"},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    finish(model, facts.metadata(opset=opset))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return {"opset": opset}


def finish(model: Any, metadata: dict[str, str]) -> None:
    """Leave nothing in the file but the graph and `metadata`."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        raise GroundupError(f"the graph has a function of its own, {function.name}, which is not looked into")
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)


def open_onnx(path: Path, threads: int) -> Runner:
    """The file as a function, run by onnxruntime on the CPU with `threads` threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Pixels) -> Probabilities:
        found: Probabilities = session.run([OUTPUT], {INPUT: images})[0]
        return found

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say about packages that are not needed and about their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
