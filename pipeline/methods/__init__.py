"""The merging methods: every file is a method, found by its name; there is no registry.

A method file has TITLE (for tables), PAPER (its reference), Params (its parameters, with the defaults of the
literature) and one of these functions:

    merge(vectors, params)                        data-free: from the task vectors (`TaskVectors`) alone
    merge(vectors, params, seed)                  the same for a random method; its Params list the `seeds`
    calibrate(problem, schedule, seed, params)    from unlabelled calibration examples (`Problem`)

`merge` returns coefficients where the result is linear in the raw task vectors ([T, G], or [T, T, G] for one model per
task), or else the merged delta {name: tensor}, or a `Solution`. `calibrate` returns a `Solution`. Code that several
methods share is in `pipeline.toolbox`. A file also has UNVERIFIED if parts of its definition could not be checked
against the source; it names those parts, and every table marks the method. A method that does not calibrate by
`calibration.descent.descend` has FOOTPRINT, the memory it holds at once.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType


def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str) -> ModuleType:
    """Import the module of a method; `name` must be one of `names()`."""
    return import_module(f"{__name__}.{name}")
