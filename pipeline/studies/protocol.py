"""Protocol: what calibrating on the very images that are scored is worth.

The field calibrates on unlabelled test images (transductive). Here every method does so, and does the same on training
images that no score has seen, with the same number of images, steps and seeds. Both answer all of the scored split, the
images they were calibrated on included: that is the habit whose worth is asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.schema import Parameters, Precision, Schedule
from pipeline.steps.calibrate import Setting
from pipeline.studies._trials import Trial

HELD_OUT, TRANSDUCTIVE = "held-out", "transductive"


class Params(Parameters):
    """The grid."""

    held_out: Literal["train", "validation"]
    """The split whose images stand for those that no score has seen."""
    samples: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    """Unlabelled images per task; a task with fewer uses all it has."""


class SameSplit(BenchmarkError):
    """The two protocols would be one."""


def splits(params: Params, evaluation_split: str) -> dict[str, str]:
    """{protocol: where its calibration images come from}; SameSplit if both are one."""
    if params.held_out == evaluation_split:
        raise SameSplit(
            f"study.protocol.held_out = {params.held_out!r}: this is the evaluation_split; expected another split, or "
            "nothing is held out"
        )
    return {HELD_OUT: params.held_out, TRANSDUCTIVE: evaluation_split}


def trials(
    suite: Path,
    taught: Mapping[str, tuple[str, Path]],
    methods: Mapping[str, Parameters],
    schedule: Schedule,
    precision: Precision,
    samples: Sequence[int],
    seeds: Iterable[int],
) -> list[Trial]:
    """Every method with every protocol, number of images and seed; taught: {protocol: (split, its teachers)}."""
    return [
        Trial(protocol, Setting(suite, folder, method, params, schedule, split, precision), k, seed)
        for method, params in methods.items()
        for protocol, (split, folder) in taught.items()
        for k in samples
        for seed in seeds
    ]
