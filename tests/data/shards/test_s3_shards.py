"""Shards in an S3 bucket, asked over real HTTP of a server on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from groundup.basis.errors import DataError
from groundup.data import DataSettings, load_splits
from groundup.data.pack import PackSettings, pack

Save = Callable[..., Path]
Picture = Callable[..., np.ndarray]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("images")
    yield "s3://images"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_packed_and_plain_shards_are_read_from_a_bucket(
    bucket: str, tmp_path: Path, save_folder: Save, picture: Picture
) -> None:
    import s3fs

    save_folder(tmp_path / "x" / "train", per_class=5)
    pack(DataSettings(source=f"folder:{tmp_path / 'x' / 'train'}"), tmp_path / "packed", PackSettings(shard_mb=0.01))
    here = load_splits(DataSettings(source=f"webdataset:{tmp_path / 'packed'}"))
    s3fs.S3FileSystem().put(str(tmp_path / "packed"), "images/packed", recursive=True)
    for source in (f"{bucket}/packed", f"{bucket}/packed/train-*.tar", f"{bucket}/packed/train-{{000000..000001}}.tar"):
        there = load_splits(DataSettings(source=f"webdataset:{source}"))
        np.testing.assert_array_equal(there.train.labels, here.train.labels)
        np.testing.assert_array_equal(there.train.read(np.arange(8)), here.train.read(np.arange(8)))
    s3fs.S3FileSystem().rm("images/packed/train-000001.tar")
    with pytest.raises(DataError, match=r"s3://images/packed/train-000001\.tar: there is no such file"):
        load_splits(DataSettings(source=f"webdataset:{bucket}/packed"))
