"""Studies: why a method wins, how sure that is, and what a claim is worth. One file per study, found by its name.

A study has `Params` (its entry `study.<name>` of params.yaml) and a function that its stage stages/studies/<name>.py
calls; it writes tidy integer rows, `scores.csv` or a table of measures. Everything that takes long is a cell
(`pipeline.runtime.resumable`). What the report shows of it is in `pipeline.studies.views.<name>`.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType


def names() -> tuple[str, ...]:
    """Every study."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str) -> ModuleType:
    """The module of a study."""
    return import_module(f"{__name__}.{name}")
