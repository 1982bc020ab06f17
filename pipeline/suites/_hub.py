"""Files of the Hugging Face hub: what is wanted, what it costs, and every file whole and verified.

The client does the transport and keeps the cache; HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are its variables.
Within a run it goes on where an answer was cut off; a later run starts with the first file that is not whole.
This module asks again where the client does not, compares files with the repository's hashes and turns the client's
errors into messages. Listings are kept beside the cache: a commit is listed once, and HF_HUB_OFFLINE finds it there.
"""

import errno
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
import huggingface_hub as client
from huggingface_hub import constants, errors
from huggingface_hub.utils import parse_ratelimit_headers

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

GIB, MARGIN = 2**30, 1.05
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt, unless the hub names a longer time
ABANDONED = 3600  # seconds without a write: a run that was killed left this partial download; no client resumes it
BUSY = (408, 429, 500, 502, 503, 504)
FAILURES = (httpx2.HTTPError, OSError, RuntimeError, ValueError)  # RuntimeError: hf_xet; ValueError: no hub answers
Kind = Literal["model", "dataset"]
Answer = TypeVar("Answer")


class HubError(BenchmarkError):
    """Something that cannot be had from the hub; the message says where it was asked for and what to do."""


@dataclass(frozen=True)
class Wanted:
    """Files of one repository. `*` in a pattern does not cross a folder: `*.parquet` is not `data/x.parquet`."""

    repo: str
    kind: Kind
    revision: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class RemoteFile:
    """A file as the repository lists it; `blob` is git's id of it or, with a `sha256`, of its LFS pointer."""

    name: str
    size: int
    sha256: str | None
    blob: str


@dataclass(frozen=True)
class Remote:
    """The files wanted of one repository at one commit; `id` is its present name, `repo` the one asked for."""

    repo: str
    kind: Kind
    revision: str
    id: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def page(self) -> str:
        """Where a reader finds the repository."""
        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"

    def cached(self, file: RemoteFile) -> Path | None:
        """Where a file lies in the cache, if it is there in its full size."""
        path = client.try_to_load_from_cache(self.id, file.name, repo_type=self.kind, revision=self.commit)
        return Path(path) if isinstance(path, str) and Path(path).stat().st_size == file.size else None


def plan(wanted: Sequence[Wanted]) -> list[Remote]:
    """Resolve revisions and list the files that match, one entry per repository; nothing is downloaded."""
    patterns: dict[str, list[str]] = {}
    remotes: dict[str, Remote] = {}
    for one in wanted:
        asked = Remote(one.repo, one.kind, one.revision, one.repo, "", ())
        if replace(remotes.setdefault(one.repo, asked), files=()) != asked:
            raise HubError(f"{asked.page} is wanted at {one.revision!r} and as something else; name it once")
        patterns.setdefault(one.repo, []).extend(one.patterns)
    return [_matching(_listed(remote), patterns[repo]) for repo, remote in remotes.items()]


def names(repo: str, kind: Kind, revision: str) -> list[str]:
    """The names of all files of a repository."""
    return [file.name for file in _listed(Remote(repo, kind, revision, repo, "", ())).files]


def announce(plans: Sequence[Remote]) -> str:
    """What fetching `plans` takes, for the user to read before it starts."""
    files, missing = [file for remote in plans for file in remote.files], _missing(plans)
    lines = [
        f"{len(plans)} repositories, {len(files)} files: {missing / GIB:.2f} GiB to fetch, "
        f"{(sum(file.size for file in files) - missing) / GIB:.2f} GiB cached, {_free() / GIB:.2f} GiB free in "
        f"{constants.HF_HUB_CACHE}"
    ]
    return "\n".join(lines + [f"{one.repo} has moved to {one.id}" for one in plans if one.repo != one.id])


def check_room(plans: Sequence[Remote]) -> None:
    """HubError if the disk of the cache lacks room for what is missing."""
    if (needed := _missing(plans) * MARGIN) > (free := _free()):
        raise HubError(
            f"the downloads need {needed / GIB:.2f} GiB, the disk of {constants.HF_HUB_CACHE} has {free / GIB:.2f} GiB "
            f"free; make room, or set HF_HOME to a folder on a larger disk"
        )


def fetch(plans: Sequence[Remote]) -> dict[tuple[str, str], Path]:
    """Download what is missing and verify every file: {(repo, file): path in the cache}."""
    for one in plans:
        folder = Path(constants.HF_HUB_CACHE, f"{one.kind}s--{one.id.replace('/', '--')}", "blobs")
        for partial in folder.glob("*.incomplete"):
            with suppress(FileNotFoundError):  # another process has just finished it
                if time.time() - partial.stat().st_mtime > ABANDONED:
                    partial.unlink()
    return {(one.repo, file.name): _fetched(one, file) for one in plans for file in one.files}


def record(plans: Sequence[Remote]) -> list[dict[str, Any]]:
    """What was fetched, as JSON: repositories, revisions asked for, commits, files with size and hashes."""
    ordered = sorted(plans, key=lambda remote: remote.repo)
    return [{**asdict(remote), "files": [asdict(file) for file in remote.files]} for remote in ordered]


def _listed(asked: Remote) -> Remote:
    """Every file of the repository; the kept listing if the revision is a commit, or offline."""
    name = "--".join((f"{asked.kind}s", asked.repo, asked.revision)).replace("/", "--")
    kept = Path(constants.HF_ASSETS_CACHE, "samerging", f"{name}.json")
    if kept.exists() and ((known := store.read_json(kept))["commit"] == asked.revision or constants.is_offline_mode()):
        return Remote(**{**known, "files": tuple(RemoteFile(**file) for file in known["files"])})

    def ask() -> Remote:
        where, timeout = {"repo_type": asked.kind, "revision": asked.revision}, constants.HF_HUB_DOWNLOAD_TIMEOUT
        info = client.HfApi().repo_info(asked.repo, **where, files_metadata=True, timeout=timeout)
        found = [RemoteFile(o.rfilename, o.size, o.lfs.sha256 if o.lfs else None, o.blob_id) for o in info.siblings]
        if info.gated and found:  # anybody may list a gated repository and read its card
            largest = max(found, key=lambda file: file.size)
            client.get_hf_file_metadata(client.hf_hub_url(info.id, largest.name, **where), timeout=timeout)
        files = tuple(sorted(found, key=lambda file: file.name))
        store.write_json(kept, asdict(remote := replace(asked, id=info.id, commit=info.sha, files=files)))
        return remote

    return _asked(ask, asked, f"revision {asked.revision!r}")


def _matching(remote: Remote, patterns: Sequence[str]) -> Remote:
    for pattern in patterns:
        if not any(_matches(file.name, pattern) for file in remote.files):
            names = ", ".join(file.name for file in remote.files[:8]) + ", ..." * (len(remote.files) > 8)
            raise HubError(f"{remote.page}: no file matches {pattern!r} at {remote.revision!r}; there are: {names}")
    files = [file for file in remote.files if any(_matches(file.name, pattern) for pattern in patterns)]
    for file in files if constants.is_offline_mode() else []:
        if not remote.cached(file):
            raise HubError(_explained(errors.OfflineModeIsEnabled(), remote, file.name))
    return replace(remote, files=tuple(files))


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")


def _missing(plans: Sequence[Remote]) -> int:
    return sum(file.size for remote in plans for file in remote.files if not remote.cached(file))


def _free() -> int:
    cache = Path(constants.HF_HUB_CACHE).absolute()
    return shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free


def _fetched(remote: Remote, file: RemoteFile) -> Path:
    def download() -> str:
        return client.hf_hub_download(remote.id, file.name, repo_type=remote.kind, revision=remote.commit)

    for _ in range(2):
        path = Path(_asked(download, remote, file.name))
        if not (fault := _fault(path, file)):
            return path
        while path.is_symlink():  # the snapshot's link, the blob, a copy that repositories share
            link, path = path, path.parent / path.readlink()
            link.unlink()
        path.unlink(missing_ok=True)
    raise HubError(
        f"{remote.page}: {file.name} {fault}, twice; the copy was deleted. Something on the way alters downloads "
        f"(a proxy, a mirror in HF_ENDPOINT?): mend that, then run it again"
    )


def _fault(path: Path, file: RemoteFile) -> str | None:
    """What is wrong with a downloaded file."""
    if (size := path.stat().st_size) != file.size:
        return f"has {size} bytes, the hub lists {file.size}"
    algorithm, expected = ("sha256", file.sha256) if file.sha256 else ("sha1", file.blob)
    digest = hashlib.new(algorithm, b"" if file.sha256 else b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return None if digest.hexdigest() == expected else f"has {algorithm} {digest.hexdigest()}, the hub lists {expected}"


def _asked(call: Callable[[], Answer], remote: Remote, what: str) -> Answer:
    """The result of `call`; asks again where that can help, HubError if it does not."""
    waits = iter(WAITS)
    while True:
        try:
            return call()
        except FAILURES as error:
            if not _passes(error) or (pause := next(waits, None)) is None:
                raise HubError(_explained(error, remote, what)) from error
            pause = max(pause, _named_wait(error))
            logging.getLogger(__name__).warning("%s: %s: %r; again in %g s", remote.page, what, error, pause)
        time.sleep(pause)


def _passes(error: Exception) -> bool:
    """Whether asking again may help; LocalEntryNotFoundError comes after six attempts of the client's own."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in BUSY
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return False
    miscounted = isinstance(error, OSError) and error.errno is None  # not as many bytes as announced
    return miscounted or isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError, RuntimeError))


def _named_wait(error: Exception) -> int:
    """The seconds that the hub asks to wait."""
    headers = error.response.headers if isinstance(error, errors.HfHubHTTPError) else {}
    limit, after = parse_ratelimit_headers(headers), headers.get("Retry-After", "")
    return limit.reset_in_seconds if limit and not limit.remaining else int(after) if after.isdigit() else 0


def _explained(error: BaseException, remote: Remote, what: str) -> str:
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
            text = f"no such {remote.kind}, or a private one, and {token}; check its name, it may have moved"
        case errors.RevisionNotFoundError():
            text = f"no {what}; name a branch, a tag, or a commit of {remote.page}/commits/main"
        case errors.HfHubHTTPError(response=answer):
            busy = "the hub is busy: try later" if answer.status_code in BUSY else f"see {remote.page} and HF_TOKEN"
            text = f"HTTP {answer.status_code} for {what}; {busy}; what is done is kept"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            text = (
                f"no room for {what} on the disk of {constants.HF_HUB_CACHE}; make room or set HF_HOME, then run again"
            )
        case _:
            reason = f"{type(error).__name__}: {error}"
            text = (
                f"{what}: {reason}; check the network, HF_ENDPOINT and HF_HOME; HF_HUB_OFFLINE=1 uses the cache alone"
            )
    return f"{remote.page}: {text}"
