"""The reference page of the recipe, written from the settings classes, so that it cannot say anything else.

python -m groundup.recipe.reference > docs/reference/recipe.md
"""

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from groundup.augment import MIXERS, OPERATIONS
from groundup.basis.duration import Duration
from groundup.models import MODELS
from groundup.optim import LOSSES, OPTIMIZERS, SCHEDULES
from groundup.recipe.schema import Recipe
from groundup.training import AVERAGES

# Where a family stands in the recipe -> its dictionary. A method that is added there is on the page.
FAMILIES: dict[str, Mapping[str, type[BaseModel]]] = {
    "model": MODELS,
    "augment.policy": OPERATIONS,
    "mix.methods": MIXERS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "average": AVERAGES,
}

_HEAD = """# Recipe reference

Every key of a recipe. This page is written by `python -m groundup.recipe.reference`; a test holds it current.

A recipe is a YAML file. `extends: NAME_OR_PATH` lays it over another recipe, section by section; a section that
chooses another `name` replaces the old section whole, and the `claim` is inherited only by what says no more than
another `name` and `about`. On the command line `key.sub=value` changes one key; entries of a list are counted from 0
or called by their `name` (`augment.policy.pad_crop.pad=2`).

A duration is a number with its unit: `5ep` (epochs), `0.3dur` (share of the run) or `1000step` (optimizer updates).
"""
_TABLE = "| key | type | default | range | description |\n|---|---|---|---|---|"


def reference() -> str:
    """The page, Markdown."""
    plain = {key: field for key, field in _fields(Recipe) if not _section_of(field)}
    parts = [_HEAD, "## Keys at the top\n", _table(plain.items())]
    for key, field in _fields(Recipe):
        if _section_of(field):
            parts += _section(key, field)
    return "\n".join(parts) + "\n"


def _fields(settings: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Keys as they are written in a recipe, and their fields."""
    return ((field.alias or key, field) for key, field in settings.model_fields.items())


def _section_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The settings classes that can stand in `field`."""
    return [part for part in _leaves(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]


def _leaves(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType, tuple, list, Annotated):
        for part in get_args(annotation):
            yield from _leaves(part)
    else:
        yield annotation


def _section(key: str, field: FieldInfo) -> list[str]:
    """Heading, description and tables of a section; sections inside it follow."""
    parts = [f"\n## {key}\n", f"{field.description}{_note(field)}\n"]
    if key in FAMILIES:
        return parts + _family(key)
    (settings,) = _section_of(field)
    return parts + _class(key, settings)


def _class(key: str, settings: type[BaseModel], mark: str = "###") -> list[str]:
    plain, parts = [], []
    for name, field in _fields(settings):
        inner = f"{key}.{name}"
        if inner in FAMILIES:
            parts += [f"\n{mark} {inner}\n", f"{field.description}{_note(field)}\n", *_family(inner)]
        elif _section_of(field) and not _in_a_family(field) and not _is_told_elsewhere(inner, field):
            (section,) = _section_of(field)
            parts += [f"\n{mark} {inner}\n", f"{field.description}{_note(field)}\n", *_class(inner, section, mark)]
        else:
            plain.append((name, field))
    return ([_table(plain)] if plain else []) + parts


def _in_a_family(field: FieldInfo) -> bool:
    members = {member for family in FAMILIES.values() for member in family.values()}
    return all(section in members for section in _section_of(field))


def _is_told_elsewhere(key: str, field: FieldInfo) -> bool:
    """Whether `field` holds a section of the recipe that has its own place on the page, such as the `mix` of a phase."""
    sections = {section for name, top in _fields(Recipe) if name != key for section in _section_of(top)}
    return "." in key and all(section in sections for section in _section_of(field))


def _family(key: str) -> list[str]:
    """Tables for every method of a family; a class that stands under several names is shown once."""
    names: dict[type[BaseModel], list[str]] = {}
    for name, settings in FAMILIES[key].items():
        names.setdefault(settings, []).append(name)
    parts = []
    for settings, called in names.items():
        said = (settings.__doc__ or "").strip().split("\n\n")[0]
        head = [f"\n#### {key}: {', '.join(called)}\n", f"{' '.join(said.split())}\n"]
        parts += head + _class(key, settings, "#####")
    return parts


def _note(field: FieldInfo) -> str:
    if field.is_required():
        return " Required."
    return " A list; empty by default." if field.default == () else ""


def _table(fields: Any) -> str:
    rows = [
        f"| `{key}` | {type_of(field)} | {default_of(field)} | {range_of(field)} | {_cell(field.description or '')} |"
        for key, field in fields
    ]
    return "\n".join([_TABLE, *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def type_of(field: FieldInfo) -> str:
    """The type in words, e.g. `whole number or null`."""
    return _type(field.annotation)


_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Duration: "duration"}


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is NoneType:
        return "null"
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(argument) for argument in arguments))
    if origin is tuple:
        items = [argument for argument in arguments if argument is not Ellipsis]
        count = "" if Ellipsis in arguments else f"{len(items)} x "
        return f"list of {count}{_type(items[0])}"
    return _WORDS.get(annotation, "section")


def default_of(field: FieldInfo) -> str:
    """The default as it is written in a recipe."""
    if field.is_required():
        return "required"
    return f"`{_value(field.get_default(call_default_factory=True))}`"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) or "(empty)"


def range_of(field: FieldInfo) -> str:
    """What values are allowed beyond the type, e.g. `> 0, <= 1`."""
    return ", ".join(dict.fromkeys([*_bounds(field.metadata), *_inner_bounds(field.annotation)]))


_SIGNS = {
    annotated_types.Gt: (">", "gt"),
    annotated_types.Ge: (">=", "ge"),
    annotated_types.Lt: ("<", "lt"),
    annotated_types.Le: ("<=", "le"),
    annotated_types.MinLen: ("length >=", "min_length"),
    annotated_types.MaxLen: ("length <=", "max_length"),
}


def _bounds(metadata: Any) -> Iterator[str]:
    for bound in metadata:
        if isinstance(bound, FieldInfo):
            yield from _bounds(bound.metadata)
        elif type(bound) in _SIGNS:
            sign, name = _SIGNS[type(bound)]
            yield f"{sign} {getattr(bound, name)}"


def _inner_bounds(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        yield from _bounds(metadata)
        yield from _inner_bounds(inner)
    elif get_origin(annotation) in (Union, UnionType, tuple):
        for part in get_args(annotation):
            yield from _inner_bounds(part)


if __name__ == "__main__":
    print(reference(), end="")
