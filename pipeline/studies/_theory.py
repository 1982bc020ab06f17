"""What the theory of merging bounds, measured on single models: divergences, first-order expansions, gradients.

    chain        E[p_y - q_y] <= E TV(p, q) <= E sqrt(KL(p || q) / 2) <= sqrt(E KL(p || q) / 2)
    expansion    f(theta_0 + s tau) = f(theta_0) + s J tau + residual, f: the logits, tau: the merged delta
    slope        |grad L_t(theta)|^2, L_t: the distillation loss of task t, theta: the merged weights

p are the expert's probabilities and q the merged model's, both at temperature 1; y is the label. The left end of the
chain is the difference of the expected 0-1 losses 1 - p_y; the second step is Pinsker's inequality, the third Jensen's.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.functional import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.calibration.objectives import Objective
from pipeline.models.weights import Weights

Forward = Callable[[Mapping[str, Tensor]], Tensor]
"""Weights -> logits [N, C] on some examples."""


def total_variation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return TV(p, q) [N] of the softmaxes of two tensors of logits [N, C]."""
    return (teacher.softmax(-1) - logits.softmax(-1)).abs().sum(-1) / 2


def measure_chain(logits: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the means over examples of the chain's terms, and of what else may rank merges.

    logits and teacher [N, C], labels [N]. `risk` and `reference`: expected 0-1 losses of the merge and of the expert;
    `tv`, `root` (of KL / 2) and `kl`, in nats; `entropy` of the merge's predictions, in nats.
    """
    student, target = logits.double().log_softmax(-1), teacher.double().log_softmax(-1)
    divergences = (target.exp() * (target - student)).sum(-1).clamp(min=0)
    terms = {
        "risk": 1 - student.exp().gather(1, labels[:, None])[:, 0],
        "reference": 1 - target.exp().gather(1, labels[:, None])[:, 0],
        "tv": total_variation(student, target),
        "root": (divergences / 2).sqrt(),
        "kl": divergences,
        "entropy": -(student.exp() * student).sum(-1),
    }
    return {name: float(values.mean()) for name, values in terms.items()}


def expand_logits(forward: Forward, base: Weights, delta: Weights, shares: Sequence[float]) -> list[list[float]]:
    """Return [share, |residual|, |change|] at every share s of the delta: Frobenius norms over examples and classes.

    change: f(theta_0 + s tau) - f(theta_0). J tau is the derivative of the gradient along tau,
    so that attention is computed unfused: its fused kernels have no second derivative.
    """
    names = [*delta]
    theta, tau = (tuple(tensors[name] for name in names) for tensors in (base, delta))

    def moved(*tensors: Tensor) -> Tensor:
        return forward({**base, **dict(zip(names, tensors, strict=True))})

    with sdpa_kernel(SDPBackend.MATH):
        start, slope = jvp(moved, theta, tau)
        with torch.no_grad():
            changes = [
                moved(*(tensor + share * step for tensor, step in zip(theta, tau, strict=True))) - start
                for share in shares
            ]
    return [
        [share, float((change - share * slope).norm()), float(change.norm())]
        for share, change in zip(shares, changes, strict=True)
    ]


def measure_slope(
    forward: Forward, objective: Objective, teacher: Tensor, weights: Weights, names: Sequence[str]
) -> list[float]:
    """Return [loss, squared norm of its gradient] with respect to the tensors of these names; teacher [N, C]."""
    leaves = {name: weights[name].detach().requires_grad_() for name in names}
    loss = objective(forward({**weights, **leaves}), teacher)
    slopes = torch.autograd.grad(loss, [*leaves.values()])
    return [float(loss.detach()), float(torch.stack([slope.double().square().sum() for slope in slopes]).sum())]
