"""Studies: why a method wins, how certain that is, and what a claim is worth. One file per study, found by its name.

What makes a method win: ablation, flatness, landscape, sensitivity, conventions. What it needs: efficiency, protocol,
tasks. How far it holds: robustness, replicates, theory, conflict, label_spaces, language. Shared: _trials, _teachers,
_constructed, _corruptions, _curvature, _landscape, _theory.

A study has `Params` (its entry `study.<name>` of params.yaml) and a function that its stage stages/studies/<name>.py
calls. It returns tidy rows: integer counts like those of `scores.csv`, or a table of measures. All long computations
are pieces of resumable work (`pipeline.runtime.resumable`). The report's view of a study is
`pipeline.report.studies.<name>`.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType


def names() -> tuple[str, ...]:
    """Return the names of all studies."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str) -> ModuleType:
    """Return the module of a study."""
    return import_module(f"{__name__}.{name}")
