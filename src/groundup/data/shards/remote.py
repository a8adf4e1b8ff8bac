"""Files by address: local paths, http(s)://, s3://, hf:// and what else fsspec knows. Listed, described, copied; with retries.

A pattern is a path or URL, possibly with braces (`{000..099}`, `{a,b}`) or, where files can be listed, with `*`.
Passwords come from fsspec's own configuration and the environment, never from the address.
"""

import errno
import glob
import itertools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from groundup.basis.errors import DataError, GroundupError, UsageError

TRIES = 4
FIRST_WAIT = 0.5  # seconds before the second try; doubled after each
SILENCE = 60.0  # seconds without a byte after which a web server or a bucket is given up
_S3, _ONCE = ("s3", "s3a"), {"total_max_attempts": 1}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_STAMPS = (
    *("blob_id", "ETag", "etag", "Content-MD5", "Digest"),
    *("LastModified", "Last-Modified", "mtime", "last_modified"),
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class FileFacts:
    """`size` in bytes; `stamp` changes when the file does (modification time, ETag or checksum, as the place has it)."""

    url: str
    size: int
    stamp: str


def is_remote(url: str) -> bool:
    """Whether `url` has to be fetched before it can be read at any place."""
    return "://" in url


def joined(folder: str, name: str) -> str:
    """The address of `name` in `folder`."""
    return f"{folder.rstrip('/')}/{name}" if folder.rstrip("/") else f"/{name}"


def parent(url: str) -> str:
    """The folder that a file lies in."""
    head, slash, _ = url.rpartition("/")
    return head if slash else "."


def expanded(pattern: str) -> list[str]:
    """The addresses that a pattern with braces stands for, in order."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    inside = match[1]
    if counted := _RANGE.fullmatch(inside):
        first, last = counted.groups()
        if int(last) < int(first):
            raise UsageError(f"{{{inside}}}: the first number is larger than the last", hint=f"{{{last}..{first}}}")
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = inside.split(",")
    heads = (pattern[: match.start()] + choice for choice in choices)
    tails = expanded(pattern[match.end() :])
    return [head + tail for head, tail in itertools.product(heads, tails)]


def matching(pattern: str) -> list[str]:
    """The files that a pattern with `*` stands for, sorted."""
    if not is_remote(pattern):
        return sorted(
            glob.glob(re.sub(r"[\[?]", r"[\g<0>]", str(Path(pattern).expanduser())))
        )  # only * stands for others

    def listing() -> list[str]:
        filesystem, path = _filesystem(pattern)
        return [str(filesystem.unstrip_protocol(found)) for found in sorted(filesystem.glob(path))]

    return with_retries(pattern, listing)


def facts(url: str) -> FileFacts:
    """Size and stamp of a file. DataError if it is not there."""
    if not is_remote(url):
        try:
            status = Path(url).stat()
        except OSError as error:
            raise missing(url) from error
        return FileFacts(url, status.st_size, str(status.st_mtime_ns))
    info = with_retries(url, lambda: _info(url))
    if info.get("size") is None:
        raise DataError(f"{url}: the server does not say how large the file is", hint="copy the files to a disk")
    known = (info.get(key) for key in _STAMPS)
    return FileFacts(url, int(info["size"]), next((str(value) for value in known if value), ""))


def _info(url: str) -> dict[str, Any]:
    filesystem, path = _filesystem(url)
    filesystem.invalidate_cache()
    return dict(filesystem.info(path))


def contents(url: str) -> bytes | None:
    """A small file; None if it is not there."""
    if not is_remote(url):
        path = Path(url).expanduser()
        return path.read_bytes() if path.is_file() else None

    def read() -> bytes:
        filesystem, path = _filesystem(url)
        return bytes(filesystem.cat_file(path))

    try:
        return with_retries(url, read)
    except MissingFile:
        return None


def fetch(url: str, place: Path, size: int) -> None:
    """Copy a remote file of `size` bytes to `place`. OSError, at once, if this machine cannot keep it."""

    def copy() -> OSError | None:
        filesystem, path = _filesystem(url)
        try:
            filesystem.get_file(path, str(place))
        except OSError as error:
            if _is_of_this_machine(error, place):
                return error
            raise
        if (got := place.stat().st_size) != size:
            raise OSError(f"it ended after {got} of {size} bytes")
        return None

    if error := with_retries(url, copy):
        raise error


def _is_of_this_machine(error: OSError, place: Path) -> bool:
    """Whether `place` could not be written, and not the server be read: a full disk, or an error that names the place."""
    return error.errno in _NO_ROOM or str(error.filename) in map(str, (place, *place.parents))


def opened(url: str) -> Any:
    """A file object that can be read at any place; remote parts are fetched as they are needed."""
    if not is_remote(url):
        return open(url, "rb")
    filesystem, path = _filesystem(url)
    return filesystem.open(path, "rb")


class MissingFile(DataError):
    """There is no such file."""


class RefusedFile(DataError):
    """We may not read it; some servers say so of files that are not there."""


def missing(url: str) -> MissingFile:
    """The error for a file that is not there."""
    return MissingFile(f"{url}: there is no such file", hint="check the address, and that all shards were copied")


def with_retries(url: str, work: Callable[[], _T]) -> _T:
    """`work()`, tried again after a failure of the network or the server, `TRIES` times with growing pauses."""
    waits: Iterator[float] = (FIRST_WAIT * 2**number for number in range(TRIES - 1))
    while True:
        try:
            return work()
        except GroundupError:
            raise
        # The libraries below fsspec have no common class: aiohttp, botocore, requests and asyncio each raise their own.
        except Exception as failure:
            error = _real(failure)
            if isinstance(error, FileNotFoundError) or _status(error) in (404, 410):
                raise missing(url) from failure
            if isinstance(error, PermissionError) or _status(error) in (401, 403):
                raise RefusedFile(f"{url}: access was refused", hint="give credentials to this machine") from failure
            wait = next(waits, None)
            if wait is None:
                said = str(error) or type(error).__name__
                raise DataError(
                    f"{url} could not be read, tried {TRIES} times: {said}", hint="check the network and the server"
                ) from failure
            time.sleep(wait)


def _real(failure: Exception) -> Exception:
    """What went wrong: fsspec calls a file missing that it could not ask for, and keeps the reason as the cause."""
    cause = failure.__cause__
    return cause if isinstance(failure, FileNotFoundError) and isinstance(cause, Exception) else failure


def _status(error: Exception) -> int | None:
    """The answer of a web server, if it gave one."""
    return getattr(error, "status", None)


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(url, **_patience(url))
    except ImportError as error:
        extra = "s3" if url.startswith("s3") else None
        hint = f"pip install 'groundup[{extra}]'" if extra else str(error)
        raise UsageError(f"{url}: a package that reads such addresses is not installed", hint=hint) from error
    except ValueError as error:
        raise UsageError(f"{url}: {error}", hint="allowed are local paths, http(s)://, s3:// and hf://") from error
    if url.partition("://")[0] in _S3:
        filesystem.retries = 1
    return filesystem, path


def _patience(url: str) -> dict[str, Any]:
    """How long a server may take: as long as bytes come. The library for the web would end any transfer after five minutes, that
    for S3 would try several times by itself, at two places."""
    from fsspec.config import conf

    protocol = url.partition("://")[0]
    own: dict[str, Any]
    if protocol in ("http", "https"):
        import aiohttp

        name = "client_kwargs"
        own = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)}
    elif protocol in _S3:
        name = "config_kwargs"
        own = {"connect_timeout": SILENCE, "read_timeout": SILENCE, "retries": _ONCE}
    else:
        return {}
    return {name: {**own, **conf.get(protocol, {}).get(name, {})}}
