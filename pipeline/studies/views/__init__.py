"""What the report shows of a study: a file per study with one function, `view(rows, context) -> View`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Context:
    """What all studies of a suite are shown against."""

    suite: str
    tasks: tuple[str, ...]
    titles: Mapping[str, str]
    """{method: its title}."""
    floor: float
    """Average accuracy of zero-shot, in per cent, on the split that is scored."""
    ceiling: float
    """That of the individual experts."""
    experts: Mapping[str, float]
    """{task: accuracy of its expert}, in per cent."""
    calibration_split: str
    evaluation_split: str
    params: Mapping[str, object]
    """The parameters that the study ran with, by their keys."""
    width: float
    """Of a text column, in inches."""
    decimals: int


@dataclass(frozen=True)
class View:
    """A study in the report."""

    title: str
    question: str
    """One sentence: what the study asks and how."""
    said: tuple[str, ...]
    """What the numbers say, in sentences made of them; each with its n."""
    figures: Mapping[str, tuple[Figure, str]] = field(default_factory=dict)
    """{name: (figure, caption: what is shown, over how many seeds, on which split)}."""
    tables: Mapping[str, tuple[pd.DataFrame, str]] = field(default_factory=dict)
    """{name: (rows as shown, of texts and numbers; caption)}."""
