"""From labels as a source has them (whole numbers or names) to positions in a list of class names.

In: per split an array (N,) of integers or of strings (object or str dtype; None or "" where a label is missing).
Out: class names, and per split int64 (N,), negative where a label is missing.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from groundup.basis.errors import DataError, listed
from groundup.data.sources import SplitName, array_of_objects

MISSING = -1


def encode_labels(
    raw: Mapping[SplitName, np.ndarray], names: Sequence[str] | None
) -> tuple[list[str], dict[SplitName, np.ndarray]]:
    """Positions in `names`; without names the classes are the distinct labels in sorted order (numbers by value)."""
    numeric = {split: _is_numeric(values) for split, values in raw.items() if not _all_missing(values)}
    if len(set(numeric.values())) > 1:
        kinds = listed(f"{split}: {'numbers' if is_number else 'names'}" for split, is_number in numeric.items())
        raise DataError(f"the labels are numbers in one split and names in another ({kinds})")
    if all(numeric.values()):
        whole = {
            split: values.astype(np.int64) if split in numeric else np.full(len(values), MISSING)
            for split, values in raw.items()
        }
        return (list(names), whole) if names is not None else _encode_numbers(whole)
    return _encode_names(
        {split: raw[split] if split in numeric else array_of_objects([None] * len(raw[split])) for split in raw}, names
    )


def _is_numeric(values: np.ndarray) -> bool:
    if values.dtype.kind in "iub":
        return True
    if values.dtype.kind in "OU":
        return False
    raise DataError(f"labels are whole numbers or names, not {values.dtype}", hint="a number to predict is not a class")


def _all_missing(values: np.ndarray) -> bool:
    """A split without labels is neither numbers nor names."""
    return all(value < 0 if isinstance(value, int) else value in (None, "") for value in values.tolist())


def _encode_numbers(raw: Mapping[SplitName, np.ndarray]) -> tuple[list[str], dict[SplitName, np.ndarray]]:
    distinct = np.unique(np.concatenate(list(raw.values())))
    distinct = distinct[distinct >= 0]
    encoded = {split: np.where(values < 0, values, np.searchsorted(distinct, values)) for split, values in raw.items()}
    return [str(value) for value in distinct], encoded


def _encode_names(
    raw: Mapping[SplitName, np.ndarray], names: Sequence[str] | None
) -> tuple[list[str], dict[SplitName, np.ndarray]]:
    found = {str(value) for values in raw.values() for value in values if value not in (None, "")}
    classes = list(names) if names is not None else sorted(found)
    if unknown := sorted(found - set(classes)):
        raise DataError(f"labels that are no class: {listed(unknown, 10)}; classes: {listed(classes, 10)}")
    position = {name: index for index, name in enumerate(classes)}
    encoded = {
        split: np.array(
            [position.get(str(value), MISSING) if value is not None else MISSING for value in values], dtype=np.int64
        )
        for split, values in raw.items()
    }
    return classes, encoded
