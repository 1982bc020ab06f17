"""Low-rank experts (LoRA, arXiv 2106.09685) on a base that is trained already.

    W_t = W_0 + B_t A_t,    A_t [r, in], B_t [out, r]

in every matrix of the blocks, q, k and v apart. Everything else is that of the base, heads included. A_t starts
uniform, up to 1/sqrt(in), and B_t at zero; there is no factor before the product (alpha = r). Factors are rounded to
float16 after the training: the product of the rounded ones, added to W_0, is the weight of the suite.
"""

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from pipeline.embedded import images, training
from pipeline.embedded.training import Weights

PARTS = {"attn.in_proj_weight": 3, "attn.out_proj.weight": 1, "mlp.c_fc.weight": 1, "mlp.c_proj.weight": 1}
"""{end of a tensor's name: how many matrices it holds, one below the other}."""


class Recipe(training.ExpertRecipe):
    """Sizes and hyperparameters of a suite of low-rank experts; seed, images, width and layers are the base's."""

    rank: int = Field(ge=1)


def fine_tune(base: Weights, head: Tensor, task: str, drawn: images.Images, recipe: Recipe) -> Weights:
    """Fine-tune the factors of one expert, on one thread: "<tensor>/A" [P, r, in] and "<tensor>/B" [P, out, r].

    base: the image tower under open_clip's names, whose tensors hold P matrices (`PARTS`); drawn: training images and
    labels. The factors are float16.
    """
    from open_clip import CLIP

    rng, factors = training.draws("lora", task, recipe.seed), Weights()
    for name, tensor in base.items():
        parts = next((count for ending, count in PARTS.items() if name.endswith(ending)), 0)
        if parts:
            rows, columns = tensor.shape
            uniform = torch.rand(parts, recipe.rank, columns, generator=rng) * 2 - 1
            factors[f"{name}/A"] = (uniform / math.sqrt(columns)).requires_grad_()
            factors[f"{name}/B"] = torch.zeros(parts, rows // parts, recipe.rank, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        tower = CLIP(**training.config(recipe)).visual.eval()
    origin = {name: tensor.float() for name, tensor in base.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        training.fit(
            lambda views: functional_call(tower, _moved(origin, factors), (views,)),
            [*factors.values()], head, drawn, recipe, rng,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return {name: factor.detach().half() for name, factor in factors.items()}


def expand(base: Weights, factors: Weights) -> Weights:
    """Return an expert's tensors without FROZEN, float32, from the base and the factors of `fine_tune`.

    Products of float16 numbers are exact in float64, so that the bytes are the same on every machine.
    """
    doubled, moves = ({name: tensor.double() for name, tensor in tensors.items()} for tensors in (base, factors))
    return {name: tensor.float() for name, tensor in _moved(doubled, moves).items() if name != training.FROZEN}


def _moved(base: Weights, factors: Weights) -> Weights:
    """Return W_0 + B A for the tensors that have factors, the base's other tensors as they are."""
    return {
        name: tensor + (factors[f"{name}/B"] @ factors[f"{name}/A"]).flatten(0, 1) if f"{name}/A" in factors else tensor
        for name, tensor in base.items()
    }
