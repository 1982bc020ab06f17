"""Which files of the project a stage runs: the import statements of its script, followed without running any."""

import ast
from collections.abc import Iterator, Mapping

from pipeline.audit.finding import Finding, Tally
from pipeline.audit.repository import Repository
from pipeline.audit.stages import Locked

BASIS = {"stages.train": ("pipeline.embedded.images", "pipeline.embedded.training")}
"""Of a stage whose outputs travel in git: the modules that decide them. What else it imports runs it, no more."""


def check(repository: Repository, stages: Mapping[str, Locked]) -> Finding:
    """Every file that a stage imports is a dependency that dvc.lock holds the hash of, or lies in one."""
    tally = Tally("lock: imports", "files that stages import are among their dependencies")
    found: dict[str, set[str]] = {}
    for name, stage in stages.items():
        python, option, script, *_ = [*stage["cmd"].split(), "", "", ""]
        if (python, option) != ("python", "-m"):
            tally.absent.append(f"what `{stage['cmd']}` imports")
            continue
        if script not in found:
            found[script] = set().union(*(closure(repository, module) for module in BASIS.get(script, (script,))))
        if not found[script]:
            tally.absent.append(f"the code of {script}")
        held = tuple(entry["path"] for entry in stage["deps"])
        for path in sorted(found[script]):
            inside = path in held or any(path.startswith(f"{one}/") for one in held)
            tally.expect(inside, f"{path}: stage {name} imports it, and dvc.lock has no hash of it")
    return tally.finding()


def closure(repository: Repository, module: str) -> set[str]:
    """The files that importing a module runs; not those that hold nothing but a docstring."""
    waiting, seen, found = [*_files(repository, module)], set(), set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        tree = ast.parse(repository.text(path) or "")
        if any(not isinstance(one, ast.Expr) for one in tree.body):
            found.add(path)
        for name in _imported(tree):
            waiting += _files(repository, name)
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(repository: Repository, module: str) -> Iterator[str]:
    """The file of a module and those of the packages around it, where they are at hand."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        stem = "/".join(parts[:length])
        yield from (path for path in (f"{stem}/__init__.py", f"{stem}.py") if repository.text(path) is not None)
