"""A repository of models on the Hugging Face Hub: what it needs, and changing it in one commit.

Everything goes through the Hub's own client, which finds the token (HF_TOKEN, or its login) by itself. Nothing here
reads, keeps or prints one.
"""

from typing import Any

from groundup.basis.errors import UsageError
from groundup.basis.hub import HubRepo, endpoint, hub_errors
from groundup.runs.contents import Changes, Content
from groundup.runs.repository import MAIN, Remote, client


def require_token() -> None:
    """UsageError if the Hub's client has no token."""
    from huggingface_hub import get_token

    if not get_token():
        raise UsageError(
            "publishing to the Hub needs a token",
            hint="`hf auth login`, or HF_TOKEN; one that may write is made at https://huggingface.co/settings/tokens",
        )


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

    api = client()
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
