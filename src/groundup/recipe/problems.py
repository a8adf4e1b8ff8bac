"""Pydantic's findings, told to a person: key, value, what is allowed, the nearest known name. All problems at once."""

import re
import reprlib
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from groundup.basis.errors import UsageError, listed, masked, nearest
from groundup.data.settings import FORMS
from groundup.recipe.schema import Recipe

# A value is shown short: YAML's aliases let a small file stand for gigabytes of text.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, 120, 120


def explain(
    error: ValidationError, values: Mapping[str, Any], root: type[BaseModel] = Recipe, what: str = "recipe"
) -> UsageError:
    """One UsageError for everything that is wrong with `values`, the recipe (or another `root`) before validation."""
    lines: list[str] = []
    hints: list[str] = []
    told: dict[str, int] = {}  # the line of each value
    for finding in _of_fitting_members(error.errors(), values, root):
        line, hint = _explain_one(finding, values, root, what)
        value = f"{'.'.join(_keys_without_tags(finding['loc'], values, root)[0])}={_short(finding['input'])}: "
        if value in told and line.startswith(value):  # what another kind of value would have to be
            lines[told[value]] += f"; or {line.removeprefix(value)}"
        else:
            told[value] = len(lines)
            lines.append(line)
        if hint:
            hints.append(hint)
    head = "" if len(lines) == 1 else f"the {what} has {len(lines)} problems:\n  "
    return UsageError(head + "\n  ".join(lines), hint="; ".join(dict.fromkeys(hints)) or None)


def _explain_one(finding: Any, values: Mapping[str, Any], root: type[BaseModel], what: str) -> tuple[str, str | None]:
    keys, _ = _keys_without_tags(finding["loc"], values, root)
    key, parent = ".".join(keys), keys[:-1]
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = known_keys(parent, values, root)
        near = nearest(keys[-1], allowed)
        dotted = ".".join([*parent, near]) if near else None
        if deeper := [
            name for name in allowed if name.startswith(f"{keys[-1]}.")
        ]:  # of a phase: keys with dots in them
            return (
                f"{key}={_short(finding['input'])}: unknown key; allowed in {'.'.join(parent)}: {listed(allowed)}",
                f"write {'.'.join(parent)}={{{deeper[0]}: ...}}",
            )
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
    if kind == "tuple_type":
        return _no_list(key, finding["input"], _names_at(keys, values, root))
    if kind == "string_type" and isinstance(finding["input"], Mapping) and len(finding["input"]) == 1:
        return _no_text(key, *next(iter(finding["input"].items())))
    message = finding["msg"].removeprefix("Value error, ")
    if kind == "value_error" and isinstance(finding["input"], Mapping) and finding["input"]:
        return _of_a_section(key, message, known_keys(keys, values, root)), None
    return f"{key}={_short(finding['input'])}: {message[:1].lower()}{message[1:]}", None


def _no_list(key: str, value: Any, names: list[str]) -> tuple[str, str | None]:
    said = f"{key}={_short(value)}: needs a list, in brackets"
    if isinstance(value, Mapping):
        return said, f"write {key}=[{{...}}]"
    if isinstance(value, str):
        return said, f"write {key}=[{{name: {value}}}]" if value in names else f"write {key}=[{value}]"
    return said, f"an empty list is {key}=[]" if value is None else None


def _no_text(key: str, before: Any, after: Any) -> tuple[str, str | None]:
    """A text such as `folder:` or `folder: x`, of which YAML has made a mapping."""
    written = f"{before}:" if after is None else f"{before}: {after}"
    if after is None and key == "data.source" and before in FORMS:
        return f"{key}={written!r}: is incomplete", f"write {key}={FORMS[before]}"
    said = f"{key}={_short(written)}: needs a text; with a colon at its end or before a space it is a mapping in YAML"
    return said, f"write {key}={before}:{'...' if after is None else after}"


def _of_a_section(key: str, message: str, allowed: list[str]) -> str:
    """A problem between the keys of a section: told of the key that it begins with, not of everything in the section."""
    if (first := re.match(r"([\w.]+)[=:]", message)) and first[1] in allowed:
        return f"{key}.{message}"
    return message if message.startswith(f"{key}.") else f"{key}: {message}"


def _short(value: Any) -> str:
    return masked(_REPR.repr(value))


def _of_fitting_members(findings: list[Any], values: Mapping[str, Any], root: type[BaseModel]) -> list[Any]:
    """Of a value that may be a number or a list, what is wrong with what was written: pydantic tells of both."""
    kept = []
    members = [_keys_without_tags(finding["loc"], values, root)[1] for finding in findings]
    for finding, member in zip(findings, members, strict=True):
        others = [other for other in members if member and other and other[0] == member[0]]
        fits = member is not None and (member[1].startswith("tuple[") == member[2])
        if fits or not any(other[1].startswith("tuple[") == other[2] for other in others):
            kept.append(finding)
    return kept


def _keys_without_tags(
    location: tuple[int | str, ...], values: Any, root: type[BaseModel]
) -> tuple[list[str], tuple[list[str], str, bool] | None]:
    """The path of a finding in the recipe's own keys: pydantic puts the name of the union's member into it.

    Also, where it is a union of plain types, that member: the path before it, its name (`int`, `tuple[float, float]`), and whether
    the value is a list.
    """
    keys: list[str] = []
    member, everything = None, values
    for part in location:
        if isinstance(part, str) and not (isinstance(values, Mapping) and part in values):
            if isinstance(values, Mapping) and values.get("name") == part:
                continue
            if not isinstance(values, Mapping) or part not in known_keys(keys, everything, root):
                member = (list(keys), part, isinstance(values, list | tuple))
                continue
        keys.append(str(part))
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
    return keys, member


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
