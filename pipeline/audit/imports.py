"""Which files of the project a stage runs: the import statements of its script, followed without running any."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import PurePosixPath

from pipeline.audit.finding import Finding
from pipeline.audit.repository import Repository
from pipeline.audit.stages import Locked

BASIS = {"stages.train": ("pipeline.embedded.images", "pipeline.embedded.training")}
"""Of a stage whose outputs travel in git: the modules that decide them. Its other imports run it, no more."""


def check(repository: Repository, stages: Mapping[str, Locked]) -> Finding:
    """Check that every file that a stage imports is a dependency that dvc.lock has a hash of, or lies in one."""
    finding = Finding("lock: imports", "files that stages import are among their dependencies")
    files = cache(partial(imported_files, repository))
    for name, stage in stages.items():
        python, option, script, *_ = [*stage["cmd"].split(), "", "", ""]
        if (python, option) != ("python", "-m"):
            finding.skip(f"what `{stage['cmd']}` imports")
            continue
        imported = set().union(*(files(module) for module in BASIS.get(script, (script,))))
        if not imported:
            finding.skip(f"the code of {script}")
        hashed = {entry["path"] for entry in stage["deps"]}
        for path in sorted(imported):
            inside = path in hashed or any(str(folder) in hashed for folder in PurePosixPath(path).parents)
            finding.expect(inside, f"{path}: stage {name} imports it, and dvc.lock has no hash of it")
    return finding


def imported_files(repository: Repository, module: str) -> set[str]:
    """Return the files that importing a module runs; not those that hold nothing but a docstring."""
    waiting, seen, files = [*_module_files(repository, module)], set(), set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        tree = ast.parse(repository.text(path) or "")
        if any(not isinstance(statement, ast.Expr) for statement in tree.body):
            files.add(path)
        for name in _imported_names(tree):
            waiting += _module_files(repository, name)
    return files


def _imported_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_files(repository: Repository, module: str) -> Iterator[str]:
    """Yield the file of a module and those of the packages around it, where they exist."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        stem = "/".join(parts[:length])
        yield from (path for path in (f"{stem}/__init__.py", f"{stem}.py") if repository.text(path) is not None)
