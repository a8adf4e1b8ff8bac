"""A trained run where it is found, and the data that it was trained on: what every command that asks a finished run begins with.

A reference is a run folder, a folder that `groundup publish` or `groundup export --to safetensors` wrote, or
`hf:OWNER/NAME[@REVISION]`. Publications may come from strangers: they are opened by functions that believe nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from groundup.basis.errors import DataError, UsageError
from groundup.basis.hub import is_hub
from groundup.basis.interruption import StopRequest
from groundup.data import Splits
from groundup.recipe import Recipe
from groundup.runs.folder import RunFolder, open_run_folder
from groundup.runs.prepare import open_data
from groundup.runs.publication import is_publication, local_folder, read_described, read_recipe


class OtherData(UsageError):
    """The data is not what the run was trained on."""


@dataclass(frozen=True)
class Trained:
    """A trained run as files. `reference`: what it was called; `published`: whether it is a publication and not a run folder."""

    reference: Path | str
    folder: RunFolder
    recipe: Recipe
    published: bool

    @property
    def is_ours(self) -> bool:
        """Whether files may be added to its folder. The copy of a repository belongs to the Hub's client, which takes it
        for what the repository holds."""
        return not is_hub(self.reference)


def open_trained(reference: Path | str) -> Trained:
    """The run behind a reference. UsageError if there is none."""
    path = local_folder(reference)
    if is_publication(path):
        folder = RunFolder(path)
        return Trained(reference, folder, read_recipe(folder.recipe_file), True)
    folder = open_run_folder(path)
    return Trained(reference, folder, folder.recipe(), False)


def data_of(trained: Trained, stop: StopRequest, recipe: Recipe | None = None, *, hint: str | None = None) -> Splits:
    """The splits that a run was trained on. DataError with the way on, `hint`, if they cannot be opened; OtherData if they are
    other images now. `recipe`: the run's, where its data lies elsewhere now."""
    try:
        splits = open_data(recipe or trained.recipe, stop)
    except DataError as error:
        raise DataError(
            f"{trained.reference}: the data that it was trained on cannot be opened: {error.message}",
            hint=hint or _where_it_is(trained),
        ) from error
    require_same_data(trained.folder, splits)
    return splits


def _where_it_is(trained: Trained) -> str:
    if trained.is_ours:
        return f"put it back, or write in {trained.folder.recipe_file} where it is now (data.source)"
    return (
        "copy the repository with `hf download`, and write in the recipe.yaml of the copy where it is now (data.source)"
    )


def fingerprint_of(folder: RunFolder) -> str | None:
    """The fingerprint of the data that the run was trained on, None if it does not say."""
    return read_described(folder.classifier_file).data if folder.classifier_file.exists() else None


def require_same_data(folder: RunFolder, splits: Splits) -> None:
    """OtherData if the recipe's data is not what the run was trained on: images of test may have been in train."""
    trained_on = fingerprint_of(folder)
    if trained_on not in (None, splits.fingerprint):
        raise OtherData(
            f"{folder.path}: data.source gives other images now than the run was trained on "
            f"(fingerprint {trained_on}, now {splits.fingerprint})",
            hint="put the data back; a run trained on data handed in from Python is evaluated by groundup.evaluate(RUN, data=...)",
        )
