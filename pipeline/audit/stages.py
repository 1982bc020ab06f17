"""dvc.yaml and params.yaml -> the stages, with what dvc.lock must hold of each.

There may be further pipelines below stages/, each a dvc.yaml with its dvc.lock. All paths are relative to the root.
"""

import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.audit.repository import Repository, RepositoryError

Locked = Mapping[str, Any]
"""A stage of dvc.lock."""
CHECKED = frozenset({"data/checked.json"})
"""What the check of params.yaml writes."""


@dataclass(frozen=True)
class Declared:
    """One stage, all templates filled in."""

    command: str
    deps: frozenset[str]
    params: frozenset[str]
    outs: frozenset[str]
    folder: str
    """Where it runs."""


def read_pipelines(repository: Repository) -> tuple[dict[str, Declared], dict[str, Locked], list[str]]:
    """Return all stages as declared and as locked, and the dvc.yaml files below stages/ that never ran.

    The name of a stage of such a file begins with its folder. Left out are the check of params.yaml and studies that it
    does not name: no number is theirs.
    """
    declared, locked, idle = {}, {}, []
    for path in ("dvc.yaml", *repository.names("stages", "/dvc.yaml")):
        folder = posixpath.dirname(path)
        if folder and repository.text(f"{folder}/dvc.lock") is None:
            idle.append(path)
            continue
        prefix, lock = f"{folder}:" * bool(folder), repository.yaml(posixpath.join(folder, "dvc.lock"))["stages"]
        for name, stage in expand_stages(repository.yaml(path), repository.params, folder).items():
            study = any(out.startswith("data/studies/") for out in stage.outs)
            if stage.outs <= CHECKED or (study and name.partition("@")[0] not in repository.studies):
                continue
            declared[prefix + name] = stage
            if name in lock:
                locked[prefix + name] = _from_root(lock[name], stage.folder)
    return declared, locked, idle


def _from_root(stage: Locked, folder: str) -> Locked:
    """Return the stage of a lock with its paths relative to the root."""
    files = {
        key: [{**entry, "path": _join(folder, entry["path"])} for entry in stage.get(key, [])]
        for key in ("deps", "outs")
    }
    return {**stage, **files, "params": {_join(folder, path): keys for path, keys in stage.get("params", {}).items()}}


def _join(folder: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(folder, path))


def expand_stages(definition: Mapping[str, Any], params: Mapping[str, Any], folder: str = "") -> dict[str, Declared]:
    """Return {name: stage} of a dvc.yaml in `folder`; a matrix gives one per combination, `<stage>@<value>-<value>`."""
    stages = {}
    for name, stage in definition["stages"].items():
        for suffix, item in _combinations(stage.get("matrix", {}), params):
            filled = _fill({key: value for key, value in stage.items() if key != "matrix"}, {**params, "item": item})
            place = _join(folder, filled.get("wdir", "."))
            deps, outs, metrics = (
                frozenset(_join(place, path) for path in _paths(filled.get(key, [])))
                for key in ("deps", "outs", "metrics")
            )
            keys = frozenset(
                key
                for entry in filled.get("params", [])
                for key in ([entry] if isinstance(entry, str) else itertools.chain(*entry.values()))
            )
            stages[f"{name}{suffix}"] = Declared(filled["cmd"], deps, keys, outs | metrics, place)
    return stages


def lookup(params: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key; KeyError if there is none."""
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[part]
    return value


def _combinations(matrix: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not matrix:
        yield "", {}
        return
    lists = [_fill(values, params) for values in matrix.values()]
    for values in itertools.product(*lists):
        yield f"@{'-'.join(map(str, values))}", dict(zip(matrix, values, strict=True))


def _fill(value: Any, scope: Mapping[str, Any]) -> Any:
    """Return `value` with every ${key} replaced; a text that is one template becomes the value itself."""
    if isinstance(value, Mapping):
        return {_fill(key, scope): _fill(inner, scope) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, scope) for inner in value]
    if not isinstance(value, str):
        return value
    try:
        if whole := re.fullmatch(r"\$\{([^}]+)\}", value):
            return lookup(scope, whole[1].strip())
        return re.sub(r"\$\{([^}]+)\}", lambda match: str(lookup(scope, match[1].strip())), value)
    except KeyError as error:
        raise RepositoryError(f"dvc.yaml: {value}: params.yaml has no {error}; put both of one commit here") from error


def _paths(entries: Iterable[Any]) -> Iterator[str]:
    """Yield the paths of entries that are a path or {path: flags}."""
    return (entry if isinstance(entry, str) else next(iter(entry)) for entry in entries)
