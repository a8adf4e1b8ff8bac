"""Twins: two runs of one recipe on the same data, of which one kept a validation split and the other was trained on everything.

A temperature needs images that were not trained on. The run that is reported has none left, so its temperature is fitted on the
validation split of its twin: the same network with the same training is about as over-confident (Guo et al. 2017,
arXiv 1706.04599, fit it on held-out images of the one network; that it carries over to a twin is an assumption, and is said).
"""

from pathlib import Path

from groundup.basis.errors import UsageError
from groundup.basis.hub import is_hub
from groundup.data import Splits
from groundup.runs.identity import recipe_differences, told
from groundup.runs.trained import Trained, fingerprint_of

OPTION = "--temperature-from"


def require_twin(run: Trained, twin: Trained) -> None:
    """UsageError unless `twin` is another, finished run of the recipe of `run`, with a validation split, on the same data."""
    named = f"{OPTION} {twin.reference}"
    if twin.folder.path.resolve() == run.folder.path.resolve():
        raise UsageError(f"{named}: is the run itself", hint=_how(run))
    if twin.folder.summary() is None:
        raise UsageError(f"{named}: is not finished", hint=f"`groundup resume {twin.reference}` finishes it")
    if changes := recipe_differences(twin.recipe, run.recipe, but_validation=True):
        raise UsageError(f"{named}: is no twin of {run.reference}: {told(changes)}", hint=_how(run))
    one, other = fingerprint_of(run.folder), fingerprint_of(twin.folder)
    if None not in (one, other) and one != other:
        raise UsageError(
            f"{named}: was trained on other images than {run.reference} (fingerprint {other}, not {one})",
            hint=_how(run),
        )


def require_other_split(run: Trained, of_run: Splits, twin: Trained, of_twin: Splits) -> None:
    """UsageError if the twin has no validation split, or the run has one of its own."""
    if of_twin.validation is None:
        raise UsageError(f"{OPTION} {twin.reference}: has no validation split either", hint=_how(run))
    if of_run.validation is not None:
        raise UsageError(
            f"{OPTION} {twin.reference}: {run.reference} has a validation split of its own, {len(of_run.validation):,} images, "
            "on which its temperature is fitted",
            hint=f"leave {OPTION} out",
        )
    if of_run.fingerprint != of_twin.fingerprint:
        raise UsageError(f"{OPTION} {twin.reference}: was trained on other images than {run.reference}", hint=_how(run))


def name_of(twin: Trained) -> str:
    """What it is called where others read it: a repository by its name, a run by that of its folder."""
    return str(twin.reference) if is_hub(twin.reference) else Path(twin.reference).resolve().name


def _how(run: Trained) -> str:
    return f"`groundup train {run.folder.recipe_file} data.validation=0.1` trains a twin; its seed may be another"
