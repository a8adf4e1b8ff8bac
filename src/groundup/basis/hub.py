"""Names of repositories on the Hugging Face Hub, and the Hub's failures in words that somebody can act on.

A reference is `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION` for a branch, tag or commit. Tokens come from the
environment (HF_TOKEN) or the client's own login and are handled by the client alone; a message of the Hub that repeats
one is printed without it.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from groundup.basis.errors import GroundupError, UsageError

PREFIX = "hf:"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_TOKENS = "https://huggingface.co/settings/tokens"
_AGAIN = "run the command again: what is there already is not sent twice"


@dataclass(frozen=True)
class HubRepo:
    """A repository on the Hub. `revision`: a branch, tag or commit; None: its main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "")


def is_hub(reference: Path | str) -> bool:
    """Whether `reference` names a repository on the Hub and not a folder."""
    return str(reference).startswith(PREFIX)


def parse_hub(reference: Path | str) -> HubRepo:
    """The repository behind `hf:OWNER/NAME[@REVISION]`. UsageError if it is written in another way."""
    name, at, revision = str(reference).removeprefix(PREFIX).partition("@")
    fits = re.fullmatch(rf"{_PART}/{_PART}", name) and "--" not in name and ".." not in name and len(name) <= 96
    if not fits or (at and not is_revision(revision)):
        raise UsageError(
            f"{str(reference)!r}: not the name of a repository on the Hub",
            hint="write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION; letters, digits, `-`, `_` and `.`, at most 96 of them",
        )
    return HubRepo(name, revision or None)


def is_revision(text: str) -> bool:
    """Whether `text` can be the name of a branch or a commit."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}", text) is not None and ".." not in text


def endpoint() -> str | None:
    """The address of the Hub where HF_ENDPOINT names another one, else None for the client's own."""
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """GroundupError in place of what the Hub's client raises inside. `what`: what was being done, with the
    repository's name. The client draws its progress bars on a terminal only."""
    try:
        with _bars_on_terminals():
            yield
    except GroundupError:
        raise
    except Exception as error:
        explained = _explained(error, what)
        if explained is None:
            raise
        raise explained from error


@contextmanager
def _bars_on_terminals() -> Iterator[None]:
    """Without a terminal the client draws no progress bars inside; HF_HUB_DISABLE_PROGRESS_BARS, where it is set, decides."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    decided = "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ or are_progress_bars_disabled()
    if decided or sys.stderr.isatty():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _explained(error: BaseException, what: str) -> GroundupError | None:
    """The error to show, None for one that has nothing to do with the Hub."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for link in _chain(error):
        if isinstance(link, OfflineModeIsEnabled):
            return GroundupError(f"{what}: HF_HUB_OFFLINE is set", hint="unset it, or work with folders")
        if isinstance(link, HfHubHTTPError):
            return _refusal(link, what)
        if _is_of_the_network(link):
            return GroundupError(
                f"{what}: the Hub could not be reached ({type(link).__name__})",
                hint=f"check the network, then {_AGAIN}",
            )
    if type(error).__module__.partition(".")[0] == "huggingface_hub" or isinstance(error, ValueError | RuntimeError):
        # The client's own refusals, such as metadata that the Hub does not accept, and failures of its transports.
        reason = _without_token(str(error))
        cause = f" ({_without_token(str(error.__cause__))})" if error.__cause__ else ""
        return GroundupError(f"{what}: {reason}{cause}")
    return None


def _refusal(error: BaseException, what: str) -> GroundupError:
    """What an answer other than 2xx means."""
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", 0)
    said = _without_token(str(getattr(error, "server_message", None) or "")).strip()
    said = f": {said}" if said else ""
    if isinstance(error, RepositoryNotFoundError):
        return GroundupError(
            f"{what}: there is no such repository, or you may not see it",
            hint=f"check the name; for a private one, {_LOG_IN}",
        )
    if isinstance(error, RevisionNotFoundError):
        return GroundupError(f"{what}: the repository has no such branch, tag or commit")
    if isinstance(error, EntryNotFoundError):
        return GroundupError(f"{what}: the repository lacks a file{said}")
    if status == 401:
        return GroundupError(
            f"{what}: the Hub does not accept the token{said}", hint=f"make one at {_TOKENS}; {_LOG_IN}"
        )
    if status == 403:
        return GroundupError(
            f"{what}: the token does not allow this{said}",
            hint=f"it needs the right to write to this owner: {_TOKENS}",
        )
    if status in (409, 412):
        return GroundupError(
            f"{what}: the repository was changed at the same time, nothing was committed{said}", hint=_AGAIN
        )
    if status == 429:
        return GroundupError(f"{what}: too many requests{said}", hint="wait some minutes, then run the command again")
    return GroundupError(
        f"{what}: the Hub answered with status {status}{said}",
        hint=f"wait some minutes, then {_AGAIN}",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _is_of_the_network(error: BaseException) -> bool:
    # The client has changed its HTTP library twice, and shows that library's own errors.
    library = type(error).__module__.partition(".")[0]
    return (
        library.startswith("httpx")
        or library in ("requests", "urllib3", "httpcore")
        or isinstance(error, ConnectionError | TimeoutError)
    )


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text
