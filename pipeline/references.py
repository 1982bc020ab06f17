"""What tables say of a method: its title, its paper, what of it could not be verified."""

from dataclasses import dataclass

from pipeline import methods
from pipeline.results import Chosen, on_top

SURGERY = "Yang et al., 2024, arXiv 2402.02705, on top of the merge"
MARK = "†"
"""Ends the title of a method of which something could not be checked against its source."""


@dataclass(frozen=True)
class Reference:
    """A method as tables name it."""

    title: str
    paper: str
    unverified: str
    """What could not be checked; empty if all could."""
    settings: tuple[str, ...]
    """Names of its parameters."""


def refer(chosen: Chosen) -> dict[str, Reference]:
    """{method: its reference}, in the order of the tables."""
    found = {name: _method(name) for name in dict.fromkeys((*chosen.data_free, *chosen.calibrated, *chosen.operated))}
    for name in chosen.operated:
        merge = found[name]
        found[on_top(name)] = Reference(f"Surgery on {merge.title}", SURGERY, merge.unverified, ("surgery",))
    return {name: found[name] for name in chosen.names}


def _method(name: str) -> Reference:
    module = methods.load(name)
    unverified = getattr(module, "UNVERIFIED", "")
    title = f"{module.TITLE} {MARK}" if unverified else module.TITLE
    return Reference(title, module.PAPER, unverified, tuple(module.Params.model_fields))
