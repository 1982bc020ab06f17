"""M-Loss of a set of experts, at the first matrix of every MLP (`pipeline.toolbox.mloss` has the definition).

Every layer's input is what the averaged model makes of the images, as the paper's text says (arXiv 2602.08564); its
released code takes a prefix that stays pre-trained.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from pipeline.models.encoder import Tower, block_name
from pipeline.models.weights import Weights
from pipeline.toolbox import mloss
from pipeline.toolbox.mloss import MLoss

NUMBERS = 1 << 25
"""How many pre-activations are held at once; a layer goes through in batches of so many, at least one image each."""


def layer_name(index: int) -> str:
    """The matrix at which a block's M-Loss is measured, without ".weight"."""
    return f"{block_name(index)}mlp.c_fc"


def losses(tower: Tower, average: Weights, experts: Sequence[Mapping[str, Tensor]], images: Tensor) -> list[MLoss]:
    """M-Loss of `experts` at every block; `average` is the mean of their weights, on the device of the images.

    images: uint8 [N, H, W, 3].
    """
    with torch.inference_mode():
        tokens, units = tower.embed(average, images), len(average[f"{layer_name(0)}.bias"])
        batches = tokens.split(max(1, NUMBERS // (len(experts) * tokens.shape[1] * units)))
        found = []
        for index in range(tower.depth):
            layer = [
                torch.stack([expert[f"{layer_name(index)}.{kind}"] for expert in experts]).to(images.device)
                for kind in ("weight", "bias")
            ]
            passed = [_block(tower, average, index, tokens, layer) for tokens in batches]
            batches = [tokens for tokens, _ in passed]
            found.append(_joined([one for _, one in passed]))
    return found


def _block(tower: Tower, average: Weights, index: int, tokens: Tensor, layer: Sequence[Tensor]) -> tuple[Tensor, MLoss]:
    """The tokens after a block of the averaged model, and M-Loss on the way."""
    found: list[MLoss] = []

    def multiply(name: str, x: Tensor) -> Tensor:
        if name != layer_name(index):
            return linear(x, average[f"{name}.weight"], average[f"{name}.bias"])
        answers = torch.stack([linear(x, weight, bias) for weight, bias in zip(*layer, strict=True)])
        found.append(mloss.losses(answers, tower.activate))
        return answers.mean(0)

    return tower.block_by(average, index, tokens, multiply), found[0]


def _joined(parts: Sequence[MLoss]) -> MLoss:
    """M-Loss of all batches: values per sample one after the other, means over samples weighted by their numbers."""
    share = torch.stack([part.layer.new_tensor(len(part.layer)) for part in parts])
    share = share / share.sum()
    layer, normalised = (torch.cat([part[index] for part in parts]).cpu() for index in (0, 1))
    node, power = ((torch.stack([part[index] for part in parts], dim=-1) @ share).cpu() for index in (2, 3))
    return MLoss(layer, normalised, node, power)
