"""Protocol: how much it helps to calibrate on the very examples that are scored.

The field calibrates on unlabelled test examples (transductive). Here every method does so, and also calibrates on
training examples that no score has seen (held-out), with the same number of examples, steps and seeds. Both are scored
on the whole evaluation split, including the examples that transductive calibration used, as is the field's habit.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.schema import DISTINCT, Parameters, Precision, Schedule
from pipeline.steps.calibrate import Setting
from pipeline.studies._trials import Trial

HELD_OUT, TRANSDUCTIVE = "held-out", "transductive"


class Params(Parameters):
    """The grid."""

    held_out: Literal["train", "validation"]
    """The split that held-out calibration draws its examples from."""
    samples: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), DISTINCT]
    """Unlabelled examples per task; a task with fewer uses all it has."""


class SameSplit(BenchmarkError):
    """Both protocols would calibrate on the same split."""


def choose_splits(params: Params, evaluation_split: str) -> dict[str, str]:
    """Return {protocol: split of its calibration examples}; raise SameSplit if both are the same."""
    if params.held_out == evaluation_split:
        raise SameSplit(
            f"study.protocol.held_out = {params.held_out!r}: this is the evaluation_split; expected another split, or "
            "nothing is held out"
        )
    return {HELD_OUT: params.held_out, TRANSDUCTIVE: evaluation_split}


def list_protocol_trials(
    suite: Path,
    teachers: Mapping[str, tuple[str, Path]],
    methods: Mapping[str, Parameters],
    schedule: Schedule,
    precision: Precision,
    samples: Sequence[int],
    seeds: Iterable[int],
) -> list[Trial]:
    """Return a trial for every method, protocol, number of examples and seed.

    `teachers`: {protocol: (split, folder of the teacher logits on it)}; `methods`: {name: parameters}.
    """
    return [
        Trial(protocol, Setting(suite, folder, method, params, schedule, split, precision), k, seed)
        for method, params in methods.items()
        for protocol, (split, folder) in teachers.items()
        for k in samples
        for seed in seeds
    ]
