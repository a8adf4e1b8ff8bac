"""Starting again under torchrun: which run folder belongs to this very job.

torchrun starts the processes of a job again with the same arguments, after a failure (`--max-restarts`), or when a scheduler puts
the whole job back in its queue. `groundup train` then has to go on with the run that it began. A hidden file in the run folder
remembers the job and the recipe that was asked for; neither names the machine or the user. Without torchrun there is no such file.
"""

import hashlib
import json
from pathlib import Path

from groundup.basis.files import write_json
from groundup.recipe import Recipe, to_yaml
from groundup.runs.folder import JOB_FILE, RunFolder, create_run_folder, open_run_folder, without_home
from groundup.training import job_id


def new_or_own_folder(recipe: Recipe, wanted: Path | None) -> tuple[RunFolder, bool]:
    """A folder for a run of `recipe`, `wanted` or runs/NAME-001 and so on, and whether it is new. It is not if this job made it."""
    mark = None if (job := job_id()) is None else {"job": job, "recipe": _digest(recipe)}
    if mark is not None and (own := _own(recipe, wanted, mark)) is not None:
        return own, False
    folder = create_run_folder(recipe, wanted)
    folder.write_recipe(without_home(recipe))
    if mark is not None:
        write_json(folder.path / JOB_FILE, mark)
    return folder, True


def _own(recipe: Recipe, wanted: Path | None, mark: dict[str, str]) -> RunFolder | None:
    """The folder with this mark. Where none was named, only one that is not finished: ids are sometimes used again."""
    candidates = [wanted] if wanted is not None else sorted(Path("runs").glob(f"{recipe.name}-*"), reverse=True)
    for path in candidates:
        if _mark_of(path) == mark:
            folder = open_run_folder(path)
            if wanted is not None or folder.summary() is None:
                return folder
    return None


def _mark_of(path: Path) -> dict[str, str] | None:
    try:
        mark: dict[str, str] = json.loads((path / JOB_FILE).read_text())
    except (OSError, ValueError):
        return None
    return mark


def _digest(recipe: Recipe) -> str:
    return hashlib.blake2b(to_yaml(recipe).encode(), digest_size=16).hexdigest()
