"""A bundle -> a folder like a repository, once its files are those that its RO-Crate metadata describes."""

import hashlib
import json
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.audit.finding import MALFORMED, Finding, Tally
from pipeline.audit.repository import RepositoryError

METADATA = "ro-crate-metadata.json"


def unpack(bundle: Path, folder: Path) -> Finding:
    """Unpack `bundle` into `folder`; RepositoryError if it is no archive, or holds anything but files of the folder."""
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
    return _described(folder)


def _described(folder: Path) -> Finding:
    """Every file has an entity with its size and SHA-256, and every entity of a file has its file."""
    tally = Tally("bundle", "files are those that the RO-Crate metadata describes")
    place = folder / METADATA
    if not place.is_file():
        tally.expect(False, f"{METADATA} is missing")
        return tally.finding()
    try:
        graph = json.loads(place.read_text("utf-8"))["@graph"]
        entities = {
            entity["@id"]: (entity["sha256"], int(entity["contentSize"])) for entity in graph if "sha256" in entity
        }
    except MALFORMED as error:
        raise RepositoryError(f"{METADATA}: not RO-Crate metadata ({error!r}); get the bundle again") from error
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {METADATA}
    for name in sorted(files | entities.keys()):
        if name not in files or name not in entities:
            tally.expect(False, f"{name} is {'not in the bundle' if name in entities else 'not described'}")
            continue
        content = (folder / name).read_bytes()
        found = (hashlib.sha256(content).hexdigest(), len(content))
        tally.expect(found == entities[name], f"{name} is not as described")
    return tally.finding()
