"""A bundle -> a folder like a repository, once its files are those that its RO-Crate metadata describes."""

import hashlib
import json
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.audit.finding import MALFORMED, Finding
from pipeline.audit.repository import RepositoryError

METADATA = "ro-crate-metadata.json"


def unpack_bundle(bundle: Path, folder: Path) -> Finding:
    """Unpack `bundle` into `folder` and check it against its description.

    Raises RepositoryError if it is no archive, or holds anything but files of the folder.
    """
    try:
        with tarfile.open(bundle, "r:gz") as archive:
            for member in archive:  # extractall(filter=) is not in every Python 3.11
                place = PurePosixPath(member.name)
                content = archive.extractfile(member) if member.isfile() else None
                if content is None or place.is_absolute() or ".." in place.parts:
                    raise tarfile.TarError(f"{member.name!r} is no file of its folder")
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                (folder / place).write_bytes(content.read())
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise RepositoryError(f"{bundle}: not a bundle of `make bundle` ({error}); get the file again") from error
    return _check_description(folder)


def _check_description(folder: Path) -> Finding:
    """Check that every file has an entity with its size and SHA-256, and every entity of a file has its file."""
    finding, place = Finding("bundle", "files are those that the RO-Crate metadata describes"), folder / METADATA
    if not place.is_file():
        finding.expect(False, f"{METADATA} is missing")
        return finding
    try:
        graph = json.loads(place.read_text("utf-8"))["@graph"]
        described = {
            entity["@id"]: (entity["sha256"], int(entity["contentSize"])) for entity in graph if "sha256" in entity
        }
    except MALFORMED as error:
        raise RepositoryError(f"{METADATA}: not RO-Crate metadata ({error!r}); get the bundle again") from error
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {METADATA}
    for name in sorted(files | described.keys()):
        if name not in files or name not in described:
            finding.expect(False, f"{name} is {'not in the bundle' if name in described else 'not described'}")
            continue
        content = (folder / name).read_bytes()
        same = described[name] == (hashlib.sha256(content).hexdigest(), len(content))
        finding.expect(same, f"{name} is not as described")
    return finding
