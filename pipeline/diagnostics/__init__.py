"""Measures of a suite that are known before its experts are merged, and how well they predict the cost of merging.

    directions    norms, cosines and sign conflicts of the task vectors
    subspaces     subspace alignment ratio and singular task interference
    behaviour     experts on each other's tasks, weight disentanglement
    ensembles     M-Loss at the layers of the suite's backbone
    subsets       random subsets of the tasks, and the losses of simple merges of them
    prediction    rank correlations between measures and losses, with intervals

Every measure has a value for each task of a set of tasks; measures of pairs are averaged over the other tasks of the
set. `pipeline.steps.diagnose` writes the tables of data/diagnostics, `pipeline.report.views.diagnosis` shows them.
"""

from pydantic import Field

from pipeline.runtime.schema import Parameters

MEASURES = {
    "norm": "length of the task vector",
    "cosine": "mean cosine with the other task vectors",
    "sign_conflict": "sign conflicts with the other task vectors",
    "sar": "subspace alignment ratio",
    "sti": "singular task interference",
    "mloss": "M-Loss",
    "mloss_normalised": "normalised M-Loss",
    "transfer": "accuracy of the other experts",
    "disentanglement": "weight disentanglement error",
}
"""{measure: its name in sentences and figures}."""

UNVERIFIED = {
    "sti": "whether its |.|_1 sums absolute entries, as here, or is the induced norm, was not checked",
    "disentanglement": "its definition was taken from memory of the paper",
}
"""{measure: the part that could not be checked against its source}."""

SIZE_MEASURE = "size"
"""The number of tasks in a set: the baseline for every other predictor where sets of several sizes are compared."""

PREDICTED_MERGES = {"average": "simple average", "task_arithmetic": "task arithmetic"}
"""{method: name} of the merges whose losses are predicted."""


class Settings(Parameters):
    """Settings of the diagnosis of a suite."""

    samples: int = Field(64, ge=1)
    """Unlabelled calibration examples per task, for M-Loss and disentanglement."""
    images: int = Field(100, ge=1)
    """Labelled validation examples per task, for accuracies."""
    keep: float = Field(0.2, gt=0, le=1)
    """Share of entries of largest magnitude that a trimmed task vector keeps."""
    scale: float = Field(0.3, gt=0, le=2)
    """Coefficient of task arithmetic, in merges and in disentanglement."""
    subsets: int = Field(200, ge=0)
    """Number of random subsets of the tasks; all of them if there are fewer."""
    seed: int = Field(0, ge=0)
    """Seed of every draw: examples, subsets, resamples."""
