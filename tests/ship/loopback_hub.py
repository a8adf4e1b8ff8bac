"""A small Hugging Face Hub on the loopback interface: the endpoints that publishing and loading call, over HTTP,
with files that are kept.

    with LoopbackHub(folder) as hub:
        ...  # HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET=1, HF_TOKEN=hub.token

Repositories have branches of commits; a commit is a mapping from path to content. Files are kept in `folder` by
their SHA-256. A file of weights,
a picture or more than 1 MB of anything goes the way of large files (LFS), as on the real Hub. Everything that is
asked for is in `hub.requests`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

_LARGE = (".safetensors", ".onnx", ".png", ".pt2", ".parquet", ".npz")
_FRONT = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)


@dataclass
class Repo:
    """One repository. branches: name -> commit; commits: commit -> {path: SHA-256 of the content}; large: paths
    stored by LFS."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    large: set[str] = field(default_factory=set)

    def head(self, revision: str) -> str | None:
        """The commit of a branch, or the commit itself."""
        return revision if revision in self.commits else self.branches.get(revision)


@dataclass(frozen=True)
class Request:
    """What was asked. size: bytes of the body."""

    method: str
    path: str
    token: str | None
    size: int


class LoopbackHub:
    """The server. `fail`: may answer a request with (status, message) in place of the Hub; `writers`: owners that
    the token may write to."""

    def __init__(self, folder: Path, token: str = "hf_loopback_token_that_must_not_leak") -> None:
        self.folder, self.token = folder, token
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.writers = {"acme"}
        self.fail: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
        folder.mkdir(parents=True, exist_ok=True)
        hub = self

        class Handler(_Handler):
            """Bound to this hub."""

            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "LoopbackHub":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def make(self, name: str, files: dict[str, bytes], kind: str = "model", private: bool = False) -> Repo:
        """A repository with these files in its main branch."""
        repo = self.repos[kind, name] = Repo(private)
        self.commit(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n", **files}, "initial commit")
        return repo

    def commit(self, repo: Repo, branch: str, files: dict[str, bytes | None], title: str) -> str:
        """Lay `files` over the branch; None removes one."""
        tree = dict(repo.commits.get(repo.branches.get(branch, ""), {}))
        for path, content in files.items():
            if content is None:
                tree.pop(path)
            else:
                tree[path] = self.store(content)
                (repo.large.add if is_large(path, len(content)) else repo.large.discard)(path)
        return self.advance(repo, branch, tree, title)

    def advance(self, repo: Repo, branch: str, tree: dict[str, str], title: str) -> str:
        """A new commit with this tree at the end of the branch."""
        state = f"{branch}\n{len(repo.commits)}\n{json.dumps(tree, sort_keys=True)}"
        head = hashlib.sha1(state.encode()).hexdigest()
        repo.commits[head] = tree
        repo.branches[branch] = head
        repo.titles.append(title)
        return head

    def store(self, content: bytes) -> str:
        """Keep a content; its name is its SHA-256."""
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / digest).write_bytes(content)
        return digest

    def files(self, name: str, branch: str = "main", kind: str = "model") -> dict[str, bytes]:
        """The files of a branch."""
        repo = self.repos[kind, name]
        tree = repo.commits[repo.branches[branch]]
        return {path: (self.folder / digest).read_bytes() for path, digest in tree.items()}


def is_large(path: str, size: int) -> bool:
    """Whether the Hub keeps such a file by LFS."""
    return size > 0 and (path.endswith(_LARGE) or size > 1_000_000)


def git_blob(content: bytes) -> str:
    """What git calls a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Answer(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    server_hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # silent
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        hub = self.server_hub
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self._chunks()
        self.place = unquote(urlsplit(self.path).path)
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        hub.requests.append(Request(self.command, self.place, sent, len(self.body)))
        try:
            if planned := hub.fail(self.command, self.place):
                if planned[0] == 0:  # the line goes dead
                    self.close_connection = True
                    self.connection.close()
                    return
                raise _Answer(*planned)
            if sent not in (None, hub.token):
                raise _Answer(401, "Invalid credentials in Authorization header")
            self.known = sent is not None
            for pattern, serve in _ROUTES:
                if found := re.fullmatch(pattern, f"{self.command} {self.place}"):
                    serve(self, *found.groups())
                    return
            raise _Answer(404, f"no such endpoint: {self.command} {self.place}")
        except _Answer as answer:
            self._send(answer.status, {"error": answer.message}, code=answer.code, said=answer.message)
        except BrokenPipeError:
            self.close_connection = True

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(
        self, status: int, content: Any, *, code: str | None = None, said: str | None = None, **headers: str
    ) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        named = {"Content-Length": str(len(raw)), "X-Error-Code": code, "X-Error-Message": said}
        for name, value in {**named, **{key.replace("_", "-"): value for key, value in headers.items()}}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _repo(self, kind: str, name: str) -> Repo:
        repo = self.server_hub.repos.get((kind.rstrip("s"), name))
        if repo is None or (repo.private and not self.known):
            raise _Answer(404 if self.known else 401, "Repository not found", "RepoNotFound")
        return repo

    def _tree(self, kind: str, name: str, revision: str) -> tuple[Repo, str, dict[str, str]]:
        repo = self._repo(kind, name)
        head = repo.head(revision)
        if head is None:
            raise _Answer(404, "Invalid rev id", "RevisionNotFound")
        return repo, head, repo.commits[head]

    def _may_write(self, name: str) -> None:
        if not self.known:
            raise _Answer(401, "Unauthorized")
        if name.partition("/")[0] not in self.server_hub.writers:
            raise _Answer(403, f"You don't have the rights to write to {name.partition('/')[0]}")

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'acme'}/{asked['name']}"
        kind = asked.get("type") or "model"
        self._may_write(name)
        url = {"url": f"{self.server_hub.url}/{name}", "name": name}
        if (kind, name) in self.server_hub.repos:
            self._send(409, {**url, "error": "You already created this model repo"})
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.server_hub.make(name, {}, kind, private)
        self._send(200, url)

    def validate(self) -> None:
        from huggingface_hub import ModelCard
        from huggingface_hub.repocard_data import model_index_to_eval_results

        text = json.loads(self.body)["content"]
        errors = []
        try:
            found = _FRONT.match(text)
            head = yaml.safe_load(found[1]) if found else {}
            ModelCard(text)
            if "model-index" in head:
                model_index_to_eval_results(head["model-index"])
        except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
            errors.append({"message": f"{type(error).__name__}: {error}"})
        warnings = [] if errors or head else [{"message": "empty or missing yaml metadata in repo card"}]
        self._send(400 if errors else 200, {"errors": errors, "warnings": warnings})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repo, _, tree = self._tree(kind, name, revision)
        self._may_write(name)
        files = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            mode = "lfs" if is_large(path, asked["size"]) else "regular"
            digest = tree.get(path)
            oid = None
            if digest is not None:
                oid = digest if path in repo.large else git_blob((self.server_hub.folder / digest).read_bytes())
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": files})

    def lfs_batch(self, prefix: str | None, name: str) -> None:
        self._repo((prefix or "models/").rstrip("/"), name)
        self._may_write(name)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if not (self.server_hub.folder / asked["oid"]).exists():
                answer["actions"] = {"upload": {"href": f"{self.server_hub.url}/lfs-upload/{asked['oid']}"}}
            objects.append(answer)
        self._send(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Answer(400, "the content does not have this SHA-256")
        self.server_hub.store(self.body)
        self._send(200, b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        hub = self.server_hub
        repo, head, tree = self._tree(kind, name, revision)
        self._may_write(name)
        lines = [json.loads(line) for line in self.body.decode().splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, head):
            raise _Answer(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(tree)
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                tree[path] = hub.store(base64.b64decode(value["content"]))
                repo.large.discard(path)
            elif line["key"] == "lfsFile":
                if not (hub.folder / value["oid"]).exists():
                    raise _Answer(400, f"{path}: this LFS object was never uploaded")
                tree[path] = value["oid"]
                repo.large.add(path)
            elif line["key"] == "deletedFile":
                if path not in tree:
                    raise _Answer(404, "A file with this name doesn't exist", "EntryNotFound")
                del tree[path]
            else:
                raise _Answer(400, f"unknown operation {line['key']}")
        oid = hub.advance(repo, revision, tree, header["summary"])
        self._send(200, {"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def branch(self, kind: str, name: str, branch: str) -> None:
        repo = self._repo(kind, name)
        self._may_write(name)
        if branch in repo.branches:
            raise _Answer(409, "Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        self._send(200, {})

    def info(self, kind: str, name: str, revision: str | None) -> None:
        repo, head, tree = self._tree(kind, name, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(tree)]
        known = {"_id": head[:24], "id": name, "sha": head, "private": repo.private, "siblings": siblings}
        self._send(200, {**known, "tags": [], "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z"})

    def tree(self, kind: str, name: str, revision: str, below: str | None) -> None:
        repo, _, tree = self._tree(kind, name, revision)
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        prefix = f"{below.strip('/')}/" if below else ""
        entries = [self._entry(repo, path, digest) for path, digest in sorted(tree.items()) if path.startswith(prefix)]
        folders = sorted(
            {
                path[: len(prefix)] + path[len(prefix) :].partition("/")[0]
                for path in tree
                if path.startswith(prefix) and "/" in path[len(prefix) :]
            }
        )
        if prefix and not entries:
            raise _Answer(404, "does not exist", "EntryNotFound")
        if not recursive:
            entries = [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]
        made = [{"type": "directory", "path": path, "oid": git_blob(path.encode()), "size": 0} for path in folders]
        self._send(200, [*made, *entries])

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repo, _, tree = self._tree(kind, name, revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            asked = json.loads(self.body)["paths"]
        else:
            asked = parse_qs(self.body.decode())["paths"]
        asked = [asked] if isinstance(asked, str) else asked
        found = [self._entry(repo, path, tree[path]) for path in asked if path in tree]
        folders = [path for path in asked if any(known.startswith(f"{path.rstrip('/')}/") for known in tree)]
        made = [{"type": "directory", "path": path, "oid": git_blob(path.encode()), "size": 0} for path in folders]
        self._send(200, [*found, *made])

    def _entry(self, repo: Repo, path: str, digest: str) -> dict[str, Any]:
        content = (self.server_hub.folder / digest).read_bytes()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
        if path in repo.large:
            lfs = {"oid": digest, "size": len(content), "pointerSize": 134}
            return {**entry, "oid": git_blob(f"pointer to {digest}".encode()), "lfs": lfs}
        return {**entry, "oid": git_blob(content)}

    def resolve(self, prefix: str | None, name: str, revision: str, path: str) -> None:
        repo, head, tree = self._tree((prefix or "models/").rstrip("/"), name, revision)
        if path not in tree:
            raise _Answer(404, "Entry not found", "EntryNotFound")
        digest = tree[path]
        content = (self.server_hub.folder / digest).read_bytes()
        etag = digest if path in repo.large else git_blob(content)
        status, shown, given = 200, content, self.headers.get("Range")
        headers = {"X_Repo_Commit": head, "ETag": f'"{etag}"', "X_Linked_Etag": f'"{etag}"', "Accept_Ranges": "bytes"}
        headers["X_Linked_Size"] = str(len(content))
        if given and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", given)):
            first, last = int(found[1]), int(found[2] or len(content) - 1)
            status, shown = 206, content[first : last + 1]
            headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(status, shown, **headers)


_KIND, _NAME, _REV = "(models|datasets)", "([^/]+/[^/]+)", "([^/]+)"
_ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/{_KIND}/{_NAME}/preupload/(.+)", _Handler.preupload),
    (rf"POST /api/{_KIND}/{_NAME}/commit/(.+)", _Handler.commit),
    (rf"POST /api/{_KIND}/{_NAME}/branch/(.+)", _Handler.branch),
    (rf"POST /api/{_KIND}/{_NAME}/paths-info/{_REV}", _Handler.paths_info),
    (rf"GET /api/{_KIND}/{_NAME}/tree/{_REV}(/.*)?", _Handler.tree),
    (rf"GET /api/{_KIND}/{_NAME}(?:/revision/(.+))?", _Handler.info),
    (rf"POST /(datasets/)?{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"PUT /lfs-upload/([0-9a-f]{64})", _Handler.lfs_upload),
    (rf"(?:GET|HEAD) /(datasets/)?{_NAME}/resolve/{_REV}/(.+)", _Handler.resolve),
]
