"""Data efficiency (the paper's Figure 4): the same method, schedule and seeds with ever more images per task.

Every number of images gets the same number of optimiser steps, and the draws of a seed are nested, so that the curve
shows the effect of the images alone.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from pipeline.runtime.schema import Parameters
from pipeline.steps.calibrate import Setting
from pipeline.studies._trials import Trial


class Params(Parameters):
    """The grid."""

    samples: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    """Unlabelled images per task; a task with fewer uses all it has."""


def trials(settings: Iterable[Setting], samples: Sequence[int], seeds: Sequence[int]) -> list[Trial]:
    """Every method with every number of images and every seed."""
    return [Trial("", setting, k, seed) for setting in settings for k in samples for seed in seeds]
