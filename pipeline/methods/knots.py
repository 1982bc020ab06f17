"""KnOTS-TIES: TIES where the experts' matrices have a common basis of outputs.

Per matrix, [tau_1 ... tau_T] = U diag(S) [V_1^T ... V_T^T], the task vectors side by side. An entry of diag(S) V_t^T
means the same for every task. TIES merges these, over all matrices of the model together, and

    theta = theta_0 + scale * U TIES({diag(S) V_t^T}_t)                           (arXiv 2410.19735)

As its released code computes it: TIES keeps the `keep` share of the largest entries of every task and takes the mean of
those that agree. The scale is that of its configuration for ViT-B/32, found on validation data. Directions of singular
value zero are left out, also of the entries of which a share is kept. The paper's experts move matrices alone;
everything else gets scale times the mean task vector.
"""

from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.spectra import is_matrix, thin_svd
from pipeline.toolbox.trimming import Aggregate, merge_agreeing, trim_thresholds

TITLE = "KnOTS-TIES"
PAPER = "Stoica et al., 2025, arXiv 2410.19735"


class Params(Parameters):
    """keep: share of entries kept per task; scale: of the whole merged vector; aggregate: the disjoint merge."""

    keep: float = Field(0.2, gt=0, le=1)
    scale: float = Field(0.6, ge=0, le=4)
    aggregate: Aggregate = "mean"


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""
    matrices = [name for name in vectors if is_matrix(name)]
    aligned = map_tensors(lambda name: align_outputs(vectors[name]), matrices)
    merged = {name: vectors[name].mean(0) for name in vectors if name not in aligned}

    def read(name: str) -> Tensor:
        return aligned[name][1]

    if matrices:
        parts = merge_agreeing(read, matrices, trim_thresholds(read, matrices, params.keep), params.aggregate)
        merged |= {name: aligned[name][0] @ part for name, part in parts.items()}
    return {name: params.scale * merged[name] for name in vectors}


def align_outputs(stacked: Tensor) -> tuple[Tensor, Tensor]:
    """Return U [m, k] and diag(S) V_t^T of every task [T, k, n] from the task vectors [T, m, n] of a matrix."""
    u, s, v = thin_svd(stacked.transpose(0, 1).flatten(1))
    rank = max(1, int((s > 0).sum()))
    return u[:, :rank], (s[:rank, None] * v[:, :rank].mT).unflatten(1, (len(stacked), -1)).transpose(0, 1).contiguous()
