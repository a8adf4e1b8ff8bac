"""What a number is called where it is drawn over the steps: the same in TensorBoard and in Weights & Biases.

`train/loss`, `train/top1`, `speed/images_per_second` and `live/lr`, `live/momentum` ... from steps; `validation/...`,
`average_validation/...`, `train_mean/...` (the mean since the last evaluation) and `evaluation/...` (what has no split) from
evaluations; `test/...` once, from the result. In a run that chooses on the test split, `validation` is called `test_optimistic`.
While images are mixed the training accuracy counts shares of labels: it is then called `top1_mixed`, and never drawn into one
curve with the plain one.
"""

import contextlib

from groundup.tracking.base import Record

_TRAIN = ("loss", "top1")
_POSITION = ("step", "epoch", "seconds")  # told by the step axis and the wall time
_GROUPS = {
    "train": "train_mean",
    "validation": "validation",
    "average_validation": "average_validation",
    "test": "test",
}


class ScalarNames:
    """Names the numbers of records. It remembers which settings are live: an evaluation does not draw them again."""

    def __init__(self) -> None:
        self._live: set[str] = set()

    def step(self, record: Record) -> dict[str, float]:
        """The numbers of a step by name."""
        numbers = _numbers(record)
        live = [key for key in numbers if key not in (*_TRAIN, "images_per_second")]
        self._live.update(live)
        named = {f"train/{_labelled(key, record)}": numbers[key] for key in _TRAIN if key in numbers}
        if "images_per_second" in numbers:
            named["speed/images_per_second"] = numbers["images_per_second"]
        return named | {f"live/{key}": numbers[key] for key in live}

    def evaluation(self, record: Record) -> dict[str, float]:
        """The numbers of an evaluation by name."""
        named = {}
        for key, number in _numbers(record).items():
            group, _, rest = key.rpartition("_")
            if group in _GROUPS:
                name = _GROUPS[group]
                if record.get("validation_is_test"):
                    name = name.replace("validation", "test_optimistic")
                named[f"{name}/{_labelled(rest, record) if group == 'train' else rest}"] = number
            elif key not in self._live and key != "images_per_second":
                named[f"evaluation/{key}"] = number
        return named


def is_mixed(record: Record) -> bool:
    """Whether images were mixed in what a record of training shows."""
    return bool(record.get("mixed"))


def _labelled(key: str, record: Record) -> str:
    return "top1_mixed" if key == "top1" and is_mixed(record) else key


def _numbers(record: Record) -> dict[str, float]:
    """The numbers of `record` by key, without its position in the run."""
    numbers: dict[str, float] = {}
    for key, value in record.items():
        if key not in _POSITION and not isinstance(value, bool | str):
            with contextlib.suppress(TypeError, ValueError, RuntimeError):  # None, lists, tensors of several numbers
                numbers[key] = float(value)
    return numbers
