"""A publication: a trained run as a flat folder that can be loaded anywhere, and reading one without trusting it.

    model.safetensors     the weights that the run reports        README.md            the model card
    classifier.json       classes, image size, normalisation      recipe.yaml          the complete recipe
    environment.json, summary.json, metrics.jsonl, evaluation.json, *.png, export/...
    publication.json      format, groundup's version, the recipe's name, and of every other file size, SHA-256 and git blob id

Whatever is read here may come from strangers. Weights are read by safetensors, settings by pydantic, YAML safely and
without aliases or
`extends`, and files that should be small only if they are: nothing in them is run, and nothing outside the folder is opened.
"""

import json
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import nn

from groundup.basis.errors import CheckpointError, GroundupError, UsageError, listed
from groundup.basis.files import sha256
from groundup.basis.hub import endpoint, hub_errors, is_hub, parse_hub
from groundup.data import Resize
from groundup.recipe import Recipe, validate
from groundup.recipe.compose import parse_mapping
from groundup.training import MODEL

MANIFEST = "publication.json"
FORMAT_VERSION = 1
CLASSIFIER_FORMAT = 1
NEEDED = (MODEL, "classifier.json", "recipe.yaml")
# What is downloaded to load one; exports and pictures are not.
LOADED = (*NEEDED, MANIFEST, "summary.json", "environment.json", "evaluation.json")

_LARGEST = 16 << 20  # bytes of a file of text
_Colour = tuple[float, float, float]


class FileEntry(BaseModel):
    """One file of a publication. `blob`: what git calls its content."""

    model_config = ConfigDict(frozen=True)
    size: int = Field(ge=0, description="Bytes.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256, hex.")
    blob: str = Field(pattern="^[0-9a-f]{40}$", description="SHA-1 of git's blob, hex.")


class Manifest(BaseModel):
    """publication.json."""

    model_config = ConfigDict(frozen=True)
    format: Literal[1] = Field(description="Format version.")
    groundup: str = Field(description="Version of groundup that wrote it.")
    recipe: str = Field(description="Name of the recipe.")
    classes: str = Field(description="SHA-256 of the class names, hex.")
    files: dict[str, FileEntry] = Field(description="Every other file, by its path in the publication.")


class Described(BaseModel):
    """classifier.json: everything between a picture and a named answer but the weights."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    format: int = Field(description="Format version.")
    classes: Annotated[list[str], Field(min_length=2, max_length=1_000_000)] = Field(description="Names, in order.")
    image_size: int = Field(ge=1, le=8192, description="Side of the network's images, px.")
    resize: Resize = Field(description="How a picture is brought to that size.")
    mean: _Colour = Field(description="Of pixels in [0, 1].")
    std: _Colour = Field(description="Of pixels in [0, 1].")
    data: str | None = Field(None, max_length=200, description="Fingerprint of the data that it was trained on.")

    @field_validator("std")
    @classmethod
    def _divides(cls, std: _Colour) -> _Colour:
        if any(value <= 0 for value in std):
            raise ValueError("every value has to be greater than 0")
        return std


def local_folder(reference: Path | str) -> Path:
    """The folder behind a reference: a path as it is; of `hf:OWNER/NAME[@REVISION]` the downloaded copy, which the
    Hub's client keeps."""
    if not is_hub(reference):
        return Path(reference)
    repo = parse_hub(reference)
    from huggingface_hub import snapshot_download

    with hub_errors(f"loading {repo}"):
        # Without a network the client gives the copy that it has.
        place = snapshot_download(
            repo.name, revision=repo.revision, allow_patterns=list(LOADED), endpoint=endpoint(), library_name="groundup"
        )
    missing = [name for name in NEEDED if not (Path(place) / name).is_file()]
    if missing:
        raise UsageError(f"{repo}: not a model that groundup published: it lacks {', '.join(missing)}")
    return Path(place)


def is_publication(folder: Path) -> bool:
    """Whether `folder` is a publication and not a run folder."""
    return (folder / MANIFEST).is_file() or ((folder / MODEL).is_file() and not (folder / "checkpoints").exists())


def read_manifest(text: str, place: str) -> Manifest | None:
    """The manifest in `text`; None if it is not one. UsageError if a newer groundup wrote it."""
    try:
        values = json.loads(text)
        version = values.get("format") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UsageError(f"{place}: format version {version}; this groundup reads version {FORMAT_VERSION}")
        return Manifest.model_validate(values)
    except (ValueError, RecursionError):
        return None


def manifest_of(folder: Path) -> Manifest | None:
    """The manifest of a publication on disk, None if there is none."""
    file = folder / MANIFEST
    return read_manifest(small_text(file), str(file)) if file.is_file() else None


def small_text(file: Path) -> str:
    """The text of a file that should be small. CheckpointError if it is not, or is no text."""
    try:
        state = file.stat()
        if not stat.S_ISREG(state.st_mode):  # a link to a device would be read for ever
            raise CheckpointError(f"{file}: is not a file")
        if state.st_size > _LARGEST:
            raise CheckpointError(f"{file}: {state.st_size:,} bytes; at most {_LARGEST:,} are read")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{file}: there is no such file") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{file}: damaged: it is not text in UTF-8") from None


def read_described(file: Path) -> Described:
    """classifier.json. CheckpointError names what is wrong with it."""
    text = small_text(file)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{file}: damaged: it is not JSON") from None
    version = values.get("format") if isinstance(values, dict) else None
    if version != CLASSIFIER_FORMAT:
        raise UsageError(f"{file}: format {version!r}; this groundup reads {CLASSIFIER_FORMAT}")
    try:
        return Described.model_validate(values)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        raise CheckpointError(f"{file}: {said}") from None


def read_recipe(file: Path) -> Recipe:
    """The recipe of a publication: complete in itself, and only values."""
    text = small_text(file)
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise CheckpointError(f"{file}: it has YAML aliases, and a published recipe has none")
    except yaml.YAMLError as error:
        raise CheckpointError(f"{file}: not valid YAML: {str(error)[:300]}") from None
    values = parse_mapping(str(file), text, "a recipe is a mapping of sections such as data, model, train")
    if "extends" in values:
        raise CheckpointError(f"{file}: it extends another recipe, and a published recipe is complete")
    try:
        return validate(values)
    except UsageError as error:
        raise CheckpointError(f"{file}: {error.message[:1000]}", hint=error.hint) from None


def require_undamaged(folder: Path) -> None:
    """CheckpointError if the weights are not those that the manifest names. A publication without a manifest is
    taken as it is."""
    manifest, weights = manifest_of(folder), folder / MODEL
    if not weights.is_file():
        raise CheckpointError(f"{weights}: there is no such file")
    if manifest is None:
        if (folder / MANIFEST).exists():
            raise CheckpointError(f"{folder / MANIFEST}: damaged")
        return
    known = manifest.files.get(MODEL)
    if known is None or known.sha256 != sha256(weights):
        raise CheckpointError(
            f"{weights}: damaged: it does not match {MANIFEST}", hint="copy, download or publish it again"
        )


def require_fitting(recipe: Recipe, described: Described, weights: Path) -> None:
    """CheckpointError if the recipe's network does not take these weights; found out from their header, before
    anything of their
    size or of the recipe's is built."""
    saved = shapes_in(weights)
    count = len(described.classes)
    own = _shapes_of(recipe, count)
    if saved.keys() != own.keys():
        odd = sorted(saved.keys() ^ own.keys())
        raise CheckpointError(
            f"{weights}: the weights are of another network than recipe.yaml describes; names that only one side has: "
            f"{listed(odd, 5)}"
        )
    other = [name for name in own if saved[name] != own[name]]
    if not other:
        return
    rows = {saved[name][0] for name in other if saved[name]}
    by_class = all(own[name][:1] == (count,) and saved[name][1:] == own[name][1:] for name in other)
    if by_class and len(rows) == 1:
        raise CheckpointError(
            f"{weights}: the weights tell {rows.pop():,} classes apart, classifier.json names {count:,}"
        )
    name = other[0]
    raise CheckpointError(f"{weights}: {name} has shape {saved[name]}, the network of recipe.yaml has {own[name]}")


def shapes_in(weights: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file of safetensors, by name, from its header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{weights}: damaged: not a file of safetensors ({error})") from None


def _shapes_of(recipe: Recipe, classes: int) -> dict[str, tuple[int, ...]]:
    # On torch's meta device tensors have shapes and no memory.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        skeleton: nn.Module = recipe.model.build(classes)
    return {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}


def own_in(folder: Path) -> dict[str, str]:
    """What a publication was trained with in place of its recipe's: from its summary, or, as long as the run is not finished, from
    its environment."""
    own = (summary_in(folder) or _mapping(folder / "environment.json")).get("own")
    return own if isinstance(own, dict) else {}


def summary_in(folder: Path) -> dict[str, Any]:
    """summary.json of a publication, empty if it has none that can be read: nothing that is needed to load depends on it."""
    return _mapping(folder / "summary.json")


def _mapping(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(small_text(file))
        return values if isinstance(values, dict) else {}
    except (GroundupError, ValueError, RecursionError):
        return {}
