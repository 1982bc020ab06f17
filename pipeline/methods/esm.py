"""ESM: task vectors merged in the directions in which they move the activations.

arXiv 2602.20208. For each matrix, d_t = tau_t x with x at its input in expert t, E_t the leading out / T eigenvectors
of E[d_t d_t^T] (not centred) and e_t the eigenvalues: tau_t ~ E_t (E_t^T tau_t). Then

    U = [s_t E_t]_t,  V = [n_t s_t E_t^T tau_t]_t,    s_t ~ e_t^0.15 with mean 1,  n_t = (|tau_t| / mean |tau|)^2
    tau = 2 mean(sigma(U)) polar(U) mean(sigma(V')) polar(V'),    V' = V, columns times (their norm / mean norm)^2

and every matrix is multiplied by (its norm / mean norm over the layers of its kind)^2. attn.out_proj is merged by
TSV-M. All of this, scalings included, follows the authors' code. q, k and v are one matrix [3d, d], as there: they
share an essential subspace. positional_embedding, which their code merges by TSV-M as a matrix, is averaged like all
other tensors. They choose `scale` on labelled validation examples; we keep 1.

|tau| is the norm of the whole task vector. The authors' code computes it in the basis of the outputs that its singular
vectors form, which gives the same value if there are at least as many tokens as outputs. With fewer it completes the
basis by unit vectors that are not orthogonal to it, which changes the norms: for three tasks with 288 outputs, the
merged matrix differs by 0.3 % with 272 tokens and by 1.2 % with 170; with 96 outputs by 2.3 % with 51. Where a task
vector moves fewer than out / T directions, only those enter the means of e_t, s_t and sigma; in the authors' code the
zeros of the others enter too, so that its matrix is ours, to 2 %, times a factor (0.53 for 51 directions of 96, 1.33
for 96 of 128).
"""

from collections import defaultdict
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.models.encoder import Hidden, block_name
from pipeline.models.weights import Weights, fuse_qkv, split_qkv
from pipeline.runtime.schema import Schedule
from pipeline.toolbox.activations import apply_block, embed_examples, expert_weights, gram_matrices
from pipeline.toolbox.conventions import POSITIONS, Conventions
from pipeline.toolbox.essential import balance_layers, essential_subspace, merge_essential
from pipeline.toolbox.spectra import decorrelate

TITLE = "ESM"
PAPER = "Essential Subspace Merging, CVPR 2026, arXiv 2602.20208"
FOOTPRINT = Footprint(models=4, block_vectors=5, tokens=2)


class Params(Conventions):
    """samples: examples per task; scale: of the merged matrices and the averaged tensors.

    `matrices: split` gives q, k and v an essential subspace each; `positional_embedding: decompose` merges it by TSV-M.
    """

    matrices: Literal["split", "fused"] = "fused"
    samples: int = Field(32, ge=1)
    scale: float = Field(1.0, ge=0, le=3)


@torch.no_grad()
def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Merge a block at a time, with one pass of every expert over its own examples."""
    encoder, passes = problem.encoder, []
    for task, pool in enumerate(problem.examples):
        weights = expert_weights(problem.base, problem.vectors, task)
        sample = pool[: params.samples]
        passes.append(embed_examples(encoder, weights, sample, problem.examples_per_pass, problem.precision))
    kinds: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for index in range(encoder.depth):
        for name, matrix in _merge_block(problem, index, passes, params).items():
            kinds[name.removeprefix(block_name(index))][name] = matrix
        for task, entering in enumerate(passes):
            weights = expert_weights(problem.base, problem.vectors, task, block_name(index))
            passes[task] = apply_block(encoder, weights, index, entering, problem.precision)
    delta = {name: stacked.mean(0) for name, stacked in problem.vectors.items()}
    if params.decomposes(POSITIONS) and POSITIONS in delta:
        delta[POSITIONS] = decorrelate(problem.vectors[POSITIONS])
    for layers in kinds.values():
        delta |= split_qkv(dict(zip(layers, balance_layers([*layers.values()]), strict=True)))
    return Solution(delta={name: params.scale * tensor for name, tensor in delta.items()})


def _merge_block(problem: Problem, index: int, passes: list[list[Hidden]], conventions: Conventions) -> Weights:
    """Merge the matrices of a block, not yet balanced; q, k and v are one if fused: {name: [out, in]}."""
    prefix, tasks = block_name(index), len(passes)
    block = {name: tau for name, tau in problem.vectors.items() if name.startswith(prefix) and tau.ndim == 3}
    changes = [{name: stacked[task] for name, stacked in block.items()} for task in range(tasks)]
    if conventions.matrices == "fused":
        changes = [fuse_qkv(change) for change in changes]
    subspaces = defaultdict(list)
    for task, entering in enumerate(passes):
        weights = expert_weights(problem.base, problem.vectors, task, prefix)
        grams = gram_matrices(problem.encoder, weights, index, entering, problem.precision, torch.float64)
        for name, change in changes[task].items():
            if not name.endswith("attn.out_proj.weight"):
                gram = grams[name.replace("in_proj_weight", "q.weight")]
                subspaces[name].append(essential_subspace(change, gram, len(change) // tasks))
    return {
        name: merge_essential([change[name] for change in changes], subspaces[name])
        if name in subspaces
        else decorrelate(torch.stack([change[name] for change in changes]))
        for name in changes[0]
    }
