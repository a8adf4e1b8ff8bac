"""Pydantic's findings, told to a person: key, value, what is allowed, the nearest known name. All problems at once."""

import reprlib
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from groundup.basis.errors import UsageError, listed, masked, nearest
from groundup.recipe.schema import Recipe

# A value is shown short: YAML's aliases let a small file stand for gigabytes of text.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, 120, 120


def explain(
    error: ValidationError, values: Mapping[str, Any], root: type[BaseModel] = Recipe, what: str = "recipe"
) -> UsageError:
    """One UsageError for everything that is wrong with `values`, the recipe (or another `root`) before validation."""
    lines, hints = [], []
    for finding in error.errors():
        line, hint = _explain_one(finding, values, root, what)
        lines.append(line)
        if hint:
            hints.append(hint)
    head = "" if len(lines) == 1 else f"the {what} has {len(lines)} problems:\n  "
    return UsageError(head + "\n  ".join(lines), hint="; ".join(dict.fromkeys(hints)) or None)


def _explain_one(finding: Any, values: Mapping[str, Any], root: type[BaseModel], what: str) -> tuple[str, str | None]:
    keys = _keys_without_tags(finding["loc"], values)
    key, parent = ".".join(keys), keys[:-1]
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = known_keys(parent, values, root)
        near = nearest(keys[-1], allowed)
        dotted = ".".join([*parent, near]) if near else None
        return (
            f"{key}={_short(finding['input'])}: unknown key; allowed in {'.'.join(parent) or f'a {what}'}: {listed(allowed)}",
            f"did you mean {dotted}?" if dotted else None,
        )
    if kind == "missing":
        return f"{key}: missing; every {what} needs it", None
    if kind == "union_tag_not_found":
        return f"{key}: needs a name; allowed: {listed(_names_at(keys, values, root))}", f"write {key}.name=..."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        names = _names_at(keys, values, root)
        fits = names and isinstance(finding["input"], str)
        return (
            f"{key}={_short(finding['input'])}: needs keys below it, not a single value"
            + (f"; names allowed: {listed(names)}" if names else ""),
            f"write {key}.name={finding['input']}" if fits else None,
        )
    if kind == "union_tag_invalid":
        allowed = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        near = nearest(context["tag"], allowed)
        return (
            f"{key}.name={context['tag']!r}: unknown name; allowed: {listed(allowed)}",
            f"did you mean {near!r}?" if near else None,
        )
    if kind == "literal_error":
        near = nearest(
            str(finding["input"]), [part.strip(" '") for part in context["expected"].replace(" or ", ",").split(",")]
        )
        return (
            f"{key}={_short(finding['input'])}: allowed: {context['expected']}",
            f"did you mean {near!r}?" if near else None,
        )
    message = finding["msg"].removeprefix("Value error, ")
    return f"{key}={_short(finding['input'])}: {message[:1].lower()}{message[1:]}", None


def _short(value: Any) -> str:
    return masked(_REPR.repr(value))


def _keys_without_tags(location: tuple[int | str, ...], values: Any) -> list[str]:
    """The path of a finding in the recipe's own keys: pydantic puts the name of the union's member into it."""
    keys: list[str] = []
    for place, part in enumerate(location):
        tag = (
            isinstance(values, Mapping) and values.get("name") == part and part not in values and place < len(location)
        )
        if tag:
            continue
        keys.append(str(part))
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
    return keys


def known_keys(path: list[str], values: Mapping[str, Any], root: type[BaseModel] = Recipe) -> list[str]:
    """The keys that are allowed under `path`, given the names chosen in `values`."""
    found = _models_at(path, values, root)
    return list(dict.fromkeys(field.alias or key for model in found for key, field in model.model_fields.items()))


def _names_at(path: list[str], values: Mapping[str, Any], root: type[BaseModel]) -> list[str]:
    """The names of the family that stands at `path`; none if it is a plain section."""
    fields = [model.model_fields.get("name") for model in _models_at(path, values, root)]
    return [name for field in fields if field is not None for name in get_args(field.annotation)]


def _models_at(path: list[str], values: Mapping[str, Any], root: type[BaseModel]) -> list[type[BaseModel]]:
    """Every settings class that can stand at `path`, given the names chosen in `values`."""
    found: list[type[BaseModel]] = [root]
    here: Any = values
    for part in path:
        here = (
            here[int(part)] if isinstance(here, list | tuple) else here.get(part) if isinstance(here, Mapping) else None
        )
        name = here.get("name") if isinstance(here, Mapping) else None
        if not part.isdigit():
            found = [
                member
                for model in found
                for key, field in model.model_fields.items()
                if part in (key, field.alias)
                for member in _models_in(field.annotation)
            ]
        named = [model for model in found if name is not None and _accepts(model, name)]
        found = named or found
    return found


def _accepts(model: type[BaseModel], name: str) -> bool:
    field = model.model_fields.get("name")
    return field is not None and name in get_args(field.annotation)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every settings class that can stand where `annotation` stands."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple, list, Annotated):
        for part in get_args(annotation):
            yield from _models_in(part)
