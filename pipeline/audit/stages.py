"""dvc.yaml and params.yaml -> the stages, with what dvc.lock must hold of each."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.audit.evidence import EvidenceError


@dataclass(frozen=True)
class Declared:
    """One stage, all templates filled in."""

    command: str
    deps: frozenset[str]
    params: frozenset[str]
    outs: frozenset[str]


def expand(definition: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Declared]:
    """{name: stage}; a stage with a matrix becomes one per combination, `<stage>@<value>-<value>`."""
    found = {}
    for name, stage in definition["stages"].items():
        for suffix, item in _combinations(stage.get("matrix", {}), params):
            filled = _filled({key: value for key, value in stage.items() if key != "matrix"}, {**params, "item": item})
            paths = {key: frozenset(map(_path, filled.get(key, []))) for key in ("deps", "outs", "metrics", "params")}
            outs = paths["outs"] | paths["metrics"]
            found[f"{name}{suffix}"] = Declared(filled["cmd"], paths["deps"], paths["params"], outs)
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
        raise EvidenceError(f"dvc.yaml: {value}: params.yaml has no {error}; put both of one commit here") from error


def _path(entry: Any) -> str:
    """An entry is a path or {path: flags}."""
    return entry if isinstance(entry, str) else next(iter(entry))
