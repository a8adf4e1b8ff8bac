"""A repository of models on the Hugging Face Hub as it is now: its files with their hashes, its manifest, its small files.

Everything goes through the Hub's own client, which finds the token by itself. What is read is kept nowhere.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundup.basis.errors import GroundupError
from groundup.basis.hub import HubRepo, endpoint, hub_errors
from groundup.runs.contents import Present, There
from groundup.runs.publication import MANIFEST, Manifest, read_manifest

MAIN = "main"
_LARGEST = 16 << 20  # bytes of a manifest


@dataclass(frozen=True)
class Remote:
    """A branch of a repository. head: its commit, None without a repository; branch: whether it has this branch; private: whether
    only its owner sees it."""

    repo: HubRepo
    head: str | None = None
    branch: bool = False
    private: bool | None = None
    files: Mapping[str, Present] = field(default_factory=dict)
    manifest: Manifest | None = None

    def read(self, name: str) -> bytes:
        """The content of a file, as it was when the repository was looked at."""
        return _read(self.repo, str(self.head), name)

    def there(self) -> There:
        """As a destination."""
        return There(str(self.repo), self.files, self.manifest, self.read)

    def there_of_mirror(self, names: tuple[str, ...]) -> There:
        """As the mirror of the run that is published. `names`: what a mirror wrote of a run before it wrote manifests."""
        mine = () if self.manifest else tuple(name for name in names if name in self.files)
        return replace(self.there(), mine=mine)


def look(repo: HubRepo) -> Remote:
    """What is there now. A branch that does not exist yet is described by the main branch, from which it will start."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    api = client()
    branch = repo.revision or MAIN
    with hub_errors(f"looking at {repo}"):
        exists = True
        try:
            info = api.model_info(repo.name, revision=branch)
        except RevisionNotFoundError:
            exists = False
            info = api.model_info(repo.name)
        except RepositoryNotFoundError:
            return Remote(repo)
        entries = list(api.list_repo_tree(repo.name, recursive=True, revision=info.sha))
    files = {entry.path: _present(entry) for entry in entries if hasattr(entry, "blob_id")}
    manifest = None
    if MANIFEST in files and files[MANIFEST].size <= _LARGEST:
        manifest = read_manifest(_read(repo, info.sha, MANIFEST).decode(errors="replace"), str(repo))
    return Remote(repo, info.sha, exists, info.private, files, manifest)


def _present(entry: Any) -> Present:
    if entry.lfs is not None:
        return Present(entry.size, sha256=entry.lfs.sha256)
    return Present(entry.size, blob=entry.blob_id)


def _read(repo: HubRepo, head: str, name: str) -> bytes:
    from huggingface_hub import hf_hub_download

    with hub_errors(f"looking at {repo}"), tempfile.TemporaryDirectory(prefix="groundup-") as folder:
        path = hf_hub_download(
            repo.name, name, revision=head, endpoint=endpoint(), library_name="groundup", local_dir=folder
        )
        return Path(path).read_bytes()


def client() -> Any:
    """The Hub's client."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise GroundupError(
            f"huggingface_hub: {error}", hint="it belongs to groundup: install groundup again, with what it needs"
        ) from None
    return HfApi(endpoint=endpoint(), library_name="groundup")
