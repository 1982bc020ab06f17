"""dvc.lock against everything whose hash it holds: nothing was edited after the run.

A directory's hash is, as DVC defines it, the MD5 of the JSON list of its files' MD5s and paths, sorted by path. Where
that list is at hand (DVC's cache keeps it, a bundle brings it) a directory can be compared file by file, whole or not.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline.audit import imports
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.repository import Repository, Stamp, stamp
from pipeline.audit.stages import Declared, Locked, lookup, pipelines

RESTORED = ("data/scores/", "data/runs/", "data/origins/", "data/previews/")
"""Outputs of stages that the evidence keeps word for word, each of them."""


def check(repository: Repository) -> list[Finding]:
    """Stages, parameters, code, report, data, and the chain from one stage's outputs to the next one's inputs."""
    declared, locked, idle = pipelines(repository)
    kinds = {
        "code": ("files of code and tables are those that ran", _is_code),
        "report": ("files of the report are those that the run wrote", _is_report),
        "data": ("files of data are those of the run", _is_data),
    }
    return [
        _stages(declared, locked, idle),
        _params(locked, repository.yaml("params.yaml")),
        *(_files(name, what, repository, locked, wanted) for name, (what, wanted) in kinds.items()),
        imports.check(repository, locked),
        _restored(repository, locked),
        _chain(locked),
    ]


def listing_path(md5: str) -> str:
    """Where DVC's cache keeps the list of a directory's files."""
    return f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"


def directory(members: Mapping[str, Stamp]) -> bytes:
    """The list that a directory's MD5 is of; members by their paths relative to it."""
    return json.dumps([{"md5": one.md5, "relpath": name} for name, one in sorted(members.items())]).encode()


def entries(stages: Mapping[str, Locked], keys: Iterable[str] = ("deps", "outs")) -> Iterator[tuple[str, Locked]]:
    """(stage, entry) of every dependency and output."""
    for name, stage in stages.items():
        for key in keys:
            for entry in stage.get(key, []):
                yield name, entry


def _is_code(path: str) -> bool:
    return not (_is_report(path) or _is_data(path))


def _is_report(path: str) -> bool:
    return path.startswith("reports/")


def _is_data(path: str) -> bool:
    return path.startswith("data/")


def _stages(declared: Mapping[str, Declared], locked: Mapping[str, Locked], idle: Sequence[str]) -> Finding:
    tally = Tally("lock: stages", "stages of dvc.yaml ran as it declares them")
    for name, stage in declared.items():
        if name not in locked:
            tally.expect(False, f"{name} is not in dvc.lock: it never ran")
            continue
        held = locked[name]
        found = Declared(
            held["cmd"],
            frozenset(entry["path"] for entry in held.get("deps", [])),
            frozenset(key for values in held.get("params", {}).values() for key in values),
            frozenset(entry["path"] for entry in held.get("outs", [])),
            stage.folder,
        )
        odd = [part for part in ("command", "deps", "params", "outs") if getattr(stage, part) != getattr(found, part)]
        tally.expect(not odd, f"{name} ran with other {', '.join(odd)} than dvc.yaml declares")
    tally.absent += [f"dvc.lock of {path}: it never ran" for path in idle]
    return tally.finding()


def _params(stages: Mapping[str, Locked], params: Mapping[str, Any]) -> Finding:
    tally = Tally("lock: parameters", "values of params.yaml are those that stages ran with")
    for name, stage in stages.items():
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            try:
                now = lookup(params, key)
            except KeyError:
                now = "missing"
            tally.expect(now == value, f"{key} = {_short(now)} but {name} ran with {_short(value)}")
    return tally.finding()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _files(
    name: str, what: str, repository: Repository, stages: Mapping[str, Locked], wanted: Callable[[str], bool]
) -> Finding:
    tally, seen = Tally(f"lock: {name}", what), set()
    outputs = [entry["path"] for _, entry in entries(stages, ["outs"]) if PurePosixPath(entry["path"]).suffix]
    for stage, entry in entries(stages):
        key = (entry["path"], entry["md5"])
        if wanted(entry["path"]) and key not in seen:
            seen.add(key)
            inside = [made for made in outputs if made.startswith(f"{entry['path']}/")]
            if lacking := [made for made in inside if made not in repository.stamps]:
                tally.absent.append(f"{entry['path']}: {len(lacking)} of its files")  # Git keeps some of data/runs
            else:
                _compare(tally, repository, stage, entry, required=name != "data")
    return tally.finding()


def _compare(tally: Tally, repository: Repository, stage: str, entry: Locked, required: bool) -> None:
    path, md5 = entry["path"], entry["md5"]
    if not md5.endswith(".dir"):
        found = repository.stamps.get(path)
        if found is None:
            _missing(tally, path, required)
        else:
            same = found == Stamp(md5, entry.get("size", found.size))
            tally.expect(same, f"{path} is not the file of stage {stage}: changed after the run")
        return
    members = {name: one for name, one in repository.stamps.items() if name.startswith(f"{path}/")}
    content = repository.bytes(listing_path(md5))
    if content is not None and f"{stamp(content).md5}.dir" == md5:
        listed = {f"{path}/{one['relpath']}": one["md5"] for one in json.loads(content)}
        for name, one in members.items():
            tally.expect(listed.get(name) == one.md5, f"{name} is not the file of stage {stage}: changed after the run")
        if absent := len(listed.keys() - members.keys()):
            tally.absent.append(f"{absent} of {len(listed)} files of {path}")
    elif members:
        own = directory({name.removeprefix(f"{path}/"): one for name, one in members.items()})
        same = f"{stamp(own).md5}.dir" == md5
        tally.compared += len(members) - 1
        tally.expect(same, f"{path}/ is not the directory of stage {stage}: changed after the run")
    else:
        _missing(tally, path, required)


def _missing(tally: Tally, path: str, required: bool) -> None:
    if required:
        tally.expect(False, f"{path} is missing")
    else:
        tally.absent.append(path)


def _restored(repository: Repository, stages: Mapping[str, Locked]) -> Finding:
    """What the evidence holds of data/ has the hashes of the run, whether or not data/ is there."""
    tally = Tally("lock: evidence", "files of data/ restored from the evidence have the hashes of dvc.lock")
    held = {entry["path"]: entry for _, entry in entries(stages, ["outs"])}
    folders: dict[str, dict[str, Stamp]] = {}
    for path, content in repository.restored.items():
        folder, _, name = path.rpartition("/")
        if path in held:
            same = stamp(content).md5 == held[path]["md5"]
            tally.expect(same, f"{path} as the evidence has it is not what its stage wrote")
        elif folder in held:
            folders.setdefault(folder, {})[name] = stamp(content)
        else:
            tally.expect(False, f"{path} stands in the evidence, but no stage of dvc.lock wrote it")
    for path, members in folders.items():
        same = f"{stamp(directory(members)).md5}.dir" == held[path]["md5"]
        tally.compared += len(members) - 1
        tally.expect(same, f"{path}/ as the evidence has it is not what its stage wrote")
    written = [path for path in held if path.startswith(RESTORED)]
    for path in written if repository.restored else ():
        there = path in repository.restored
        tally.expect(there, f"{path} was written by a stage, and the evidence does not have it")
    if not repository.restored:
        tally.absent.append("reports/evidence")
    return tally.finding()


def _chain(stages: Mapping[str, Locked]) -> Finding:
    """Every dependency that a stage wrote has the hash that this stage gave it."""
    tally = Tally("lock: chain", "inputs have the hashes of the stages that made them")
    made = {entry["path"]: (name, entry) for name, entry in entries(stages, ["outs"])}
    for name, entry in entries(stages, ["deps"]):
        if entry["path"] in made:
            maker, output = made[entry["path"]]
            same = entry["md5"] == output["md5"]
            tally.expect(same, f"{name} read another {entry['path']} than {maker} wrote")
    return tally.finding()
