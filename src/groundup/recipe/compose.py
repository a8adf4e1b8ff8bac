"""From a name or a path to a validated recipe: read, extend, override, validate.

YAML is loaded safely: a recipe can hold values, never code. Keys given twice are refused.
"""

import copy
import functools
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from groundup.basis.errors import UsageError, listed, nearest, nearest_names
from groundup.data.settings import has_columns
from groundup.recipe.problems import explain
from groundup.recipe.schema import Recipe

# Overrides under which a recipe is still the one that its claim speaks of.
_KEEP_THE_CLAIM = {
    *("seed", "data.source", "data.image", "train.device", "train.threads", "track.tensorboard"),
    *("check.ignore", "cost.per_hour"),
}
_SECOND_NAME = {"name", "about"}  # what a recipe may say that is another under a second name
_NEAREST = 4  # names of the library that an unknown one is answered with
# libyaml writes the same ten times as fast. Reading is left to Python: libyaml's reader crashes on what is nested too deeply.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LIBRARY = resources.files("groundup.recipe") / "library"


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key stands once."""


def _mapping_without_repeats(loader: Any, node: Any) -> dict[Any, Any]:
    seen: list[Any] = []
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.append(key)
    mapping: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return mapping


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)


def library() -> list[str]:
    """Names of the recipes that come with groundup, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _LIBRARY.iterdir() if entry.name.endswith(".yaml"))


def source_text(name_or_path: str) -> str:
    """The text of a library recipe or of a file, as written. UsageError if there is neither."""
    if name_or_path in library():
        return (_LIBRARY / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"recipe {name_or_path!r}: not a text file in UTF-8: {error}") from None
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UsageError(f"recipe {name_or_path!r}: there is no such file", hint="`groundup recipes` lists the library")
    raise _unknown_recipe(name_or_path)


def _unknown_recipe(name: str) -> UsageError:
    """The library is too long to be listed in an error: the names that look alike, and where all of them are."""
    names = library()
    near = nearest_names(name, names, _NEAREST)
    alike = f"; nearest: {', '.join(near)}" if near else ""
    meant = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(
        f"recipe={name!r}: neither a recipe of the library nor a file{alike}",
        hint=f"{meant}`groundup recipes` lists all {len(names)}",
    )


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The validated recipe of that name or path with `key.sub=value` overrides applied. UsageError names every problem."""
    values = _extended(name_or_path, seen=())
    # Names and sources first: what they clear is that of the old one, whatever the order on the command line.
    for override in sorted(overrides, key=lambda override: not _clears(override)):
        lay_override(values, override)
    if any(override.partition("=")[0].strip() not in _KEEP_THE_CLAIM for override in overrides):
        values.pop("claim", None)
    return validate(values)


def _clears(override: str) -> bool:
    key = override.partition("=")[0].strip()
    return key.endswith(".name") or key == "data.source"


def validate(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; UsageError names every problem with its key, value and what is allowed."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise explain(error, values) from None


def to_yaml(recipe: Recipe) -> str:
    """The complete recipe, every default written out; `load_recipe` of it gives an equal recipe."""
    return yaml.dump(
        recipe.model_dump(mode="json", by_alias=True),
        Dumper=_DUMPER,
        sort_keys=False,
        allow_unicode=True,
        width=110,
    )


def _extended(name_or_path: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """The values of a recipe laid over those of the recipe it extends."""
    if name_or_path in seen:
        raise UsageError(f"extends: {' -> '.join((*seen, name_or_path))} goes round in a circle")
    what = "a recipe is a mapping of sections such as data, model, train"
    values = parse_mapping(name_or_path, source_text(name_or_path), what)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise UsageError(f"{name_or_path}: extends={parent!r}: needs the name or path of one recipe")
    beside = Path(name_or_path).parent / parent
    # Normalised, so that a circle through `../here/` is recognised.
    found = os.path.normpath(beside) if name_or_path not in library() and beside.is_file() else parent
    base = _extended(found, (*seen, name_or_path))
    if values.keys() - _SECOND_NAME:
        base.pop("claim", None)  # a claim belongs to the recipe it was measured with
    _leave_columns(base, values.get("data"))
    return _laid_over(base, values)


def _leave_columns(values: dict[str, Any], given: object) -> None:
    """Take the names of columns out of `values`, where the section `data` that is `given` has a source that knows none: they are
    those of the old source."""
    if not isinstance(given, Mapping) or not isinstance(source := given.get("source"), str) or has_columns(source):
        return
    if isinstance(old := values.get("data"), dict):
        for key in ("image", "label"):
            old.pop(key, None)


def parse_mapping(name: str, text: str, what: str) -> dict[str, Any]:
    """The values of a YAML file called `name`; `what` says what the file should be."""
    return copy.deepcopy(_parsed(name, text, what))


@functools.lru_cache(maxsize=16)  # the runs of a sweep begin with the same base
def _parsed(name: str, text: str, what: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # ValueError: a date without such a day, a number of thousands of digits
        raise UsageError(f"{name}: not valid YAML: {error}") from None
    except RecursionError:
        raise UsageError(f"{name}: nested too deeply") from None
    if not isinstance(values, dict):
        raise UsageError(f"{name}: {what}; this is {type(values).__name__}")
    return values


def _laid_over(base: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` over `base`, section by section. A section that names another method replaces the old one whole."""
    result = copy.deepcopy(base)
    for key, value in values.items():
        old = result.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, Mapping)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            result[key] = _laid_over(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def read_override(override: str) -> tuple[str, Any]:
    """Key and value of `key.sub=value`; the value is read as YAML."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"override {override!r}: write key=value, e.g. train.epochs=3")
    try:
        return key.strip(), yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"override {override!r}: the value is not valid YAML: {error}") from None


def lay_override(values: dict[str, Any], override: str) -> None:
    """Apply `key.sub=value` in place. List entries are counted from 0."""
    key, value = read_override(override)
    if key in ("data", "data.source"):
        _leave_columns(values, value if key == "data" else {"source": value})
    *path, last = key.split(".")
    here: Any = values
    for place, part in enumerate(path):
        key_here = ".".join(path[: place + 1])
        if isinstance(here, dict) and not here.get(part) and (*path, last)[place + 1].isdigit():
            raise UsageError(
                f"override {override!r}: {key_here} has no entries that could be changed",
                hint=f"write the whole list: {key_here}=[...]",
            )
        here = _step_into(here, part, key_here, override)
    if isinstance(here, list):
        here[_index(here, last, key, override)] = value
    elif isinstance(here, dict):
        old = here.get(last)
        if path and last == "name" and old is not None and old != value:
            here.clear()  # another method: the settings of the old one do not belong to it
        if isinstance(old, dict) and isinstance(value, dict):
            value = _laid_over({"": old}, {"": value})[""]
        here[last] = value
    else:
        raise UsageError(f"override {override!r}: {'.'.join(path)} is {here!r}, which has no keys below it")


def _step_into(here: Any, part: str, key: str, override: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, part, key, override)]
    if not isinstance(here, dict):
        raise UsageError(f"override {override!r}: {key.rpartition('.')[0]} is {here!r}, which has no keys below it")
    if here.get(part) is None:
        here[part] = {}
    return here[part]


def _index(entries: list[Any], part: str, key: str, override: str) -> int:
    if part.isdigit() and int(part) < len(entries):
        return int(part)
    names = [str(entry.get("name")) for entry in entries if isinstance(entry, dict) and "name" in entry]
    if part in names:
        return names.index(part)
    near = nearest(part, names)
    raise UsageError(
        f"override {override!r}: {key}: no such entry; allowed: 0 to {len(entries) - 1}"
        + (f", or a name: {listed(names)}" if names else ""),
        hint=f"did you mean {near!r}?" if near else None,
    )
