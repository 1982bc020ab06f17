"""SyMerge: coefficients and all classification heads learn together from the experts' trusted predictions.

    theta = theta_0 + sum_t lambda_t tau_t per tensor, W_t the head of task t                 (arXiv 2412.19098)
    min over lambda and W of the cross-entropy of W_t f(theta; x) to the label that expert t gives x,

over the examples on which merged model and expert agree or the expert is at least as confident. A round visits the
tasks in random order and takes one step on a batch of each. The learning rates are the authors'; rounds and examples
per batch are the suite's steps and batch size (theirs: 500 and 32). There are three differences from their code.
`clamp` projects lambda after every step; theirs clamps in the forward pass, where a coefficient outside [0, 1] no
longer gets a gradient. Heads have no bias to learn. A batch without a trusted example has a gradient of zero; theirs is
not a number and is skipped.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.calibration.descent import expand_learned, select_learned
from pipeline.calibration.problem import Problem, require_finite, stream_batches
from pipeline.merges.solution import Extras, Solution
from pipeline.models import task_vectors
from pipeline.models.examples import cut_padding
from pipeline.runtime.schema import Parameters, Schedule, autocast
from pipeline.statistics.sampling import generator

TITLE = "SyMerge (tunes heads)"
PAPER = "Jung et al., 2024, arXiv 2412.19098"


class Params(Parameters):
    """initial_coefficient: lambda at the start; lr and head_lr: Adam's for lambda and for the heads.

    clamp: keep lambda in [0, 1].
    """

    initial_coefficient: float = Field(0.3, ge=-2, le=2)
    lr: float = Field(0.01, gt=0)
    head_lr: float = Field(0.01, ge=0)
    clamp: bool = True


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Learn coefficients [T, G] and heads; `losses` has one value per task and round, in the order of the steps."""
    moving, order = select_learned(problem), generator(seed, "order")
    sample, shape = next(iter(moving.vectors.values())), (len(problem.tasks), len(moving.vectors))
    point = torch.full(shape, params.initial_coefficient, dtype=sample.dtype, device=sample.device)
    heads = [head.clone() for head in problem.heads]
    optimiser = torch.optim.Adam([{"params": [point], "lr": params.lr}, {"params": heads, "lr": params.head_lr}])
    streams, losses, seen, trusted_count = stream_batches(problem, schedule.batch_size, seed), [], 0, 0
    for _ in range(schedule.steps):
        for task in torch.randperm(len(heads), generator=order).tolist():
            optimiser.zero_grad()  # a head without a gradient stays: Adam moves lambda and the head of this task
            batch = next(streams[task]).to(sample.device)
            loss, point.grad, heads[task].grad, count = trusted_gradient(moving, point, heads[task], task, batch)
            seen, trusted_count = seen + len(batch), trusted_count + count
            optimiser.step()
            if params.clamp:
                point.clamp_(0, 1)
            require_finite(len(losses), loss, point, heads[task])
            losses.append(loss)
    counts = f"{int(trusted_count):,} of {seen:,}"
    print(f"symerge: seed {seed}: {counts} examples had a trusted expert, the others were left out")
    tuned = dict(zip(problem.tasks, heads, strict=True))
    coefficients = expand_learned(point, problem.vectors, params.initial_coefficient)
    return Solution(coefficients, losses=torch.stack(losses), extras=Extras("heads", tuned))


def trusted_gradient(
    problem: Problem, coefficients: Tensor, head: Tensor, task: int, batch: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss on a batch of one task, its gradients and the number of trusted examples.

    The gradients are with respect to the coefficients [T, G] and to the task's head.
    """
    merged, tuned = task_vectors.merge(problem.base, problem.vectors, coefficients), head.detach().requires_grad_()
    leaves = {name: merged[name].requires_grad_() for name in problem.vectors}
    with autocast(head.device, problem.precision):
        features = problem.encoder(merged, cut_padding(problem.examples[task][batch])).to(head.dtype)
    logits, teacher = features @ tuned.T, problem.teachers[task][batch]
    loss = trusted_cross_entropy(logits, teacher)
    *gradients, head_gradient = torch.autograd.grad(loss, [*leaves.values(), tuned])
    return (
        loss.detach(),
        task_vectors.contract(dict(zip(leaves, gradients, strict=True)), problem.vectors),
        head_gradient,
        trusted(logits, teacher).sum(),
    )


def trusted_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean cross-entropy to the expert's label over the trusted examples; 0 if there are none."""
    mask, losses = trusted(logits, teacher), cross_entropy(logits, teacher.argmax(-1), reduction="none")
    return torch.where(mask, losses, 0).sum() / mask.sum().clamp(min=1)


def trusted(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return, per example, whether expert and merged model agree or the expert is at least as confident."""
    expert, student = (scores.detach().softmax(-1).max(-1) for scores in (teacher, logits))
    return (expert.indices == student.indices) | (expert.values >= student.values)
