"""M-Loss of a set of experts, at the first matrix of every MLP (`pipeline.toolbox.mloss` has the definition).

The input of every layer comes from the averaged model, as in the paper's text (arXiv 2602.08564); the released code
computes it with a prefix that stays pre-trained.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from pipeline.models.encoder import Hidden, Transformer, block_name, product
from pipeline.models.examples import cut_padding
from pipeline.models.weights import Weights
from pipeline.toolbox import mloss
from pipeline.toolbox.mloss import MLoss

NUMBERS = 1 << 25
"""Number of pre-activations that are held at once; it limits a layer's batches, of at least one example each."""


def layer_name(index: int) -> str:
    """Return the name of the matrix at which a block's M-Loss is measured, without ".weight"."""
    return f"{block_name(index)}mlp.c_fc"


def measure_mloss(
    encoder: Transformer, average: Weights, experts: Sequence[Mapping[str, Tensor]], examples: Tensor
) -> list[MLoss]:
    """Measure M-Loss of `experts` at every block.

    average: the mean of their weights, on the device of the examples.
    """
    with torch.inference_mode():
        hidden, units = encoder.embed(average, cut_padding(examples)), len(average[f"{layer_name(0)}.bias"])
        batches = hidden.split(max(1, NUMBERS // (len(experts) * hidden.tokens.shape[1] * units)))
        counts = [batch.count() for batch in batches]
        blocks = []
        for index in range(encoder.depth):
            layer = [
                torch.stack([expert[f"{layer_name(index)}.{kind}"] for expert in experts]).to(examples.device)
                for kind in ("weight", "bias")
            ]
            results = [_block(encoder, average, index, batch, layer) for batch in batches]
            batches = [batch for batch, _ in results]
            blocks.append(_joined([loss for _, loss in results], counts))
    return blocks


def _block(
    encoder: Transformer, average: Weights, index: int, hidden: Hidden, layer: Sequence[Tensor]
) -> tuple[Hidden, MLoss]:
    """Return what leaves a block of the averaged model, and the M-Loss of `layer`."""
    losses: list[MLoss] = []

    def multiply(name: str, x: Tensor) -> Tensor:
        if name != layer_name(index):
            return product(average, name, x)
        answers = torch.stack([linear(x, weight, bias) for weight, bias in zip(*layer, strict=True)])
        losses.append(mloss.layer_mloss(answers, encoder.activate, hidden.valid))
        return answers.mean(0)

    return encoder.block_by(average, index, hidden, multiply), losses[0]


def _joined(parts: Sequence[MLoss], counts: Sequence[int]) -> MLoss:
    """Join the M-Loss of batches of so many tokens: concatenate values per example, weight means by tokens."""
    share = parts[0].layer.new_tensor(counts)
    share = share / share.sum()
    layer, normalised = (torch.cat([part[index] for part in parts]).cpu() for index in (0, 1))
    node, power = ((torch.stack([part[index] for part in parts], dim=-1) @ share).cpu() for index in (2, 3))
    return MLoss(layer, normalised, node, power)
