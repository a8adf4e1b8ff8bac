"""What a run keeps when it is shipped: published, loaded by a fresh process, exported to ONNX in fp32 and int8, on its test images.

    python bench/ship.py RUN [--images 10000] [--source parquet:PATH] --out bench/results/ship.json

The run is published to a folder, from which another process loads it by `groundup.load` and classifies every test image; its
accuracy has to be the run's own to the last image. The exports are compared with the run on `--images` test images, int8 beside
fp32, alternated in one process (see `groundup export`). The run itself is left as it is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kept import keep

import groundup
from groundup.runs.folder import environment, open_run_folder
from groundup.ship.export.exporting import Wanted, export

_LOADER = """
import json, sys
import groundup
from groundup.data import load_splits
from groundup.recipe import load_recipe
folder, source = sys.argv[1:]
recipe = load_recipe(folder + "/recipe.yaml", [f"data.source={source}"] if source else [])
test = load_splits(recipe.data).test
classifier, right = groundup.load(folder), 0
images, labels = test.to_device("cpu")
for first in range(0, len(images), 500):
    part = images[first : first + 500].permute(0, 3, 1, 2)
    right += int((classifier.probabilities(part).argmax(1) == labels[first : first + 500]).sum())
print(json.dumps({"right": right, "images": len(images)}))
"""


def loaded_elsewhere(published: Path, source: str) -> dict[str, int]:
    """Right answers and test images of a process that knows the published folder alone."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADER, str(published), source], check=True, capture_output=True, text=True
    )
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--source", default="", help="Where the data of the run lies now, such as parquet:PATH.")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    summary = open_run_folder(chosen.run).summary() or {}
    with tempfile.TemporaryDirectory(prefix="groundup-") as scratch:
        published = Path(scratch) / "published"
        groundup.publish(chosen.run, to=str(published))
        counts = loaded_elsewhere(published, chosen.source)
        overrides = (f"data.source={chosen.source}",) if chosen.source else ()
        wanted = Wanted("onnx", int8=True, images=chosen.images, out=Path(scratch) / "export", overrides=overrides)
        exported: dict[str, Any] = {one.path.name: one.record for one in export(chosen.run, wanted)}
    own = round(summary["top1"] * summary["images"])
    result = {
        "what": __doc__.splitlines()[0],
        "recipe": open_run_folder(chosen.run).recipe().name,
        "right_by_summary": own,
        "published_and_loaded": counts,
        "same_to_the_last_image": counts == {"right": own, "images": summary["images"]},
        "exports": exported,
        **environment(),
    }
    keep(result, chosen.out)


if __name__ == "__main__":
    main()
