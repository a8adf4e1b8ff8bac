"""The door `hub:OWNER/NAME`: a dataset of the Hugging Face Hub, downloaded and kept by the library `datasets`.

`hub:OWNER/NAME:CONFIG` is one of its configurations, `?streaming` after either reads its Parquet files shard by shard
(`shards.parquet`) and downloads nothing beforehand.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from groundup.basis.errors import DataError, listed
from groundup.data.columns import LabelColumns, find_columns, image_values, label_values
from groundup.data.labels import encode_labels
from groundup.data.settings import DataSettings
from groundup.data.shards.parquet import open_parquet_shards
from groundup.data.sources import Contents, RawImage, Source, SourceSplit, SplitName, digest, split_called

_ROWS_AT_ONCE = 256


def open_hub(settings: DataSettings, check: Callable[[], None]) -> Source:
    """The source behind `hub:OWNER/NAME`. Its fingerprint is that of the downloaded splits."""
    if settings.streaming:
        files, notes = _chosen(_files_of(settings, check), settings)
        return open_parquet_shards(files, settings, check, notes)
    by_split, notes = _by_split(settings, check)
    state = [[split, dataset._fingerprint] for split, dataset in sorted(by_split.items())]
    return Source(digest(["hub", state]), lambda: _read(by_split, notes, settings), root=settings.source)


def hub_labels(settings: DataSettings, check: Callable[[], None]) -> LabelColumns:
    """The columns of the training split, of which those with labels can be read without the images."""
    train = _by_split(settings, check)[0]["train"]
    return LabelColumns(
        train.features.arrow_schema, train.features.to_dict(), lambda column: _label_column(train, column)
    )


def _by_split(settings: DataSettings, check: Callable[[], None]) -> tuple[dict[SplitName, Any], list[str]]:
    return _chosen(_load(settings, check), settings)


def _chosen(loaded: dict[Any, Any], settings: DataSettings) -> tuple[dict[SplitName, Any], list[str]]:
    """Of everything that the dataset calls a split, those that we know; and notes on the others."""
    by_split: dict[SplitName, Any] = {}
    notes = []
    for name, dataset in loaded.items():
        split = split_called(str(name))
        if split is None or split in by_split:
            notes.append(f"the split {name!r} of the dataset is not read")
        else:
            by_split[split] = dataset
    if "train" not in by_split:
        raise DataError(f"data.source={settings.source!r} has no training split; splits: {listed(map(str, loaded))}")
    return by_split, notes


def _label_column(dataset: Any, column: str) -> np.ndarray:
    return label_values(dataset.select_columns([column]).with_format("arrow")[:].column(0))


def _load(settings: DataSettings, check: Callable[[], None]) -> dict[Any, Any]:
    from datasets import load_dataset

    name, config = _name_and_config(settings)
    return dict(_asked(lambda: load_dataset(name, config), settings, check))


def _files_of(settings: DataSettings, check: Callable[[], None]) -> dict[Any, list[str]]:
    """The Parquet files of each split: addresses, with the revision that the Hub has now."""
    from datasets import load_dataset_builder

    name, config = _name_and_config(settings)
    builder = _asked(lambda: load_dataset_builder(name, config), settings, check)
    files = {split: list(urls) for split, urls in (builder.config.data_files or {}).items()}
    if other := [url for urls in files.values() for url in urls if not url.endswith(".parquet")]:
        raise DataError(
            f"data.source={settings.source!r}: only Parquet files can be streamed, and there is {other[0]}",
            hint=f"use hub:{settings.place}, which downloads them, or pack it with `groundup data pack`",
        )
    return files


def _name_and_config(settings: DataSettings) -> tuple[str, str | None]:
    name, _, config = settings.place.partition(":")
    return name, config or None


def _asked(work: Callable[[], Any], settings: DataSettings, check: Callable[[], None]) -> Any:
    try:
        return _while_checking(work, check)
    except _LoadFailed as failed:
        name, config = _name_and_config(settings)
        raise DataError(
            f"data.source={settings.source!r} could not be loaded: {failed.__cause__}",
            hint=f"check the name on https://huggingface.co/datasets/{name}"
            + (f", that it has a configuration {config!r}," if config else "")
            + " and the network; or download its Parquet files and use parquet:DIR",
        ) from failed.__cause__


class _LoadFailed(Exception):
    """Wraps whatever `datasets` raised: it has no common class for its errors."""


def _while_checking(work: Callable[[], Any], check: Callable[[], None]) -> Any:
    """`work()` in a thread while `check` is asked 5 times a second: a long download must not make a run deaf."""
    outcome: list[Any] = []
    failure: list[Exception] = []

    def target() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            failure.append(error)

    # A daemon, so that an interrupted run can end; an unfinished download is picked up or thrown away by `datasets`.
    thread = threading.Thread(target=target, name="groundup-hub", daemon=True)
    thread.start()
    while thread.is_alive():
        check()
        thread.join(0.2)
    if failure:
        raise _LoadFailed from failure[0]
    return outcome[0]


def _read(datasets: dict[SplitName, Any], notes: list[str], settings: DataSettings) -> Contents:
    train = datasets["train"]
    columns = find_columns(train.features.arrow_schema, train.features.to_dict(), settings)
    raw = {}
    for split, dataset in datasets.items():
        if columns.label not in dataset.column_names or columns.image not in dataset.column_names:
            raise DataError(
                f"{settings.source}: split {split} lacks {columns.image!r} or {columns.label!r}; "
                f"it has {listed(dataset.column_names)}"
            )
        raw[split] = _label_column(dataset, columns.label)
    classes, labels = encode_labels(raw, columns.names)
    splits = {
        split: SourceSplit(labels[split], _images(dataset, columns.image), _namer(split), _at(dataset, columns.image))
        for split, dataset in datasets.items()
    }
    return Contents(classes, splits, notes)


def _images(dataset: Any, column: str) -> Callable[[], Iterator[RawImage]]:
    def images() -> Iterator[RawImage]:
        for table in _encoded(dataset, column).iter(_ROWS_AT_ONCE):
            yield from image_values(table.column(0), None)

    return images


def _at(dataset: Any, column: str) -> Callable[[np.ndarray], list[RawImage]]:
    # `datasets` maps its files into memory: only the rows that are asked for are read.
    return lambda positions: list(image_values(_encoded(dataset, column)[positions.tolist()].column(0), None))


def _encoded(dataset: Any, column: str) -> Any:
    """The image column alone. In the Arrow format nothing is decoded by `datasets`: the encoded bytes pass through."""
    return dataset.select_columns([column]).with_format("arrow")


def _namer(split: SplitName) -> Callable[[int], str]:
    return lambda index: f"{split} row {index}"
