"""TSV-M: keep each task's leading singular directions, then decorrelate them across tasks.

Per matrix, tau_t = U_t diag(S_t) V_t^T, of which the leading r = floor(min(m, n) / T) triplets are kept;
U = [U_1 ... U_T], S and V likewise; theta = theta_0 + scale * polar(U) diag(S) polar(V)^T.

arXiv 2412.00081, as its released code computes it. Everything that is not a matrix gets scale times the mean task
vector. By default the matrices are those of the blocks, with q, k and v split: the released code decomposes open_clip's
fused [3d, d] tensor, and every other 2-D tensor too (the positional embedding; we keep the visual projection frozen).
It picks the scale on labelled validation data; we keep 1. Singular directions of value zero are left out (`thin_svd`).
"""

from pydantic import Field

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.toolbox.conventions import Conventions, merge_by_matrix
from pipeline.toolbox.spectra import decorrelate

TITLE = "TSV-M"
PAPER = "Gargiulo et al., 2025, arXiv 2412.00081"


class Params(Conventions):
    """scale: of the whole merged vector; 1 is the paper's without validation data."""

    scale: float = Field(1.0, ge=0, le=4)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}; BenchmarkError if a matrix has fewer directions than there are tasks."""
    return merge_by_matrix(vectors, decorrelate, params.scale, params)
