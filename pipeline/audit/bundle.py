"""Everything that a reviewer needs to check the numbers, in one archive: `python -m pipeline.audit.bundle [FILE]`.

A bundle is a repository with less data: parameters, lock, code, report, scores, coefficients of SAMerging, draws of
examples, labels, run records; no examples and no weights. It keeps DVC's lists of the files of every directory, so that
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
from pipeline.audit.lock import entries, listing_path
from pipeline.audit.repository import Repository, gather, hash_directory, list_directory
from pipeline.audit.stages import read_pipelines
from pipeline.audit.suite import AuditedSuite
from pipeline.runtime.errors import BenchmarkError

DEFAULT = Path("samerging-benchmark.tar.gz")
ROOT_FILES = (
    "params.yaml", "dvc.yaml", "dvc.lock", ".dvcignore", "requirements.lock", "pyproject.toml", "Makefile", "README.md",
    "LICENSE", "CITATION.cff",
)  # fmt: skip
WANTED = (
    "pipeline/*", "stages/*", "reports/*", "data/README.md", "data/runs/*", "data/origins/*.json",
    "data/scores/*", "data/costs/*", "data/diagnostics/*.csv", "data/studies/*.csv",
    "data/suites/*/suite.json", "data/suites/*/labels/*", "data/suites/*/clusters/*",
    "data/merges/*/coefficients.safetensors",
    *(f"data/{folder}/*/{name}" for folder in ("merges", "studies")
      for name in ("merge.json", "draws.safetensors", "losses.csv", "rescale.csv")),
)  # fmt: skip
"""What is taken, by fnmatch, of the folders that the audit knows; * crosses folders."""
FURTHER = ("benchmarks/*.py", "benchmarks/results/*.json", "docs/*.md")
LEFT_OUT = {"reports/audit.json", "reports/templates/offline.html"}
HUB = "https://huggingface.co"
LOCAL = (".", "/", "~")
"""How the place of a model or data set begins that is no repository of the hub."""
ON_CARD = "see the card of the repository"
LICENCE = re.compile(r"\(([^()]*(?:BSD|CC|MIT|OFL|public domain|licence)[^()]*)\)")


class BundleError(BenchmarkError):
    """A repository of which no bundle can be made."""


def read_contents(repository: Repository) -> dict[str, bytes]:
    """Return {path: content} of the bundle, sorted, without its metadata.

    Raises BundleError where a file of the root is missing, or a directory on disk is not that of dvc.lock.
    """
    root = repository.root
    if missing := [name for name in ROOT_FILES if not (root / name).is_file()]:
        raise BundleError(f"no {', '.join(missing)} in {root.resolve()}; bundle the root of a whole repository")
    further = (path.relative_to(root).as_posix() for pattern in FURTHER for path in root.glob(pattern))
    wanted = (name for name in repository.stamps if any(fnmatch(name, pattern) for pattern in WANTED))
    files = {name: (root / name).read_bytes() for name in {*ROOT_FILES, *wanted, *further} - LEFT_OUT}
    return dict(sorted((files | dict(_listings(repository))).items()))


def _listings(repository: Repository) -> Iterator[tuple[str, bytes]]:
    """Yield (path in DVC's cache, list) of every directory of data/ in dvc.lock that is on disk."""
    _, locked, _ = read_pipelines(repository)
    for stage, entry in entries(locked):
        path, md5 = entry["path"], entry["md5"]
        members = repository.members(path)
        if not (md5.endswith(".dir") and path.startswith("data/") and members):
            continue
        if hash_directory(members) != md5:
            raise BundleError(
                f"{path} is not the directory of stage {stage} in dvc.lock; run dvc repro, or dvc checkout"
            )
        yield listing_path(md5), list_directory(members)


def describe_contents(repository: Repository, files: Mapping[str, bytes], day: str) -> bytes:
    """Return ro-crate-metadata.json; `day`: an ISO date, on which the bundle was published."""
    crate, citation = ROCrate(), repository.yaml("CITATION.cff")
    licence = citation["license"]
    crate.name, crate.description = citation["title"], "Audit it: `python -m pipeline.audit --bundle FILE`."
    crate.datePublished = day
    crate.license = _add(crate, f"https://spdx.org/licenses/{licence}", "CreativeWork", name=licence)
    crate.creator = _add(crate, "#authors", "Organization", name=citation["authors"][0]["name"])
    papers = citation["references"]
    authors = [[f"{one['given-names']} {one['family-names']}" for one in paper["authors"]] for paper in papers]
    crate.root_dataset["citation"] = [
        _add(crate, paper["url"], "ScholarlyArticle", name=paper["title"], author=names)
        for paper, names in zip(papers, authors, strict=True)
    ]
    crate.root_dataset["mentions"] = [_add(crate, **source) for source in cite_sources(repository)]
    for name, content in files.items():
        described = {"contentSize": str(len(content)), "sha256": hashlib.sha256(content).hexdigest()}
        crate.add_file(dest_path=name, source=repository.root / name, properties={"name": name, **described})
    return f"{json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False)}\n".encode()


def _add(crate: ROCrate, identifier: str, kind: str, **properties: Any) -> ContextEntity:
    entity = ContextEntity(crate, identifier, {"@type": kind, **properties})
    crate.add(entity)
    return entity


def cite_sources(repository: Repository) -> list[dict[str, str]]:
    """Return every data set and checkpoint of the suites that ran, with what is known of its licence."""
    sources: dict[str, dict[str, str]] = {}
    for suite in (AuditedSuite(repository, name) for name in repository.suites):
        cite = {"clip": _cite_public, "glue": _cite_glue}.get(suite.definition["family"], _cite_embedded)
        sources |= {source["identifier"]: source for source in cite(suite)}
    return [*sources.values()]


def _cite_embedded(suite: AuditedSuite) -> Iterator[dict[str, str]]:
    """Yield the rows of the table of data/README.md; the weights are trained by the benchmark itself."""
    for row in re.findall(r"^\| (.+) \|$", suite.repository.text("data/README.md") or "", re.MULTILINE):
        task, _, examples, *_ = (*row.split(" | "), "", "")
        if task in suite.tasks:
            licence = "; ".join(LICENCE.findall(examples))
            yield _source(f"#{task}", "Dataset", task, licence, description=examples)


def _cite_public(suite: AuditedSuite) -> Iterator[dict[str, str]]:
    """Yield data sets and checkpoints of a public suite, at the revisions that its definition or the tables name."""
    for entry in suite.definition["tasks"]:
        if isinstance(entry, str):
            row, backbone = suite.public_tasks[entry], suite.definition["backbone"]
            task, dataset, expert = entry, row["dataset"], row[f"checkpoint_{backbone}"]
            revisions = row["revision"], row[f"revision_{backbone}"]
        else:
            task, dataset, expert = entry["name"], entry["dataset"], entry["expert"]
            revisions = entry.get("revision"), entry.get("expert_revision")
        for place, folder, kind, name, revision in (
            (dataset, "datasets/", "Dataset", f"examples of {task}", revisions[0]),
            (expert, "", "SoftwareSourceCode", f"expert of {task}", revisions[1]),
        ):
            if place.startswith(LOCAL):
                yield _source(f"#{name.replace(' ', '-')}", kind, name, "not stated", description="a local file")
            else:
                yield _source(f"{HUB}/{folder}{place}", kind, name, ON_CARD, version=revision or "main")


def _cite_glue(suite: AuditedSuite) -> Iterator[dict[str, str]]:
    """Yield GLUE and the experts, at the revisions that the definition or the table name."""
    definition, experts = suite.definition, suite.definition.get("experts", {})
    revision = definition.get("data_revision", "main")
    yield _source(f"{HUB}/datasets/{definition['data']}", "Dataset", "texts of GLUE", ON_CARD, version=revision)
    for task in suite.tasks:
        row = suite.public_tasks[task]
        place = f"{HUB}/{experts.get(task, row['checkpoint'])}"
        version = row["revision"] or "main"
        yield _source(place, "SoftwareSourceCode", f"expert of {task}", ON_CARD, version=version)


def _source(identifier: str, kind: str, name: str, licence: str, **properties: str) -> dict[str, str]:
    return {"identifier": identifier, "kind": kind, "name": name, "license": licence, **properties}


def pack_bundle(files: Mapping[str, bytes]) -> bytes:
    """Return a .tar.gz of the files, in order, whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def read_date(root: Path) -> str:
    """Return the day of the commit, or of SOURCE_DATE_EPOCH; BundleError if there is neither."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not seconds:
        command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
        seconds = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not seconds.isdigit():
        raise BundleError("no commit to take the date from; make the bundle in a Git clone, or set SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(seconds), UTC).date().isoformat()


def main() -> None:
    """Write the bundle of the current folder to the file of the command line, or DEFAULT."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    try:
        repository = gather(Path())
        files = read_contents(repository)
        packed = pack_bundle({METADATA: describe_contents(repository, files, read_date(Path())), **files})
    except BenchmarkError as error:
        sys.exit(f"bundle: {error}")
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(packed)
    temporary.replace(path)
    print(f"{path}: {len(files) + 1:,} files, {len(packed) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
