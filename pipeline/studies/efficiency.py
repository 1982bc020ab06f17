"""Data efficiency (the paper's Figure 4): the same method, schedule and seeds with more and more examples per task.

The number of optimiser steps does not depend on the number of examples, and the draws of a seed are nested, so the
curve shows the effect of the examples alone.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.steps.calibrate import Setting
from pipeline.studies._trials import Trial


class Params(Parameters):
    """The grid."""

    samples: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), DISTINCT]
    """Unlabelled examples per task; a task with fewer uses all it has."""


def list_sample_trials(settings: Iterable[Setting], samples: Sequence[int], seeds: Sequence[int]) -> list[Trial]:
    """Return a trial for every method, number of examples and seed."""
    return [Trial("", setting, k, seed) for setting in settings for k in samples for seed in seeds]
