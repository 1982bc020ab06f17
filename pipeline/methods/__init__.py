"""The methods: a file is a method, found by its name; no registry.

Every method file has TITLE (for tables), PAPER (its reference), Params (its parameters, with the defaults of the
literature) and one of two functions:

    merge(vectors, params)                        data-free: from the task vectors (`TaskVectors`) alone
    merge(vectors, params, seed)                  the same for a method that draws; its Params list the `seeds`
    calibrate(problem, schedule, seed, params)    from unlabelled calibration images (`calibrate.Problem`)

`merge` returns coefficients where the result is linear in the raw task vectors ([T, G], or [T, T, G] for one model per
task), or else the merged delta {name: tensor}, or a `Solution`. `calibrate` returns a `Solution`. What a method shares
with others lies in `pipeline.toolbox`. A file whose definition could not be checked against its source has UNVERIFIED
too, which says what could not; every table marks such a method. One that calibrates otherwise than by
`calibrate.descend` has FOOTPRINT, what it holds in memory at once.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType


def names() -> tuple[str, ...]:
    """The names of all methods, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str) -> ModuleType:
    """The method's module; `name` must be one of `names()`."""
    return import_module(f"{__name__}.{name}")
