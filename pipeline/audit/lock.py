"""dvc.lock against everything whose hash it holds: nothing was edited after the run.

A directory's hash is, as DVC defines it, the MD5 of the JSON list of its files' MD5s and paths, sorted by path. Where
that list is there (DVC's cache keeps it, a bundle brings it) a directory can be compared file by file, whole or not.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline.audit import imports
from pipeline.audit.finding import Finding
from pipeline.audit.repository import Repository, Stamp, hash_directory, stamp_bytes
from pipeline.audit.stages import Declared, Locked, lookup, read_pipelines

RESTORED = ("data/scores/", "data/runs/", "data/origins/", "data/previews/", "data/clusters/")
"""Outputs of stages that the evidence keeps word for word, each of them."""
KINDS = {
    "code": "files of code and tables are those that ran",
    "report": "files of the report are those that the run wrote",
    "data": "files of data are those of the run",
}


def check(repository: Repository) -> list[Finding]:
    """Check stages, parameters, code, report, data, and the chain from a stage's outputs to the next one's inputs."""
    declared, locked, idle = read_pipelines(repository)
    return [
        _check_stages(declared, locked, idle),
        _check_params(locked, repository.params),
        *(_check_files(repository, locked, kind) for kind in KINDS),
        imports.check(repository, locked),
        _check_evidence(repository, locked),
        _check_chain(locked),
    ]


def listing_path(md5: str) -> str:
    """Return where DVC's cache keeps the list of a directory's files."""
    return f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"


def entries(stages: Mapping[str, Locked], keys: Iterable[str] = ("deps", "outs")) -> Iterator[tuple[str, Locked]]:
    """Yield (stage, entry) of every dependency and output."""
    return ((name, entry) for name, stage in stages.items() for key in keys for entry in stage.get(key, []))


def _check_stages(declared: Mapping[str, Declared], locked: Mapping[str, Locked], idle: Sequence[str]) -> Finding:
    finding = Finding("lock: stages", "stages of dvc.yaml ran as it declares them")
    for name, stage in declared.items():
        if name not in locked:
            finding.expect(False, f"{name} is not in dvc.lock: it never ran")
            continue
        entry = locked[name]
        ran = {
            "command": entry["cmd"],
            "deps": {one["path"] for one in entry.get("deps", [])},
            "params": {key for values in entry.get("params", {}).values() for key in values},
            "outs": {one["path"] for one in entry.get("outs", [])},
        }
        odd = [part for part, value in ran.items() if getattr(stage, part) != value]
        finding.expect(not odd, f"{name} ran with other {', '.join(odd)} than dvc.yaml declares")
    return finding.skip(*(f"dvc.lock of {path}: it never ran" for path in idle))


def _check_params(stages: Mapping[str, Locked], params: Mapping[str, Any]) -> Finding:
    finding = Finding("lock: parameters", "values of params.yaml are those that stages ran with")
    for name, stage in stages.items():
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            try:
                now = lookup(params, key)
            except KeyError:
                now = "missing"
            finding.expect(now == value, f"{key} = {_shortened(now)} but {name} ran with {_shortened(value)}")
    return finding


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _check_files(repository: Repository, stages: Mapping[str, Locked], kind: str) -> Finding:
    """Check the files of a kind, one of KINDS: their folder decides it. Data may be missing, and only in part."""
    finding, seen = Finding(f"lock: {kind}", KINDS[kind]), set()
    outputs = [entry["path"] for _, entry in entries(stages, ["outs"]) if PurePosixPath(entry["path"]).suffix]
    for stage, entry in entries(stages):
        path, key = entry["path"], (entry["path"], entry["md5"])
        if {"data": "data", "reports": "report"}.get(path.partition("/")[0], "code") != kind or key in seen:
            continue
        seen.add(key)
        missing = [name for name in outputs if name.startswith(f"{path}/") and name not in repository.stamps]
        if missing:
            finding.skip(f"{path}: {len(missing)} of its files")  # Git keeps some of data/runs
        elif not _check_entry(finding, repository, stage, entry):
            if kind == "data":
                finding.skip(path)
            else:
                finding.expect(False, f"{path} is missing")
    return finding


def _check_entry(finding: Finding, repository: Repository, stage: str, entry: Locked) -> bool:
    """Compare a file, or what there is of a directory; return False if nothing of it is there."""
    path, md5 = entry["path"], entry["md5"]
    changed = f"of stage {stage}: changed after the run"
    stamp, members = repository.stamps.get(path), repository.members(path)
    if not md5.endswith(".dir"):
        if stamp is not None:
            same = stamp == Stamp(md5, entry.get("size", stamp.size))
            finding.expect(same, f"{path} is not the file {changed}")
        return stamp is not None
    content = repository.bytes(listing_path(md5))
    if content is not None and f"{stamp_bytes(content).md5}.dir" == md5:
        listed = {one["relpath"]: one["md5"] for one in json.loads(content)}
        for name, member in members.items():
            finding.expect(listed.get(name) == member.md5, f"{path}/{name} is not the file {changed}")
        if absent := len(listed.keys() - members.keys()):
            finding.skip(f"{absent} of {len(listed)} files of {path}")
        return True
    if members:
        finding.compared += len(members) - 1
        finding.expect(hash_directory(members) == md5, f"{path}/ is not the directory {changed}")
    return bool(members)


def _check_evidence(repository: Repository, stages: Mapping[str, Locked]) -> Finding:
    """Check that what the evidence holds of data/ has the hashes of the run, whether or not data/ is there."""
    finding = Finding("lock: evidence", "files of data/ restored from the evidence have the hashes of dvc.lock")
    if not repository.restored:
        return finding.skip("reports/evidence")
    hashes = {entry["path"]: entry["md5"] for _, entry in entries(stages, ["outs"])}
    folders: dict[str, dict[str, Stamp]] = {}
    for path, content in repository.restored.items():
        folder, _, name = path.rpartition("/")
        if path in hashes:
            same = stamp_bytes(content).md5 == hashes[path]
            finding.expect(same, f"{path} as the evidence has it is not what its stage wrote")
        elif folder in hashes:
            folders.setdefault(folder, {})[name] = stamp_bytes(content)
        else:
            finding.expect(False, f"{path} stands in the evidence, but no stage of dvc.lock wrote it")
    for path, members in folders.items():
        same = hash_directory(members) == hashes[path]
        finding.compared += len(members) - 1
        finding.expect(same, f"{path}/ as the evidence has it is not what its stage wrote")
    for path in (path for path in hashes if path.startswith(RESTORED)):
        there = path in repository.restored
        finding.expect(there, f"{path} was written by a stage, and the evidence does not have it")
    return finding


def _check_chain(stages: Mapping[str, Locked]) -> Finding:
    """Check that every dependency that a stage wrote has the hash that this stage gave it."""
    finding = Finding("lock: chain", "inputs have the hashes of the stages that made them")
    outputs = {entry["path"]: (name, entry["md5"]) for name, entry in entries(stages, ["outs"])}
    for name, entry in entries(stages, ["deps"]):
        if entry["path"] in outputs:
            maker, md5 = outputs[entry["path"]]
            complaint = f"{name} read another {entry['path']} than {maker} wrote; run {name} again"
            finding.expect(entry["md5"] == md5, complaint)
    return finding
