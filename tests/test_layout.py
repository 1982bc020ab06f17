"""The layout of the code: packages have a docstring and import one way; a public name means one thing."""

import ast
from collections import defaultdict
from collections.abc import Iterator

import networkx as nx

from tests.support import toy

MOST = 19
"""The most packages that a newcomer can keep in mind."""
CONVENTIONS = {
    *("Params", "check", "load", "main", "names", "run", "view"),
    *("merge", "calibrate"),  # of a method, and of the step of that name
    *("Definition", "Recipe", "sizes", "prepare", "train"),  # of a family of suites
    "serve",  # of a kind of serving
    "write_files",  # of a kind of encoder, for export
}
"""Names that a file needs for its contents to be found, or that mean the same everywhere."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    """(package, syntax tree) of every file of pipeline/ and stages/; the package of a module at the top is its name."""
    for path in sorted(file for top in ("pipeline", "stages") for file in (toy.ROOT / top).rglob("*.py")):
        parts = path.relative_to(toy.ROOT).with_suffix("").parts
        top = parts[0] if parts[0] == "stages" else ".".join(parts[:2])
        yield top, ast.parse(path.read_text("utf-8"))


def test_only_packages_and_the_parameters_lie_in_pipeline():
    entries = {path.name for path in (toy.ROOT / "pipeline").iterdir() if path.name != "__pycache__"}
    packages = {path.parent.name for path in (toy.ROOT / "pipeline").glob("*/__init__.py")}
    assert entries == packages | {"__init__.py", "params.py"}
    assert len([*(toy.ROOT / "pipeline").rglob("__init__.py")]) <= MOST
    for path in (toy.ROOT / "pipeline").rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_packages_import_one_way():
    graph = nx.DiGraph()
    for package, tree in sources():
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            imported = {".".join(module.split(".")[:2]) for module in modules if module.startswith("pipeline.")}
            graph.add_edges_from((package, other) for other in imported - {package})
    assert graph.number_of_edges() > 40
    assert not [*nx.simple_cycles(graph)]
    assert not graph["pipeline.runtime"]
    assert set(graph["pipeline.models"]) == {"pipeline.runtime"}


def test_a_public_name_means_one_thing():
    places = defaultdict(set)
    for path in sorted(file for top in ("pipeline", "stages") for file in (toy.ROOT / top).rglob("*.py")):
        if path.parent.name == "embedded":  # its code is that of the committed checkpoints
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(path.relative_to(toy.ROOT).as_posix())
    assert not {name: files for name, files in places.items() if len(files) > 1 and name not in CONVENTIONS}
