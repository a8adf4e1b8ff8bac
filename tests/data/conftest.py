"""Small sources of every kind, made on the spot, and a cache of its own for each test."""

import http.server
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _picture(seed: int, width: int = 6, height: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """picture(seed, width, height): random uint8 (height, width, 3)."""
    return _picture


def _png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def png() -> Callable[[np.ndarray], bytes]:
    """png(array): the array as a PNG file."""
    return _png


def _save_folder(root: Path, classes: Sequence[str] = ("cat", "dog"), per_class: int = 3, start: int = 0) -> Path:
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for image in range(per_class):
            (root / name / f"{image}.png").write_bytes(_png(_picture(start + 100 * index + image)))
    return root


@pytest.fixture
def save_folder() -> Save:
    """save_folder(root, classes, per_class, start): root/CLASS/i.png, picture(start + 100 * class + i)."""
    return _save_folder


def _save_parquet(
    path: Path,
    labels: dict[str, Sequence[Any]],
    *,
    names: dict[str, list[str]] | None = None,
    images: Sequence[bytes] | None = None,
    start: int = 0,
) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(next(iter(labels.values())))
    images = images or [_png(_picture(start + index)) for index in range(count)]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": image, "path": None} for image in images], type=image_type)
    table = pa.table({"img": column, **{name: pa.array(values) for name, values in labels.items()}})
    if names is not None:
        classes = {column: {"names": called, "_type": "ClassLabel"} for column, called in names.items()}
        features = {"img": {"_type": "Image"}, **classes}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)
    return path


@pytest.fixture
def save_parquet() -> Save:
    """save_parquet(path, labels by column, names=..., images=..., start=...): a file in the layout of the Hub."""
    return _save_parquet


def _save_tar(path: Path, samples: Sequence[tuple[str, dict[str, bytes]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, files in samples:
            for extension, content in files.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def save_tar() -> Save:
    """save_tar(path, [(name, {extension: content})]): a tar shard as the library webdataset reads it."""
    return _save_tar


class Served:
    """A web server on loopback. `asked`: what was asked of it; `failures`: how many next GETs of shards are answered by 503;
    `secretive`: it answers 403 for what is not there, as S3 does for those who may not list."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.failures = 0
        self.secretive = False
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if outer.failures and self.path.endswith((".tar", ".parquet")):
                    outer.failures -= 1
                    self.send_error(503)
                elif outer.secretive and not Path(self.translate_path(self.path)).is_file():
                    self.send_error(403)
                else:
                    super().do_GET()

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def served() -> Iterator[Callable[[Path], Served]]:
    """served(folder): a web server on loopback for the files of a folder."""
    running: list[Served] = []

    def serve(folder: Path) -> Served:
        running.append(Served(folder))
        return running[-1]

    yield serve
    for server in running:
        server.close()
