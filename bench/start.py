"""How long groundup takes to start and to finish: the help, the import, the first step of digits, an evaluation.

    python bench/start.py [--rounds 5] [--run RUN_FOLDER] [--out bench/results/start.json]

Wall-clock seconds of fresh processes, the median and all of them. With --run also the evaluation of that run's test split by
`groundup evaluate`'s own code, over a bare forward loop on the same tensors in the same process (a ratio, in turn).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kept import keep

AIMS = {"help": 0.25, "import": 0.1, "first_step_of_digits": 5.0, "evaluation_over_bare_forward": 1.5}


def seconds_of(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def help_page() -> float:
    return seconds_of(
        lambda: subprocess.run([sys.executable, "-m", "groundup", "--help"], check=True, capture_output=True)
    )


def import_alone() -> float:
    """`import groundup` over an interpreter that imports nothing."""
    inside = "import time; t = time.perf_counter(); import groundup; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", inside], check=True, capture_output=True, text=True).stdout)


def first_step() -> float:
    """From the command to the end of the first step."""
    return told_of_first_step()[0]


def told_of_first_step() -> tuple[float, str]:
    """Those seconds, and the line of the terminal that ended them. In a pipe steps are told every 30 s, evaluations at once; digits
    has no validation split, so that an evaluation in every step is a line and no more."""
    with tempfile.TemporaryDirectory() as folder:
        every = "evaluate.every=1step"
        command = [sys.executable, "-m", "groundup", "train", "digits", every, "--run", f"{folder}/run"]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "step 1/" in line:
                    spent = time.perf_counter() - started
                    process.terminate()
                    process.communicate()
                    return spent, line
    raise SystemExit("the run ended without telling of its first step")


def evaluation_over_bare(run: Path, rounds: int) -> dict[str, Any]:
    import torch

    from groundup import augment
    from groundup.basis.interruption import StopRequest
    from groundup.data import MemoryLoader
    from groundup.runs.folder import open_run_folder
    from groundup.runs.load import load
    from groundup.runs.prepare import constants, logits_of, open_data
    from groundup.training import Engine

    folder = open_run_folder(run)
    recipe = folder.recipe()
    splits = open_data(recipe, StopRequest())
    engine = Engine(**json.loads(folder.environment_file.read_text())["engine"])
    engine.activate()
    network = load(run).model.to(engine.torch_device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert splits.test is not None
    loader = MemoryLoader(splits.test, engine.torch_device)
    mean, std = constants(recipe)
    batches = [augment.normalize(images, mean, std) for images, _ in loader.batches(recipe.evaluate.batch_size)]

    def bare() -> None:
        with torch.no_grad(), engine.autocast():
            for images in batches:
                network(images)
        engine.synchronize()

    def evaluated() -> None:
        logits_of(network, loader, recipe, engine, lambda: None)

    bare()
    ratios = []
    for _ in range(rounds):
        base = seconds_of(bare)
        ratios.append(seconds_of(evaluated) / base)
    return {"median": statistics.median(ratios), "all": ratios, "images": len(splits.test)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    from groundup.runs.folder import environment

    result: dict[str, Any] = {"what": __doc__.splitlines()[0], "aims": AIMS}
    for name, measure in {"help": help_page, "import": import_alone, "first_step_of_digits": first_step}.items():
        measure()  # the file cache of the system is warm from here on
        values = [measure() for _ in range(chosen.rounds)]
        result[name] = {"median": statistics.median(values), "all": values}
    if chosen.run:
        result["evaluation_over_bare_forward"] = evaluation_over_bare(chosen.run, chosen.rounds)
    result |= environment()
    keep(result, chosen.out)


if __name__ == "__main__":
    main()
