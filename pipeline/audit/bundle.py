"""Everything that a reviewer needs to check the numbers, in one archive: `python -m pipeline.audit.bundle [FILE]`.

A bundle is a repository with less data: parameters, lock, code, report, scores, coefficients of SAMerging, draws of
images, labels, run records; no images and no weights. It keeps DVC's lists of the files of every directory, so that
what is in it can still be held against dvc.lock. `python -m pipeline.audit --bundle FILE` does.

ro-crate-metadata.json (RO-Crate 1.3) describes every file by size and SHA-256, and cites the paper, the data sets and
the checkpoints with their licences. The same repository at the same commit gives the same bytes.
"""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from pipeline.audit.archive import METADATA
from pipeline.audit.images import TABLES
from pipeline.audit.lock import directory, entries, listing_path
from pipeline.audit.repository import Repository, gather, stamp
from pipeline.audit.stages import pipelines
from pipeline.runtime.errors import BenchmarkError

DEFAULT = Path("samerging-benchmark.tar.gz")
ROOT_FILES = (
    "params.yaml", "dvc.yaml", "dvc.lock", ".dvcignore", "requirements.lock", "pyproject.toml", "Makefile", "README.md",
    "LICENSE", "CITATION.cff",
)  # fmt: skip
WANTED = (
    "pipeline/*", "stages/*", "reports/*", "data/README.md", "data/runs/*", "data/origins/*.json",
    "data/scores/*", "data/costs/*", "data/diagnostics/*.csv", "data/studies/*.csv",
    "data/suites/*/suite.json", "data/suites/*/labels/*", "data/merges/*/coefficients.safetensors",
    *(f"data/{folder}/*/{name}" for folder in ("merges", "studies")
      for name in ("merge.json", "draws.safetensors", "losses.csv", "rescale.csv")),
)  # fmt: skip
"""What is taken, by fnmatch, of the folders that the audit knows; * crosses folders."""
LEFT = ("reports/audit.json", "reports/templates/offline.html")
HUB = "https://huggingface.co"
LICENCE = re.compile(r"\(([^()]*(?:BSD|CC|MIT|OFL|public domain|licence)[^()]*)\)")


class BundleError(BenchmarkError):
    """A repository of which no bundle can be made."""


def contents(repository: Repository) -> dict[str, bytes]:
    """{path: content} of the bundle, sorted, without its metadata.

    Raises BundleError where a file of the root is missing, or a directory at hand is not the one of dvc.lock.
    """
    if missing := [name for name in ROOT_FILES if not (repository.root / name).is_file()]:
        raise BundleError(
            f"no {', '.join(missing)} in {repository.root.resolve()}; bundle the root of a whole repository"
        )
    wanted = [name for name in repository.stamps if name not in LEFT and any(fnmatch(name, one) for one in WANTED)]
    benchmarks = [
        *(repository.root / "benchmarks").glob("*.py"),
        *(repository.root / "benchmarks/results").glob("*.json"),
    ]
    further = [*benchmarks, *(repository.root / "docs").glob("*.md")]
    names = {*ROOT_FILES, *wanted, *(path.relative_to(repository.root).as_posix() for path in further)}
    found = {name: (repository.root / name).read_bytes() for name in names}
    return dict(sorted({**found, **dict(_listings(repository))}.items()))


def _listings(repository: Repository) -> Iterator[tuple[str, bytes]]:
    """(path in DVC's cache, list) of every directory of data/ in dvc.lock that is at hand."""
    for stage, entry in entries(pipelines(repository)[1]):
        path, md5 = entry["path"], entry["md5"]
        inside = {name: one for name, one in repository.stamps.items() if name.startswith(f"{path}/")}
        if not (md5.endswith(".dir") and path.startswith("data/") and inside):
            continue
        content = directory({name.removeprefix(f"{path}/"): one for name, one in inside.items()})
        if f"{stamp(content).md5}.dir" != md5:
            raise BundleError(
                f"{path} is not the directory of stage {stage} in dvc.lock; run dvc repro, or dvc checkout"
            )
        yield listing_path(md5), content


def metadata(repository: Repository, files: Mapping[str, bytes], published: str) -> bytes:
    """ro-crate-metadata.json; published: an ISO date."""
    crate = ROCrate()
    cited = repository.yaml("CITATION.cff")
    crate.name, crate.description = cited["title"], "Audit it: `python -m pipeline.audit --bundle FILE`."
    crate.datePublished = published
    crate.license = _add(crate, f"https://spdx.org/licenses/{cited['license']}", "CreativeWork", name=cited["license"])
    crate.creator = _add(crate, "#authors", "Organization", name=cited["authors"][0]["name"])
    crate.root_dataset["citation"] = [
        _add(crate, paper["url"], "ScholarlyArticle", name=paper["title"], author=_authors(paper))
        for paper in cited["references"]
    ]
    crate.root_dataset["mentions"] = [_add(crate, **source) for source in sources(repository)]
    for name, content in files.items():
        described = {"contentSize": str(len(content)), "sha256": hashlib.sha256(content).hexdigest()}
        crate.add_file(dest_path=name, source=repository.root / name, properties={"name": name, **described})
    return f"{json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False)}\n".encode()


def _add(crate: ROCrate, identifier: str, kind: str, **properties: Any) -> ContextEntity:
    return crate.add(ContextEntity(crate, identifier, {"@type": kind, **properties}))


def _authors(paper: Mapping[str, Any]) -> list[str]:
    return [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]


def sources(repository: Repository) -> list[dict[str, str]]:
    """Every data set and checkpoint of the suites that ran, with what is known of its licence."""
    found: dict[str, dict[str, str]] = {}
    for suite in repository.yaml("params.yaml")["suites"]:
        definition = repository.yaml(f"pipeline/suites/{suite}.yaml")
        public = (
            _public(repository, definition) if definition["family"] == "clip" else _embedded(repository, definition)
        )
        found |= {one["identifier"]: one for one in public}
    return [*found.values()]


def _embedded(repository: Repository, definition: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The rows of the table of data/README.md; the weights are trained by the benchmark itself."""
    for row in re.findall(r"^\| (.+) \|$", repository.text("data/README.md") or "", re.MULTILINE):
        task, _, images, *_ = (*row.split(" | "), "", "")
        if task in definition["tasks"]:
            licence = "; ".join(LICENCE.findall(images))
            yield {
                "identifier": f"#{task}",
                "kind": "Dataset",
                "name": task,
                "description": images,
                "license": licence,
            }


def _public(repository: Repository, definition: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Data sets and checkpoints of the public suites, at the revisions that the tables name."""
    rows = repository.table(TABLES).set_index("task")
    licence = "see the card of the repository"
    for entry in definition["tasks"]:
        if isinstance(entry, str):
            row = rows.loc[entry]
            task, dataset, expert = entry, row["dataset"], row[f"checkpoint_{definition['backbone']}"]
            revision = row["revision"]
        else:
            task, dataset, expert, revision = entry["name"], entry["dataset"], entry["expert"], "main"
        places = (("Dataset", f"{HUB}/datasets/{dataset}"), ("SoftwareSourceCode", f"{HUB}/{expert}"))
        for (kind, place), version in zip(places, (revision, "main"), strict=True):
            what = "images" if kind == "Dataset" else "expert"
            yield {
                "identifier": place,
                "kind": kind,
                "name": f"{what} of {task}",
                "version": version,
                "license": licence,
            }


def archive(files: Mapping[str, bytes]) -> bytes:
    """A .tar.gz of the files, in order, whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def published(root: Path) -> str:
    """The day of the commit, or of SOURCE_DATE_EPOCH; BundleError if there is neither."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not seconds:
        asked = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
        seconds = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if not seconds.isdigit():
        raise BundleError("no commit to take the date from; make the bundle in a Git clone, or set SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(seconds), UTC).date().isoformat()


def main() -> None:
    """Write the bundle of the current folder to the file of the command line, or DEFAULT."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    try:
        repository = gather(Path())
        files = contents(repository)
        packed = archive({METADATA: metadata(repository, files, published(Path())), **files})
    except BenchmarkError as error:
        sys.exit(f"bundle: {error}")
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(packed)
    temporary.replace(path)
    print(f"{path}: {len(files) + 1:,} files, {len(packed) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
