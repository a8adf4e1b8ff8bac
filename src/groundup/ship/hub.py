"""A repository of models on the Hugging Face Hub: looking at it, and changing it in one commit.

Everything goes through the Hub's own client, which finds the token (HF_TOKEN, or its login) by itself. Nothing here
reads, keeps or prints one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.hub import HubRepo, endpoint, hub_errors
from groundup.runs.publication import MANIFEST, Manifest, read_manifest
from groundup.ship.contents import Changes, Content, Present

MAIN = "main"


@dataclass(frozen=True)
class Remote:
    """A branch of a repository. head: its commit, None without a repository; branch: whether it has this branch;
    private: whether only
    its owner sees it."""

    head: str | None = None
    branch: bool = False
    private: bool | None = None
    files: Mapping[str, Present] = field(default_factory=dict)
    manifest: Manifest | None = None


def require_token() -> None:
    """UsageError if the Hub's client has no token."""
    from huggingface_hub import get_token

    if not get_token():
        raise UsageError(
            "publishing to the Hub needs a token",
            hint="`hf auth login`, or HF_TOKEN; one that may write is made at https://huggingface.co/settings/tokens",
        )


def look(repo: HubRepo) -> Remote:
    """What is there now. A branch that does not exist yet is described by the main branch, from which it will start."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    api = _api()
    branch = repo.revision or MAIN
    with hub_errors(f"looking at {repo}"):
        exists = True
        try:
            info = api.model_info(repo.name, revision=branch)
        except RevisionNotFoundError:
            exists = False
            info = api.model_info(repo.name)
        except RepositoryNotFoundError:
            return Remote()
        entries = list(api.list_repo_tree(repo.name, recursive=True, revision=info.sha))
    files = {entry.path: _present(entry) for entry in entries if hasattr(entry, "blob_id")}
    manifest = _manifest(repo, info.sha) if MANIFEST in files else None
    return Remote(info.sha, exists, info.private, files, manifest)


def _present(entry: Any) -> Present:
    if entry.lfs is not None:
        return Present(entry.size, sha256=entry.lfs.sha256)
    return Present(entry.size, blob=entry.blob_id)


def _manifest(repo: HubRepo, head: str) -> Manifest | None:
    from huggingface_hub import hf_hub_download

    with hub_errors(f"looking at {repo}"):
        path = hf_hub_download(repo.name, MANIFEST, revision=head, endpoint=endpoint(), library_name="groundup")
    with open(path, encoding="utf-8", errors="replace") as stream:
        return read_manifest(stream.read(16 << 20), str(repo))


def require_privacy(repo: HubRepo, remote: Remote, private: bool) -> None:
    """UsageError if the run is to be private and the repository is public."""
    if private and remote.head is not None and remote.private is False:
        raise UsageError(
            f"--private: {repo} exists and is public",
            hint="make it private in its settings on the Hub, or publish under another name",
        )


def commit(repo: HubRepo, remote: Remote, changes: Changes, message: str, private: bool) -> str:
    """Make the repository and the branch where they are missing, and change it in one commit. Returns its address on
    the Hub."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api()
    wanted = {content.name: content for content in changes.contents if content.name in changes.send}
    with hub_errors(f"publishing to {repo}"):
        if remote.head is None:
            api.create_repo(repo.name, private=private, exist_ok=True, repo_type="model")
        if repo.revision is not None and not remote.branch:
            api.create_branch(repo.name, branch=repo.revision, exist_ok=True)
        if changes.send or changes.remove:
            operations: list[Any] = [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=_operand(content))
                for name, content in wanted.items()
            ]
            operations += [CommitOperationDelete(path_in_repo=name) for name in changes.remove]
            api.create_commit(
                repo.name,
                operations,
                commit_message=message,
                revision=repo.revision or MAIN,
                # Somebody else's commit in between is noticed and not overwritten.
                parent_commit=remote.head,
            )
    return address(repo)


def _operand(content: Content) -> Any:
    return content.source if isinstance(content.source, bytes) else str(content.source)


def address(repo: HubRepo) -> str:
    """Where a person finds the repository."""
    place = f"{(endpoint() or 'https://huggingface.co').rstrip('/')}/{repo.name}"
    return f"{place}/tree/{repo.revision}" if repo.revision else place


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise GroundupError(f"huggingface_hub: {error}", hint="pip install groundup") from None
    return HfApi(endpoint=endpoint(), library_name="groundup")
