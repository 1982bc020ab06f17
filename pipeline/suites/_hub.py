"""Downloads from the Hugging Face hub: plan, announce, fetch and verify files.

The client does the transport and keeps the cache; HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are its variables.
Within a run it resumes interrupted responses; a later run starts with the first incomplete file. This module retries
where the client does not, compares files with the repository's hashes and turns the client's errors into messages.
Listings are stored next to the cache: a commit is listed only once, and HF_HUB_OFFLINE uses the stored listing.
"""

import errno
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import httpx2
import huggingface_hub as client
from huggingface_hub import constants, errors
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, parse_ratelimit_headers

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

GIB, MARGIN = 2**30, 1.05
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each retry, unless the hub names a longer time
ABANDONED = 3600  # seconds without a write: left by a killed run, and no client resumes a partial download
BUSY = (408, 429, 500, 502, 503, 504)
FAILURES = (httpx2.HTTPError, OSError, RuntimeError, ValueError)  # RuntimeError: hf_xet; ValueError: no hub answers
Kind = Literal["model", "dataset"]
Answer = TypeVar("Answer")


class HubError(BenchmarkError):
    """Something cannot be fetched from the hub; the message names the repository and the cure."""


class NoRevision(HubError):
    """The repository has no such branch or commit."""


@dataclass(frozen=True)
class Request:
    """Requested files of one repository.

    `*` in a pattern does not match a slash: `*.parquet` does not match `data/x.parquet`.
    """

    repo: str
    kind: Kind
    revision: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class RemoteFile:
    """A file as its repository lists it.

    `blob` is git's id of the file or, with a `sha256`, of its LFS pointer.
    """

    name: str
    size: int
    sha256: str | None
    blob: str


@dataclass(frozen=True)
class Listing:
    """Files of one repository at one commit; `id` is its current name, `repo` the requested one."""

    repo: str
    kind: Kind
    revision: str
    id: str
    commit: str
    files: tuple[RemoteFile, ...]
    license: str | None = None
    """As the repository's card has it."""

    @property
    def page(self) -> str:
        """Address of the repository's page."""
        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"

    def only(self, names: Collection[tuple[str, str]]) -> "Listing":
        """Return the listing with these files alone; `names`: (repository, file)."""
        return replace(self, files=tuple(file for file in self.files if (self.repo, file.name) in names))

    def cached(self, file: RemoteFile) -> Path | None:
        """Return the path of a file in the cache, None unless it is there in its full size."""
        path = client.try_to_load_from_cache(self.id, file.name, repo_type=self.kind, revision=self.commit)
        return Path(path) if isinstance(path, str) and Path(path).stat().st_size == file.size else None


def plan_downloads(requests: Sequence[Request]) -> list[Listing]:
    """Resolve revisions and list the matching files, one entry per repository; nothing is downloaded."""
    patterns: dict[str, list[str]] = {}
    unlisted: dict[str, Listing] = {}
    for request in requests:
        target = Listing(request.repo, request.kind, request.revision, request.repo, "", ())
        first = unlisted.setdefault(request.repo, target)
        if first != target:
            raise HubError(
                f"{target.page} is requested as a {first.kind} at {first.revision!r} and as a {target.kind} at "
                f"{target.revision!r}; name one of them"
            )
        patterns.setdefault(request.repo, []).extend(request.patterns)
    return [_matching(_listed(target), patterns[repo]) for repo, target in unlisted.items()]


def list_files(repo: str, kind: Kind, revision: str) -> list[str]:
    """Return the names of all files of a repository."""
    return [file.name for file in _listed(Listing(repo, kind, revision, repo, "", ())).files]


def describe_downloads(plans: Sequence[Listing]) -> str:
    """Describe the downloads and the disk space that `plans` need, for the user to read before they start."""
    files, missing = [file for listing in plans for file in listing.files], _missing(plans)
    lines = [
        f"{len(plans)} repositories, {len(files)} files: {missing / GIB:.2f} GiB to fetch, "
        f"{(sum(file.size for file in files) - missing) / GIB:.2f} GiB cached, {_free() / GIB:.2f} GiB free in "
        f"{constants.HF_HUB_CACHE}"
    ]
    moved = [f"{listing.repo} has moved to {listing.id}" for listing in plans if listing.repo != listing.id]
    return "\n".join(lines + moved)


def check_room(plans: Sequence[Listing]) -> None:
    """Check that the disk of the cache has room for the missing files; raises HubError."""
    if (needed := _missing(plans) * MARGIN) > (free := _free()):
        raise HubError(
            f"the downloads need {needed / GIB:.2f} GiB, the disk of {constants.HF_HUB_CACHE} has {free / GIB:.2f} GiB "
            f"free; make room, or set HF_HOME to a folder on a larger disk"
        )


def fetch_files(plans: Sequence[Listing]) -> dict[tuple[str, str], Path]:
    """Download missing files and verify all: {(repo, file): path in the cache}. Raises HubError."""
    for listing in plans:
        folder = Path(constants.HF_HUB_CACHE, f"{listing.kind}s--{listing.id.replace('/', '--')}", "blobs")
        for partial in folder.glob("*.incomplete"):
            with suppress(FileNotFoundError):  # another process has just finished it
                if time.time() - partial.stat().st_mtime > ABANDONED:
                    partial.unlink()
    return {(listing.repo, file.name): _fetched(listing, file) for listing in plans for file in listing.files}


def read_end(listing: Listing, file: RemoteFile, length: int) -> bytes:
    """Return the last `length` bytes of a file, all of a shorter one; only they are fetched. Raises HubError."""
    start = max(file.size - length, 0)
    if path := listing.cached(file):
        with path.open("rb") as content:
            content.seek(start)
            return content.read()

    def ask() -> bytes:
        url = client.hf_hub_url(listing.id, file.name, repo_type=listing.kind, revision=listing.commit)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-"}
        reply = get_session().get(
            url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, follow_redirects=True
        )
        hf_raise_for_status(reply)
        return reply.content[start - file.size :]

    return _retried(ask, listing, file.name)


def describe_moved(plans: Sequence[Listing]) -> list[str]:
    """Return a line for every repository whose main branch is no longer at the commit that is pinned.

    Nothing depends on the answer: what cannot be asked is left out.
    """
    lines = []
    for listing in plans:
        if listing.revision == listing.commit and not constants.is_offline_mode():
            with suppress(*FAILURES):
                reply = client.HfApi().repo_info(listing.id, repo_type=listing.kind, timeout=5)
                if reply.sha != listing.commit:
                    lines.append(
                        f"{listing.page} is pinned to {listing.commit[:12]}; its main is {str(reply.sha)[:12]}"
                    )
    return lines


def record_downloads(plans: Sequence[Listing]) -> list[dict[str, Any]]:
    """Return fetched repositories as JSON: requested revisions, commits, files with size and hashes."""
    ordered = sorted(plans, key=lambda listing: listing.repo)
    return [{**asdict(listing), "files": [asdict(file) for file in listing.files]} for listing in ordered]


def _listed(target: Listing) -> Listing:
    """List every file of a repository; a stored listing is used offline, and if the revision is a commit."""
    name = "--".join((f"{target.kind}s", target.repo, target.revision)).replace("/", "--")
    path = Path(constants.HF_ASSETS_CACHE, "samerging", f"{name}.json")
    if path.exists():
        stored = store.read_json(path)
        if stored["commit"] == target.revision or constants.is_offline_mode():
            files = tuple(RemoteFile(**file) for file in stored.pop("files"))
            return Listing(**stored, files=files)

    def ask() -> Listing:
        where, timeout = {"repo_type": target.kind, "revision": target.revision}, constants.HF_HUB_DOWNLOAD_TIMEOUT
        reply = client.HfApi().repo_info(target.repo, **where, files_metadata=True, timeout=timeout)
        info = cast("client.ModelInfo | client.DatasetInfo", reply)
        files = [
            RemoteFile(o.rfilename, cast("int", o.size), o.lfs.sha256 if o.lfs else None, cast("str", o.blob_id))
            for o in info.siblings or []
        ]
        if info.gated and files:  # anybody may list a gated repository and read its card
            largest = max(files, key=lambda file: file.size)
            client.get_hf_file_metadata(client.hf_hub_url(info.id, largest.name, **where), timeout=timeout)
        ordered = tuple(sorted(files, key=lambda file: file.name))
        licence = (info.card_data or {}).get("license")
        named = str(licence) if licence else None
        listing = replace(target, id=info.id, commit=cast("str", info.sha), files=ordered, license=named)
        store.write_json(path, asdict(listing))
        return listing

    return _retried(ask, target, f"revision {target.revision!r}")


def _matching(listing: Listing, patterns: Sequence[str]) -> Listing:
    for pattern in patterns:
        if not any(_matches(file.name, pattern) for file in listing.files):
            names = ", ".join(file.name for file in listing.files[:8]) + ", ..." * (len(listing.files) > 8)
            raise HubError(f"{listing.page}: no file matches {pattern!r} at {listing.revision!r}; there are: {names}")
    files = [file for file in listing.files if any(_matches(file.name, pattern) for pattern in patterns)]
    for file in files if constants.is_offline_mode() else []:
        if not listing.cached(file):
            raise HubError(_explained(errors.OfflineModeIsEnabled(), listing, file.name))
    return replace(listing, files=tuple(files))


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")


def _missing(plans: Sequence[Listing]) -> int:
    return sum(file.size for listing in plans for file in listing.files if not listing.cached(file))


def _free() -> int:
    cache = Path(constants.HF_HUB_CACHE).absolute()
    return shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free


def _fetched(listing: Listing, file: RemoteFile) -> Path:
    def download() -> str:
        return client.hf_hub_download(listing.id, file.name, repo_type=listing.kind, revision=listing.commit)

    for _ in range(2):
        path = Path(_retried(download, listing, file.name))
        if not (fault := _fault(path, file)):
            return path
        while path.is_symlink():  # the snapshot's link, the blob, a copy that several repositories share
            link, path = path, path.parent / path.readlink()
            link.unlink()
        path.unlink(missing_ok=True)
    raise HubError(
        f"{listing.page}: {file.name} {fault}, twice; the copy was deleted. Something on the way alters downloads "
        f"(a proxy, a mirror in HF_ENDPOINT?): fix that, then run it again"
    )


def _fault(path: Path, file: RemoteFile) -> str | None:
    """Describe what is wrong with a downloaded file, None if it is intact."""
    if (size := path.stat().st_size) != file.size:
        return f"has {size} bytes, the hub lists {file.size}"
    algorithm, expected = ("sha256", file.sha256) if file.sha256 else ("sha1", file.blob)
    digest = hashlib.new(algorithm, b"" if file.sha256 else b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return None if digest.hexdigest() == expected else f"has {algorithm} {digest.hexdigest()}, the hub lists {expected}"


def _retried(call: Callable[[], Answer], listing: Listing, what: str) -> Answer:
    """Return the result of `call`, retried where that can help; HubError if it keeps failing."""
    waits = iter(WAITS)
    while True:
        try:
            return call()
        except FAILURES as error:
            if not _is_temporary(error) or (pause := next(waits, None)) is None:
                kind = NoRevision if isinstance(error, errors.RevisionNotFoundError) else HubError
                raise kind(_explained(error, listing, what)) from error
            pause = max(pause, _named_wait(error))
            logging.getLogger(__name__).warning("%s: %s: %r; again in %g s", listing.page, what, error, pause)
        time.sleep(pause)


def _is_temporary(error: Exception) -> bool:
    """Whether a retry may help; LocalEntryNotFoundError already comes after six attempts of the client."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in BUSY
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return False
    miscounted = isinstance(error, OSError) and error.errno is None  # not as many bytes as announced
    return miscounted or isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError, RuntimeError))


def _named_wait(error: Exception) -> int:
    """Return the seconds that the hub asks to wait."""
    headers = error.response.headers if isinstance(error, errors.HfHubHTTPError) else {}
    limit, after = parse_ratelimit_headers(headers), headers.get("Retry-After", "")
    return limit.reset_in_seconds if limit and not limit.remaining else int(after) if after.isdigit() else 0


def _explained(error: BaseException, listing: Listing, what: str) -> str:
    if isinstance(error, errors.LocalEntryNotFoundError):
        error = error.__cause__ or error
    token = "the token in use (HF_TOKEN) has no access" if client.get_token() else "HF_TOKEN is not set"
    match error:
        case errors.OfflineModeIsEnabled():
            text = (
                f"{what} is not in the cache {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set; unset it to download"
            )
        case errors.GatedRepoError():
            text = f"gated, and {token}: accept the licence on that page and set HF_TOKEN to that account's token"
        case errors.RepositoryNotFoundError():
            text = f"no such {listing.kind}, or a private one, and {token}; check its name, it may have moved"
        case errors.RevisionNotFoundError():
            text = f"no {what}; name a branch, a tag, or a commit of {listing.page}/commits/main"
        case errors.HfHubHTTPError(response=answer):
            busy = "the hub is busy: try later" if answer.status_code in BUSY else f"see {listing.page} and HF_TOKEN"
            text = f"HTTP {answer.status_code} for {what}; {busy}; finished downloads are kept"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            text = (
                f"no room for {what} on the disk of {constants.HF_HUB_CACHE}; make room or set HF_HOME, then run again"
            )
        case _:
            reason = f"{type(error).__name__}: {error}"
            text = (
                f"{what}: {reason}; check the network, HF_ENDPOINT and HF_HOME; HF_HUB_OFFLINE=1 uses the cache alone"
            )
    return f"{listing.page}: {text}"
