"""Singular value calibration: shrink the directions in which experts add up, grow those that a merge leaves small.

Per matrix, the merged delta is U diag(S) V^T; a_r = u_r^T delta and a_r,t = u_r^T tau_t are what the merge and the
experts do along the left vector u_r (matrices are out x in, so that u_r is a direction of the output):

    s_r,t = <a_r, a_r,t> / max(|a_r,t|^2, 1e-12)
    delta' = U diag(S_r / mean_t max(alpha, s_r,t)) V^T                     (arXiv 2602.05536, ICML 2026)

Other tensors stay as the merge has them, and no data are used. As the authors' code at its latest commit; an earlier
one took max(alpha, mean_t s_r,t) where every s_r,t is positive, else 1. That code calibrates every 2-D tensor except
text_projection and embeddings, with q, k and v of open_clip as one matrix; here they are the matrices of the blocks,
with q, k and v apart.

Its runs have alpha = 1 on TSV-M and 1/T on every other merge. For alpha = 1 SVC only shrinks. The smaller alpha, the
less the result depends on the scale of the merge: SVC is then a choice of the scale as well, by up to 1 / alpha.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import Tensor

from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import TaskVectors, merge_delta
from pipeline.models.weights import Weights
from pipeline.runtime.device import device
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.steps.refinement import load_solution, require_one_model
from pipeline.toolbox.spectra import is_matrix, thin_svd


class Calibration(Parameters):
    """alpha: {method: least s of an expert}; a method without an entry has 1 / T."""

    alpha: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field({"tsv_m": 1.0})


def calibrate_matrix(delta: Tensor, stacked: Tensor, alpha: float) -> Tensor:
    """Calibrate the singular values of a merged delta [m, n] by the task vectors [T, m, n]."""
    left, _, _ = thin_svd(delta)
    merged, experts = left.mT @ delta, left.mT @ stacked
    shares = (merged * experts).sum(-1) / experts.square().sum(-1).clamp(min=1e-12)
    return (left / shares.clamp(min=alpha).mean(0)) @ merged


def calibrate_solution(vectors: TaskVectors, solution: Solution, alpha: float) -> Weights:
    """Return the calibrated delta {name: tensor} of a merge that is given by coefficients [T, G] or by its delta."""
    columns = {name: column for column, name in enumerate(vectors)}
    coefficients, merged = solution.coefficients, solution.delta or {}

    def calibrate(name: str) -> Tensor:
        stacked = vectors[name]
        if coefficients is None:
            delta = merged[name].to(stacked)
        else:
            delta = merge_delta({name: stacked}, coefficients[:, [columns[name]]].to(stacked.device))[name]
        return calibrate_matrix(delta, stacked, alpha) if is_matrix(name) else delta

    return map_tensors(calibrate, vectors)


def calibrate_merges(folder: Path, artefact: Path, method: str, params: Calibration) -> Merges:
    """Calibrate an artefact of `method`, seed by seed; `folder` is the suite's.

    Raises NotRefinable for a merge with extras or with one model per task.
    """
    record, suite = require_one_model(artefact, "svc"), SuiteFolder(folder)
    vectors = suite.vectors(target=device())
    alpha = params.alpha.get(method, 1 / vectors.tasks)
    seeds = tuple(record["seeds"])
    solutions = [
        Solution(delta=calibrate_solution(vectors, load_solution(artefact, index), alpha))
        for index in range(len(seeds))
    ]
    return Merges(seeds, record["samples"], suite.suite.groups, solutions)
