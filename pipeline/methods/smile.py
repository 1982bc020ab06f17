"""SMILE: the pre-trained model, and for every matrix low-rank experts of all tasks of which each token takes one.

    y = W_0 x + b_0 + U_k,t S_k,t V_k,t^T x + (b_t - b_0),    t = argmax_j |V_g,j^T x|_2        (arXiv 2408.10174)

U_k S_k V_k^T is the rank-k part of W_t - W_0, V_g its g leading right singular vectors. Routing is per token and
matrix: the task need not be known, and nothing is trained. With one expert per token the softmax of the released
code's router is 1. Tensors that are not matrices of a block (embeddings, norms) stay theta_0. q, k and v are routed
separately, as in the released code; there is no choice of conventions, since the experts are served matrix by matrix.
Ranks are those of the documented runs on CLIP; a matrix with fewer singular values keeps them all.
"""

import torch
from pydantic import Field, model_validator

from pipeline.merges.serving.routed import GATE_RANK
from pipeline.merges.solution import Extras, Solution
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.spectra import svd

TITLE = "SMILE"
PAPER = "Tang et al., 2024, arXiv 2408.10174"


class Params(Parameters):
    """rank: of every expert; gate_rank: singular vectors that the router uses, at most `rank`."""

    rank: int = Field(32, ge=1)
    gate_rank: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _check_gates(self) -> "Params":
        if self.gate_rank > self.rank:
            raise ValueError(f"gate_rank {self.gate_rank}: expected at most rank, {self.rank}")
        return self


def merge(vectors: TaskVectors, params: Params) -> Solution:
    """Return theta_0 (coefficients [T, G], all zero) with the experts as extras "routed"."""

    def decompose_experts(name: str) -> Weights:
        stem, _, kind = name.rpartition(".")
        if kind != "weight" or vectors.base(name).ndim != 2:
            return {}
        left, values, right = svd(vectors[name])
        return {
            f"{stem}/down": right[:, : params.rank].clone(),
            f"{stem}/up": (left * values[:, None]).mT[:, : params.rank].clone(),
            f"{stem}/bias": vectors[f"{stem}.bias"],
        }

    tensors = {GATE_RANK: torch.tensor(params.gate_rank)}
    for experts in map_tensors(decompose_experts, vectors).values():
        tensors |= experts
    coefficients = torch.zeros(vectors.tasks, len(vectors), dtype=torch.float64)
    return Solution(coefficients, extras=Extras("routed", tensors))
