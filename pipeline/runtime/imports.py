"""The files that importing a module runs, found by reading import statements."""

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path


def list_modules(patterns: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """Return module names from `patterns`: {fields} are filled from `names`, `package.*` adds the package's modules."""
    modules = []
    for pattern in patterns:
        package, star, _ = pattern.format(**names).partition(".*")
        files = sorted(Path(package.replace(".", "/")).glob("*.py")) if star else []
        modules += [package, *(f"{package}.{file.stem}" for file in files if file.stem != "__init__")]
    return modules


def import_closure(modules: Iterable[str], root: Path = Path()) -> list[Path]:
    """Return the files below `root` that importing `modules` runs, sorted.

    A file that holds nothing but its docstring is left out: no result can depend on it.
    """
    locate = cache(lambda module: _files(module, root))  # most modules are imported many times
    waiting, seen, silent = [file for name in modules for file in locate(name)], set(), set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        tree = ast.parse((root / file).read_text("utf-8"))
        if not tree.body[ast.get_docstring(tree) is not None :]:
            silent.add(file)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            waiting += [path for name in imported for path in locate(name)]
    return sorted(seen - silent)


def _files(module: str, root: Path) -> list[Path]:
    """Return the files of a module and of the packages that contain it, as far as they are below `root`."""
    parts, files = module.split("."), []
    for length in range(1, len(parts) + 1):
        stem = Path(*parts[:length])
        files += [file for file in (stem / "__init__.py", stem.with_suffix(".py")) if (root / file).is_file()]
    return files
