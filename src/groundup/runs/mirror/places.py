"""Where a mirror keeps one run: a folder behind fsspec (S3, a file system, others) or a repository of the Hugging Face Hub.

A place holds files by name ("checkpoints/step-0000010/state.pt", with `/`). `publish` is the one way to write: the files come
first and the file that makes them count comes last; on the Hub all of it is one commit. Credentials are the client's own
affair: the environment, its configuration files, a role of the machine. What a place raises is whatever its client raises.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from groundup.basis.errors import UsageError, masked
from groundup.basis.hub import endpoint, parse_hub
from groundup.training import mirror_problem

Content = Path | bytes
_CLIENTS = ("huggingface_hub", "httpcore", "requests", "urllib3")
# Seconds. A connection that says nothing for so long is given up; the attempt is then made again.
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60


class NotRemoved(Exception):
    """Everything was written; what should have been taken away stays, because these credentials may not remove."""


class Place(Protocol):
    """The files of one run in a mirror. `url`: its address, for messages."""

    @property
    def url(self) -> str: ...

    def names(self) -> set[str]:
        """Every file there; none if there is nothing yet."""

    def read(self, name: str) -> bytes:
        """The content of a file. FileNotFoundError if there is none of that name."""

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to `target`. FileNotFoundError if there is none of that name."""

    def publish(
        self,
        files: Mapping[str, Content],
        last: tuple[str, bytes] | None = None,
        removed: Iterable[str] = (),
        after: str | None = None,
    ) -> None:
        """Write `files`, then `last`, then take away the files `removed`. `after`: the commit of a repository that must still be
        its newest; a folder has none. NotRemoved if all but the removal was done."""


def check_address(url: str) -> None:
    """UsageError for an address that is no mirror's; what it says does not repeat a password."""
    if problem := mirror_problem(url):
        raise UsageError(f"mirror {without_secrets(url)}: {problem}")


def is_address(text: str) -> bool:
    """Whether `text` is meant as an address and not as a path: it has a scheme."""
    return text.startswith("hf:") or re.match(r"[a-z][a-z0-9+.-]*://", text) is not None


def address_of_run(url: str, name: str) -> str:
    """Where the run folder `name` is kept in the mirror `url`: below it; a repository of the Hub is one run's own."""
    return url if url.startswith("hf:") else f"{url.rstrip('/')}/{name}"


def place_of_run(url: str, name: str) -> Place:
    """The place there."""
    return open_place(address_of_run(url, name))


def open_place(url: str) -> Place:
    """The place at the address of one run. UsageError without the client that it needs."""
    check_address(url)
    if url.startswith("hf:"):
        return HubPlace(url, parse_hub(url).name)
    import fsspec

    protocol = url.partition("://")[0]
    # Nothing is remembered between two calls: another process may have written, and an upload is retried as if it were the first.
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if protocol in ("file", "local"):
        url = url.replace("://~", f"://{Path.home()}", 1)
        options["auto_mkdir"] = True
    elif protocol in ("s3", "s3a"):
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "retries": {"max_attempts": 1},
        }
    try:
        system, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = "; pip install 'groundup[s3]'" if protocol in ("s3", "s3a") else ""
        raise UsageError(f"mirror {url}: the client is missing: {error}{extra}") from error
    except ValueError as error:
        raise UsageError(
            f"mirror {url}: {error}", hint="s3://bucket/prefix, file:///folder or hf:owner/name"
        ) from error
    if protocol in ("s3", "s3a"):
        system.retries = 1  # the mirror itself tries again, and listens to whether the run has ended meanwhile
    return FilesPlace(url, system, root.rstrip("/"))


@dataclass(frozen=True)
class FilesPlace:
    """A folder behind fsspec. Single files may come half written there, so `last` is written when all others have their size."""

    url: str
    system: Any
    root: str

    def names(self) -> set[str]:
        return set(self._sizes())

    def _sizes(self, below: str = "") -> dict[str, int]:
        found = self.system.find(f"{self.root}/{below}".rstrip("/"), detail=True)
        return {name[len(self.root) + 1 :]: entry["size"] for name, entry in found.items()}

    def read(self, name: str) -> bytes:
        content: bytes = self.system.cat_file(f"{self.root}/{name}")
        return content

    def fetch(self, name: str, target: Path) -> None:
        self.system.get_file(f"{self.root}/{name}", str(target))

    def publish(
        self,
        files: Mapping[str, Content],
        last: tuple[str, bytes] | None = None,
        removed: Iterable[str] = (),
        after: str | None = None,
    ) -> None:
        if last is not None and last[0] in self._sizes(last[0].rpartition("/")[0]):
            self._remove([last[0]])  # while files are being replaced they do not count
        for name, content in files.items():
            self._put(name, content)
        if last is not None:
            there = self._sizes(last[0].rpartition("/")[0])
            for name, content in files.items():
                size = len(content) if isinstance(content, bytes) else content.stat().st_size
                if name.startswith(last[0].rpartition("/")[0]) and there.get(name) != size:
                    raise OSError(f"{name}: {there.get(name)} bytes arrived of {size}")
            self._put(*last)
        try:
            self._remove(removed)
        except PermissionError as error:
            raise NotRemoved(in_words(error)) from error

    def _put(self, name: str, content: Content) -> None:
        if isinstance(content, bytes):
            self.system.pipe_file(f"{self.root}/{name}", content)
        else:
            self.system.put_file(str(content), f"{self.root}/{name}")

    def _remove(self, names: Iterable[str]) -> None:
        folders = set()
        for name in names:
            try:
                self.system.rm_file(f"{self.root}/{name}")
            except FileNotFoundError:
                continue
            folders.add(name.rpartition("/")[0])
        for folder in folders - {""}:
            if self.system.protocol == "file" or "file" in self.system.protocol:
                _remove_if_empty(Path(self.root) / folder)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # it holds other files, and stays


@dataclass
class HubPlace:
    """A repository of the Hugging Face Hub, which is made if it is not there: private, for its owner to open."""

    url: str
    repository: str
    _made: bool = False

    @property
    def _api(self) -> Any:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # it happens in the background of something else
        return HfApi(endpoint=endpoint())

    def names(self) -> set[str]:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return set(self._api.list_repo_files(self.repository))
        except RepositoryNotFoundError:
            return set()

    def read(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            self.fetch(name, Path(folder) / "file")
            return (Path(folder) / "file").read_bytes()

    def fetch(self, name: str, target: Path) -> None:
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

        beside = target.with_name(f".{target.name}.hub")
        try:
            # Into a folder of its own: the client's cache is not to fill up with checkpoints.
            got = self._api.hf_hub_download(self.repository, name, local_dir=beside)
            Path(got).replace(target)
        except (EntryNotFoundError, RepositoryNotFoundError) as error:
            raise FileNotFoundError(f"{self.url}: {name}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def publish(
        self,
        files: Mapping[str, Content],
        last: tuple[str, bytes] | None = None,
        removed: Iterable[str] = (),
        after: str | None = None,
    ) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if not self._made:
            self._api.create_repo(self.repository, private=True, exist_ok=True)
            self._made = True
        everything: dict[str, Content] = {**files, **({} if last is None else dict([last]))}
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in everything.items()]
        self._send_twins_once(operations)
        operations += [CommitOperationDelete(name) for name in removed if name not in everything]
        what = last[0].split("/")[1] if last and "/" in last[0] else "the run's files"
        self._api.create_commit(
            self.repository, operations, commit_message=f"mirror: {what}", num_threads=1, parent_commit=after
        )

    def _send_twins_once(self, operations: list[Any]) -> None:
        """The client sends a content as often as it has names: weights, as those of a checkpoint and as what is loaded. What
        the Hub has already it does not send again."""
        first: dict[bytes, Any] = {}
        twins = []
        for operation in operations:
            digest = operation.upload_info.sha256
            if digest in first and first[digest] not in twins:
                twins.append(first[digest])
            first.setdefault(digest, operation)
        if twins:
            self._api.preupload_lfs_files(self.repository, twins, num_threads=1)


def is_mistake(error: BaseException) -> bool:
    """Whether trying again cannot help: no such bucket, no credentials, or none that may write there."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    without = ("NoCredentialsError", "PartialCredentialsError", "LocalTokenNotFoundError")
    return (
        isinstance(error, FileNotFoundError | PermissionError)
        or type(error).__name__ in without
        or status in (401, 403)
    )


def is_of_the_place(error: BaseException) -> bool:
    """Whether it was the Hub that failed, and not what was to be sent: its answer, or the way there."""
    link: BaseException | None = error
    while link is not None:
        library = type(link).__module__.partition(".")[0]
        if isinstance(link, ConnectionError | TimeoutError) or library in _CLIENTS or library.startswith("httpx"):
            return True
        link = link.__cause__
    return False


def in_words(error: BaseException) -> str:
    """What failed, in one line: the error and what it came from, without secrets."""
    said = f"{type(error).__name__}: {without_secrets(error)}".rstrip(": ")
    cause = error.__cause__
    return f"{said} ({type(cause).__name__}: {without_secrets(cause)})" if cause is not None else said


def without_secrets(error: object) -> str:
    """An error or address in one line, without what may be secret in it: a user with a password, the signature of an address."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return masked(text)[:300]
