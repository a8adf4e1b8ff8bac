"""Errors that a user can act on.

Every message names the key or file, the value that was seen, what is allowed, and (on a `hint:` line) the fix.
`UsageError` is a mistake of the caller (exit status 2); every other `GroundupError` is an error of the run (exit status 1).
"""

import difflib
import re
from collections.abc import Iterable, Sequence

_LESS_MEMORY = (
    "in order: set train.micro_batch to a part of train.batch_size (the same steps in smaller pieces), "
    "train.precision=bf16 (or fp16), data.cache=host or disk if the data fills the memory, a smaller "
    "evaluate.batch_size if it happened in an evaluation, a smaller train.batch_size (with its learning rate)"
)


class GroundupError(Exception):
    """An error of the run. `hint` says what to do about it; it is printed on a line of its own."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(GroundupError):
    """A mistake of the caller: a bad recipe, key, value or path."""

    exit_code = 2


class DataError(GroundupError):
    """The data cannot be used as it is: a missing folder, a damaged image, a class without images."""


class CheckpointError(GroundupError):
    """A checkpoint is damaged, missing, or does not belong to this run."""


class OutOfMemory(GroundupError):
    """The memory of the accelerator or of the machine does not hold the run. Without a hint of its own it says what helps."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or _LESS_MEMORY)


def masked(text: str) -> str:
    """`text` without what may be secret in the addresses in it: a user with a password, a query such as a signature."""
    text = re.sub(r"://[^/\s]*@", "://***@", text)
    return re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]+", r"\1?***", text)


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The entry of `allowed` that looks most like `name`, or None if nothing is close."""
    return next(iter(nearest_names(name, allowed, 1)), None)


def nearest_names(name: str, allowed: Iterable[str], count: int) -> list[str]:
    """Up to `count` entries of `allowed` that look like `name`, the most alike first; none if nothing is close."""
    by_lower = {entry.lower(): entry for entry in allowed}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=count, cutoff=0.55)
    return [by_lower[entry] for entry in found]


def listed(names: Iterable[str], limit: int = 80) -> str:
    """`names` as a comma-separated list, cut after `limit` entries."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return f"{shown}, ... ({len(names) - limit} more)" if len(names) > limit else shown


def unknown_name(key: str, value: str, allowed: Sequence[str], *, what: str = "unknown value") -> UsageError:
    """The error for a name that is not in a family, with the nearest one as hint."""
    near = nearest(value, allowed)
    return UsageError(
        f"{key}={value!r}: {what}; allowed: {listed(allowed)}",
        hint=f"did you mean {near!r}?" if near else None,
    )
