"""dvc.yaml and params.yaml -> the stages, with what dvc.lock must hold of each.

There may be further pipelines below stages/, each a dvc.yaml with its dvc.lock. All paths are relative to the root.
"""

import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.audit.repository import Repository, RepositoryError

Locked = Mapping[str, Any]
"""A stage of dvc.lock."""


@dataclass(frozen=True)
class Declared:
    """One stage, all templates filled in."""

    command: str
    deps: frozenset[str]
    params: frozenset[str]
    outs: frozenset[str]
    folder: str
    """Where it runs."""


def pipelines(repository: Repository) -> tuple[dict[str, Declared], dict[str, Locked], list[str]]:
    """All stages as declared and as locked, and the dvc.yaml files below stages/ that never ran.

    The name of a stage of such a file begins with its folder.
    """
    params = repository.yaml("params.yaml")
    declared, locked, idle = {}, {}, []
    for path in ("dvc.yaml", *repository.names("stages", "/dvc.yaml")):
        folder = posixpath.dirname(path)
        if folder and repository.text(f"{folder}/dvc.lock") is None:
            idle.append(path)
            continue
        prefix, held = f"{folder}:" * bool(folder), repository.yaml(posixpath.join(folder, "dvc.lock"))["stages"]
        for name, stage in expand(repository.yaml(path), params, folder).items():
            declared[prefix + name] = stage
            if name in held:
                locked[prefix + name] = _rooted(held[name], stage.folder)
    return declared, locked, idle


def _rooted(held: Locked, folder: str) -> Locked:
    """The stage of a lock with its paths relative to the root."""
    files = {
        key: [{**one, "path": _joined(folder, one["path"])} for one in held.get(key, [])] for key in ("deps", "outs")
    }
    return {**held, **files, "params": {_joined(folder, path): own for path, own in held.get("params", {}).items()}}


def _joined(folder: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(folder, path))


def expand(definition: Mapping[str, Any], params: Mapping[str, Any], folder: str = "") -> dict[str, Declared]:
    """{name: stage} of a dvc.yaml in `folder`; a matrix gives one per combination, `<stage>@<value>-<value>`."""
    found = {}
    for name, stage in definition["stages"].items():
        for suffix, item in _combinations(stage.get("matrix", {}), params):
            filled = _filled({key: value for key, value in stage.items() if key != "matrix"}, {**params, "item": item})
            place = posixpath.normpath(posixpath.join(folder, filled.get("wdir", ".")))
            deps, outs, metrics = (
                frozenset(_joined(place, _path(entry)) for entry in filled.get(key, []))
                for key in ("deps", "outs", "metrics")
            )
            keys = frozenset(_keys(filled.get("params", [])))
            found[f"{name}{suffix}"] = Declared(filled["cmd"], deps, keys, outs | metrics, place)
    return found


def lookup(params: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; KeyError if there is none."""
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
    lists = [_filled(values, params) for values in matrix.values()]
    for values in itertools.product(*lists):
        yield f"@{'-'.join(map(str, values))}", dict(zip(matrix, values, strict=True))


def _filled(value: Any, scope: Mapping[str, Any]) -> Any:
    """`value` with every ${key} replaced; a text that is one template becomes the value itself."""
    if isinstance(value, Mapping):
        return {_filled(key, scope): _filled(inner, scope) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, scope) for inner in value]
    if not isinstance(value, str):
        return value
    try:
        if whole := re.fullmatch(r"\$\{([^}]+)\}", value):
            return lookup(scope, whole[1].strip())
        return re.sub(r"\$\{([^}]+)\}", lambda match: str(lookup(scope, match[1].strip())), value)
    except KeyError as error:
        raise RepositoryError(f"dvc.yaml: {value}: params.yaml has no {error}; put both of one commit here") from error


def _keys(entries: list[Any]) -> Iterator[str]:
    """An entry is a key of params.yaml or {file: keys}."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            yield from (key for keys in entry.values() for key in keys)


def _path(entry: Any) -> str:
    """An entry is a path or {path: flags}."""
    return entry if isinstance(entry, str) else next(iter(entry))
