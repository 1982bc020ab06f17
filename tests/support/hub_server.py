"""A small Hugging Face hub on localhost, for the real client: repositories from bytes, faults on request.

It speaks the part of the protocol that listing, downloading and uploading use, without xet. Files that end like LARGE
are LFS files: they are redirected to another host (`localhost` instead of 127.0.0.1), as the hub does with its CDN.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

LARGE = (".safetensors", ".parquet", ".bin")
LICENSE = "apache-2.0"
"""The licence on the card of every repository."""
MEMBER, STRANGER = "hf_member", "hf_stranger"
"""Tokens: one with access to gated repositories, which may write too, and one without. Any other is refused."""
REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
API = re.compile(rf"/api/(?P<kind>model|dataset)s/{REPO}(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
RESOLVE = re.compile(rf"/(?P<kind>datasets/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
BATCH = re.compile(rf"/{REPO}\.git/info/lfs/objects/batch")
WRITE = re.compile(rf"/api/models/{REPO}/(?P<what>preupload|commit)/main")


@dataclass
class Fault:
    """A failure of the next `times` requests of `method` whose path contains `path`."""

    path: str
    method: str = "GET"
    times: int = 1
    status: int = 0
    """Answer with this HTTP status."""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    """Seconds before the answer."""
    cut: int | None = None
    """Close the connection after so many bytes of the body."""
    change: Callable[[bytes], bytes] = bytes
    """Other bytes in place of the body; the headers fit them."""


@dataclass(frozen=True)
class Request:
    """A request that was made."""

    method: str
    path: str
    range: str
    token: str


def sha256(content: bytes) -> str:
    """The id of an LFS file."""
    return hashlib.sha256(content).hexdigest()


def blob(content: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(content: bytes) -> bytes:
    """The content that git holds in place of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\nsize {len(content)}\n".encode()


class Hub:
    """The server: `push` repositories, `fail` requests, read `requests`; `close` it."""

    def __init__(self, repositories: Mapping[tuple[str, str], Mapping[str, bytes]] | None = None) -> None:
        """Serve `repositories`: {(kind, repo): {file: content}}."""
        self.commits: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}
        self.blobs: dict[str, bytes] = {}
        self.gated: set[tuple[str, str]] = set()
        self.moved: dict[tuple[str, str], str] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        for (kind, repo), files in (repositories or {}).items():
            self.push(kind, repo, files)

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; delayed answers are sent at once."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def push(self, kind: str, repo: str, files: Mapping[str, bytes], gated: bool = False) -> str:
        """Make `files` the content of a repository's main branch; return its commit."""
        content = json.dumps([kind, repo, {name: sha256(files[name]) for name in sorted(files)}])
        commit = hashlib.sha1(content.encode()).hexdigest()
        known = self.commits.setdefault((kind, repo), {})
        known["main"] = known[commit] = dict(files)
        self.blobs.update({sha256(data): data for data in files.values()})
        if gated:
            self.gated.add((kind, repo))
        return commit

    def commit(self, kind: str, repo: str, revision: str = "main") -> str:
        """The commit of a revision."""
        known = self.commits[kind, repo]
        return next(name for name, files in known.items() if name != "main" and files is known[revision])

    def move(self, kind: str, old: str, new: str) -> None:
        """Rename a repository: the old name redirects."""
        self.commits[kind, new] = self.commits.pop((kind, old))
        self.moved[kind, old] = new

    def fail(self, path: str, **fault: Any) -> None:
        """Queue a fault; see `Fault`."""
        self.faults.append(Fault(path, **fault))

    def count(self, method: str, path: str = "") -> int:
        """Count requests of `method` whose path contains `path`; a file behind a redirect is its hash below /cdn/."""
        return sum(request.method == method and path in request.path for request in self.requests)

    def take(self, method: str, path: str) -> Fault | None:
        """Take the fault that is due for a request."""
        with self.lock:
            due = next(
                (fault for fault in self.faults if fault.times and fault.method == method and fault.path in path), None
            )
            if due:
                due.times -= 1
            return due


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the threads, so that no socket is left
    hub: Hub

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a client that goes away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5
    disable_nagle_algorithm = True  # headers and body are two writes
    server: _Server

    def do_GET(self) -> None:
        """Answer, or fail as queued."""
        hub, path = self.server.hub, self.begin()
        if self.fault.status:
            self.send(self.fault.status, b"", **self.fault.headers)
        elif path.startswith("/cdn/"):
            self.send_file(hub.blobs[path.removeprefix("/cdn/")])
        elif match := API.fullmatch(urlsplit(self.path).path):
            self.answer(match["kind"], unquote(match["repo"]), unquote(match["revision"] or "main"), match["what"])
        elif match := RESOLVE.fullmatch(urlsplit(self.path).path):
            kind = "dataset" if match["kind"] else "model"
            self.answer(kind, unquote(match["repo"]), unquote(match["revision"]), unquote(match["file"]), True)
        else:
            self.refuse(404, "", f"{path} is no path of this hub")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Take a step of an upload by a member, or fail as queued."""
        path, body = self.begin(), self.rfile.read(int(self.headers["Content-Length"]))
        if self.fault.status:
            self.send(self.fault.status, b"", **self.fault.headers)
        elif path.startswith("/lfs/"):  # an address that the batch gave to a member
            self.server.hub.blobs[sha256(body)] = body
            self.send(200, b"")
        elif self.token != MEMBER:
            self.refuse(403 if self.token == STRANGER else 401, "", "You may not write here")
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.send_json({"errors": [], "warnings": []})
        elif match := BATCH.fullmatch(path):
            objects = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{self.server.hub.url}/lfs/{entry['oid']}"}} for entry in objects]
            self.send_json({"objects": [o | {"actions": a} for o, a in zip(objects, actions, strict=True)]})
        elif (match := WRITE.fullmatch(path)) and match["what"] == "preupload":
            files = [{"path": file["path"], "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.send_json(
                {"files": [f | {"uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular"} for f in files]}
            )
        elif match:
            self.take_commit(match["repo"], [json.loads(line) for line in body.splitlines()])
        else:
            self.refuse(404, "", f"{path} is no path of this hub")

    do_PUT = do_POST

    def begin(self) -> str:
        """Record a request and take its fault; return its path."""
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        hub.requests.append(Request(self.command, path, self.headers.get("Range", ""), self.token))
        self.fault = hub.take(self.command, path) or Fault(path)
        if self.fault.delay:
            hub.closing.wait(self.fault.delay)
        return path

    def create(self, request: Mapping[str, Any]) -> None:
        """Create a model repository, of the member where no owner is named."""
        hub, repo = self.server.hub, f"{request['organization'] or 'member'}/{request['name']}"
        answer = {"url": f"{hub.url}/{repo}", "id": repo}
        if ("model", repo) in hub.commits:
            return self.send(409, json.dumps(answer).encode())
        hub.push("model", repo, {})
        return self.send_json(answer)

    def take_commit(self, repo: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add the files of a commit to a repository."""
        hub, files = self.server.hub, dict(self.server.hub.commits["model", repo]["main"])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.blobs[value["oid"]]
        commit = hub.push("model", repo, files)
        self.send_json({"commitUrl": f"{hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def answer(self, kind: str, repo: str, revision: str, what: str | None, resolve: bool = False) -> None:
        """Answer for a repository after the checks of the real hub, in its order."""
        hub, known = self.server.hub, self.server.hub.commits.get((kind, repo))
        if self.token and self.token not in (MEMBER, STRANGER):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif (kind, repo) in hub.moved:
            self.send(307, b"", Location=self.path.replace(f"/{repo}", f"/{hub.moved[kind, repo]}", 1))
        elif known is None:
            status, text = (404, "Repository not found") if self.token else (401, "Invalid username or password.")
            self.refuse(status, "RepoNotFound", text)
        elif resolve and (kind, repo) in hub.gated and self.token != MEMBER:
            self.refuse(403 if self.token else 401, "GatedRepo", f"Access to {kind} {repo} is restricted")
        elif revision not in known:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif resolve:
            self.resolve(known[revision], hub.commit(kind, repo, revision), what)
        elif what == "tree":
            self.send_json(_entries(known[revision]))
        else:
            self.describe(kind, repo, known[revision], hub.commit(kind, repo, revision))

    def resolve(self, files: Mapping[str, bytes], commit: str, name: str | None) -> None:
        """Send a file, or the redirect to it."""
        if name not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        data, headers = files[name], {"X-Repo-Commit": commit}
        if not name.endswith(LARGE):
            return self.send_file(data, ETag=f'"{blob(data)}"', **headers)
        digest = sha256(data)
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{digest}"', "Accept-Ranges": "bytes"}
        return self.send(302, b"", Location=f"http://localhost:{self.server.hub.port}/cdn/{digest}", **headers)

    def describe(self, kind: str, repo: str, files: Mapping[str, bytes], commit: str) -> None:
        """Send the metadata of a repository, with that of its files if requested."""
        blobs = parse_qs(urlsplit(self.path).query).get("blobs", [""])[0].lower() == "true"
        siblings = [{"rfilename": entry["path"]} for entry in _entries(files)]
        if blobs:
            for sibling, entry in zip(siblings, _entries(files), strict=True):
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if lfs := entry.get("lfs"):
                    sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        gated = "manual" if (kind, repo) in self.server.hub.gated else False
        about = {"id": repo, "sha": commit, "private": False, "gated": gated, "cardData": {"license": LICENSE}}
        self.send_json({**about, "siblings": siblings})

    def send_file(self, data: bytes, **headers: str) -> None:
        """Send a file or the requested range of it."""
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        headers["Accept-Ranges"] = "bytes"
        if not start:
            return self.send(200, data, **headers)
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return self.send(206, data[first:], **headers)

    def send_json(self, content: Any) -> None:
        """Send a JSON answer."""
        self.send(200, json.dumps(content).encode(), **{"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, text: str) -> None:
        """Send an error as the hub words it."""
        headers = {"X-Error-Message": text} | ({"X-Error-Code": code} if code else {})
        self.send(status, json.dumps({"error": text}).encode(), **headers)

    def send(self, status: int, body: bytes, **headers: str) -> None:
        """Send an answer, changed and cut off as the fault requires."""
        body = self.fault.change(body)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: self.fault.cut])
        if self.fault.cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _entries(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    entries = []
    for name in sorted(files):
        data, large = files[name], name.endswith(LARGE)
        entry = {"type": "file", "path": name, "size": len(data), "oid": blob(pointer(data) if large else data)}
        if large:
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": len(pointer(data))}
        entries.append(entry)
    return entries


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub for the client, in this process and in those it starts, with an empty cache and no token.

    The client reads its variables when it is imported: the environment is for other processes, the constants are for
    this one.
    """
    home = tmp_path / "hf"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with Hub() as server:
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}
        for name, value in {**variables, "HF_HUB_DISABLE_XET": "1"}.items():
            monkeypatch.setenv(name, value)
        for name, constant in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, constant)
        close_session()
        yield server
        close_session()
