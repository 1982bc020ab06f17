"""The sections of a suite in the report: a file per section with `ORDER` and `view(evidence, look) -> View`.

A new table or figure is a new file here: it is found by its name, written, and shown where its ORDER places it.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType


def load_views() -> list[ModuleType]:
    """Import all views, in the order of the page."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    return sorted((import_module(f"{__name__}.{name}") for name in names), key=lambda view: view.ORDER)
