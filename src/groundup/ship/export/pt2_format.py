"""The run as a torch.export program: loads with `torch.export.load` alone, without groundup.

The facts lie beside the graph in the archive, as JSON in the extra file `groundup.json`. What torch notes about every node (call
stacks with the paths of the machine, names of modules) is removed.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from groundup.ship.export.module import ExportedClassifier, Facts, Runner, as_runner, example

FILE = "model.pt2"
EXTRA = "groundup.json"


def write_pt2(module: ExportedClassifier, facts: Facts, path: Path) -> dict[str, Any]:
    """Write the program to `path`; the number of images per call stays free."""
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (example(facts.image_size),), dynamic_shapes=({0: batch},))
        for part in program.graph_module.modules():
            for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
                node.meta = {key: value for key, value in node.meta.items() if key == "val"}
        torch.export.save(program, path, extra_files={EXTRA: json.dumps(facts.to_dict(), indent=2)})
    return {}


def open_pt2(path: Path) -> Runner:
    """The file as a function, run by torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return as_runner(torch.export.load(path).module())
