"""Measures of a suite that are known before its experts are merged, and whether they predict what merging costs.

    directions    norms, cosines and sign conflicts of the task vectors
    subspaces     subspace alignment ratio and singular task interference
    behaviour     experts on each other's tasks, weight disentanglement
    ensembles     M-Loss, at the suite's own layers
    subsets       random subsets of the tasks, and what simple merges of them lose
    prediction    rank correlations between measures and losses, with intervals
    collect       from a suite's files to the tables of data/diagnostics

Every measure gives a value per task of a set of tasks; measures of pairs are averaged over the other tasks of the set.
`pipeline.report.views.diagnosis` shows what was measured.
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
"""Name -> how it is called in sentences and figures."""

UNVERIFIED = {
    "sti": "whether its |.|_1 sums absolute entries, as here, or is the induced norm, was not checked",
    "disentanglement": "its definition was taken from memory of the paper",
}
"""Measure -> what could not be checked against its source."""

SIZE = "size"
"""The number of tasks in a set: the predictor that any other has to beat where sets of several sizes are compared."""

METHODS = {"average": "simple average", "task_arithmetic": "task arithmetic"}
"""The merges whose losses are predicted."""


class Settings(Parameters):
    """What the diagnosis of a suite looks at."""

    samples: int = Field(64, ge=1)
    """Unlabelled calibration images per task, for M-Loss and disentanglement."""
    images: int = Field(100, ge=1)
    """Labelled validation images per task, for accuracies."""
    keep: float = Field(0.2, gt=0, le=1)
    """Share of entries of largest magnitude that a trimmed task vector keeps."""
    scale: float = Field(0.3, gt=0, le=2)
    """Coefficient of task arithmetic, in merges and in disentanglement."""
    subsets: int = Field(200, ge=0)
    """Random subsets of the tasks; no more than there are."""
    seed: int = Field(0, ge=0)
    """Of every draw: images, subsets, resamples."""
