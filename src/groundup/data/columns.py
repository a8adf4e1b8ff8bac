"""Image and label columns of Arrow tables, as the Hub lays them out: found or named, and read.

Columns are described by the Hub's features, `{column: {"_type": "Image"}}` or `{"_type": "ClassLabel", "names":
[...]}` (https://huggingface.co/docs/datasets/about_dataset_features), which its Parquet files carry in the schema
metadata under `huggingface`. Without them an image is a struct with `bytes` or a binary column, a label is a
whole-number or string column.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundup.basis.errors import DataError, UsageError, listed, nearest
from groundup.data.labels import MISSING
from groundup.data.settings import DataSettings
from groundup.data.sources import RawImage, array_of_objects

_LABEL_WORDS = ("label", "labels", "class", "target", "category", "y")


@dataclass(frozen=True)
class Columns:
    """The chosen columns; `names` are the class names if the label column has them."""

    image: str
    label: str
    names: list[str] | None


@dataclass(frozen=True)
class LabelColumns:
    """The columns of a training split: its `pyarrow.Schema`, the Hub's features, and what reads a label column as an array (N,)."""

    schema: Any
    features: dict[str, Any]
    read: Callable[[str], np.ndarray]

    def names(self, column: str) -> list[str] | None:
        """The class names of a column, None if it has none."""
        feature: Any = self.features.get(column)
        return list(feature["names"]) if _is(feature, "ClassLabel") else None


def features_of(schema: Any) -> dict[str, Any]:
    """The Hub's features in the metadata of an Arrow schema, or {} if there are none."""
    text = (schema.metadata or {}).get(b"huggingface")
    return dict(json.loads(text).get("info", {}).get("features", {})) if text else {}


def find_columns(schema: Any, features: dict[str, Any], settings: DataSettings) -> Columns:
    """The image and label column of a `pyarrow.Schema`: the named ones, else the only ones it can be."""
    image = _named(settings, "image", schema)
    if image is None:
        image = _found(settings, "image", _image_candidates(schema, features), schema)
    else:
        _require_images(image, schema, features)
    others = [name for name in schema.names if name != image]
    label = _named(settings, "label", schema) or _found(
        settings, "label", _label_candidates(schema, features, others), schema
    )
    if image == label:
        raise UsageError(f"data.label={label!r}: that column holds the image; columns: {listed(schema.names)}")
    feature: Any = features.get(label)
    return Columns(image, label, list(feature["names"]) if _is(feature, "ClassLabel") else None)


def _named(settings: DataSettings, key: str, schema: Any) -> str | None:
    name: str | None = getattr(settings, key)
    if name is None or name in schema.names:
        return name
    near = nearest(name, schema.names)
    raise UsageError(
        f"data.{key}={name!r}: {settings.source} has no such column; columns: {listed(schema.names)}",
        hint=f"did you mean {near!r}?" if near else None,
    )


def _require_images(name: str, schema: Any, features: dict[str, Any]) -> None:
    """UsageError if the column called `name` can hold no images: read as such, each of its rows would look damaged."""
    field = schema.field(name)
    if _is(features.get(name), "Image") or _has_bytes(field) or _is_binary(field):
        return
    others = _image_candidates(schema, features)
    raise UsageError(
        f"data.image={name!r}: that column holds {field.type}, no encoded images; "
        + (f"columns that hold some: {listed(others)}" if others else f"columns: {listed(schema.names)}"),
        hint=f"did you mean data.image={others[0]}?" if len(others) == 1 else None,
    )


def _found(settings: DataSettings, key: str, candidates: list[str], schema: Any) -> str:
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise UsageError(
            f"data.{key}: no column of {settings.source} looks like the {key}; columns: {listed(schema.names)}",
            hint=f"name it with data.{key}=COLUMN",
        )
    raise UsageError(
        f"data.{key}: several columns of {settings.source} could be the {key}: {listed(candidates)}",
        hint=f"name one, e.g. data.{key}={candidates[0]}",
    )


def _is(feature: Any, kind: str) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == kind


def _image_candidates(schema: Any, features: dict[str, Any]) -> list[str]:
    declared = [name for name in schema.names if _is(features.get(name), "Image")]
    structs = [field.name for field in schema if _has_bytes(field)]
    binary = [field.name for field in schema if _is_binary(field)]
    return declared or structs or binary


def _has_bytes(field: Any) -> bool:
    """Whether a column is a struct with the images' bytes in it, as the Hub stores them."""
    import pyarrow as pa

    return pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0


def _is_binary(field: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)


def _label_candidates(schema: Any, features: dict[str, Any], names: list[str]) -> list[str]:
    import pyarrow as pa

    if declared := [name for name in names if _is(features.get(name), "ClassLabel")]:
        return declared
    fitting = (
        pa.types.is_integer,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_boolean,
        pa.types.is_dictionary,
    )
    plain = [name for name in names if any(fits(schema.field(name).type) for fits in fitting)]
    called_so = [name for name in plain if name.lower() in _LABEL_WORDS]
    return called_so if len(called_so) == 1 else plain


def label_values(column: Any) -> np.ndarray:
    """A label column (`pyarrow.ChunkedArray`) as an array (N,): int64 with -1 for null, or objects (str or None)."""
    import pyarrow as pa

    if pa.types.is_null(column.type):
        return np.full(len(column), MISSING, dtype=np.int64)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return np.asarray(column.cast(pa.int64()).fill_null(MISSING).to_numpy())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return array_of_objects(column.to_pylist())
    raise DataError(
        f"labels are whole numbers or names; the label column holds {column.type}", hint="name another with data.label"
    )


def image_values(column: Any, folder: Path | None) -> Iterator[RawImage]:
    """The images of an image column (Array or ChunkedArray): encoded bytes, or a path where only that is stored."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(column.type):
        yield from (value or b"" for value in column.to_pylist())
        return
    contents = pc.struct_field(column, "bytes").to_pylist()
    has_paths = column.type.get_field_index("path") >= 0
    paths = pc.struct_field(column, "path").to_pylist() if has_paths else [None] * len(contents)
    for content, path in zip(contents, paths, strict=True):
        if content is None and path:
            yield (folder / path) if folder else Path(path)
        else:
            yield content or b""
