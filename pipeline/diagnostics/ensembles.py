"""M-Loss of a set of experts, at the first matrix of every MLP (`pipeline.toolbox.mloss` has the definition).

The input of every layer comes from the averaged model, as in the paper's text (arXiv 2602.08564); the released code
computes it with a prefix that stays pre-trained.
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
"""Number of pre-activations that are held at once; it limits a layer's batches, which have at least one image each."""


def layer_name(index: int) -> str:
    """Return the name of the matrix at which a block's M-Loss is measured, without ".weight"."""
    return f"{block_name(index)}mlp.c_fc"


def measure_mloss(
    tower: Tower, average: Weights, experts: Sequence[Mapping[str, Tensor]], images: Tensor
) -> list[MLoss]:
    """Measure M-Loss of `experts` at every block.

    average: the mean of their weights, on the device of the images; images: uint8 [N, H, W, 3].
    """
    with torch.inference_mode():
        tokens, units = tower.embed(average, images), len(average[f"{layer_name(0)}.bias"])
        batches = tokens.split(max(1, NUMBERS // (len(experts) * tokens.shape[1] * units)))
        blocks = []
        for index in range(tower.depth):
            layer = [
                torch.stack([expert[f"{layer_name(index)}.{kind}"] for expert in experts]).to(images.device)
                for kind in ("weight", "bias")
            ]
            results = [_block(tower, average, index, tokens, layer) for tokens in batches]
            batches = [tokens for tokens, _ in results]
            blocks.append(_joined([loss for _, loss in results]))
    return blocks


def _block(tower: Tower, average: Weights, index: int, tokens: Tensor, layer: Sequence[Tensor]) -> tuple[Tensor, MLoss]:
    """Pass tokens through a block of the averaged model; return the result and the M-Loss of `layer`."""
    losses: list[MLoss] = []

    def multiply(name: str, x: Tensor) -> Tensor:
        if name != layer_name(index):
            return linear(x, average[f"{name}.weight"], average[f"{name}.bias"])
        answers = torch.stack([linear(x, weight, bias) for weight, bias in zip(*layer, strict=True)])
        losses.append(mloss.layer_mloss(answers, tower.activate))
        return answers.mean(0)

    return tower.block_by(average, index, tokens, multiply), losses[0]


def _joined(parts: Sequence[MLoss]) -> MLoss:
    """Join the M-Loss of batches: concatenate values per sample, weight means by the numbers of samples."""
    share = torch.stack([part.layer.new_tensor(len(part.layer)) for part in parts])
    share = share / share.sum()
    layer, normalised = (torch.cat([part[index] for part in parts]).cpu() for index in (0, 1))
    node, power = ((torch.stack([part[index] for part in parts], dim=-1) @ share).cpu() for index in (2, 3))
    return MLoss(layer, normalised, node, power)
