"""A second, coarser label beside the first: read from the two columns, or not there."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from groundup.data import DataSettings
from groundup.data.superclasses import read_superclasses

FINE = ["apple", "pear", "shark", "whale"]
COARSE = ["fish", "fruit"]


def write(folder: Path, fine: list[int], coarse: list[int], second: str = "coarse_label") -> DataSettings:
    """A Parquet file like the Hub's with an image and two labels."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(stream, format="PNG")
    labels = {
        "fine_label": {"_type": "ClassLabel", "names": FINE},
        second: {"_type": "ClassLabel", "names": COARSE},
    }
    table = pa.table(
        {"img": [{"bytes": stream.getvalue(), "path": None}] * len(fine), "fine_label": fine, second: coarse}
    )
    features = {"img": {"_type": "Image"}, **labels}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    return DataSettings(source=f"parquet:{folder}", label="fine_label")


def test_the_superclass_of_every_class_is_read(tmp_path: Path) -> None:
    found = read_superclasses(write(tmp_path, [0, 1, 2, 3, 1], [1, 1, 0, 0, 1]), FINE)
    assert found is not None
    assert found.names == COARSE
    assert found.of_class == [1, 1, 0, 0]


def test_a_class_in_two_superclasses_has_none(tmp_path: Path) -> None:
    assert read_superclasses(write(tmp_path, [0, 1, 2, 3, 1], [1, 1, 0, 0, 0]), FINE) is None


def test_data_without_such_a_column_or_without_columns_has_none(tmp_path: Path) -> None:
    assert read_superclasses(write(tmp_path, [0, 1, 2, 3], [1, 1, 0, 0], second="other"), FINE) is None
    assert read_superclasses(DataSettings(source="digits"), [str(number) for number in range(10)]) is None


def test_a_source_that_is_gone_has_none(tmp_path: Path) -> None:
    assert read_superclasses(DataSettings(source=f"parquet:{tmp_path / 'gone'}", label="fine_label"), FINE) is None
