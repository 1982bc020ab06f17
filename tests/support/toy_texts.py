"""Toy encoders of texts: transformers' own models with random weights."""

from collections.abc import Mapping
from typing import Any

import torch

BERT = {"layers": 2, "width": 16, "heads": 2, "hidden": 24, "vocabulary": 40, "positions": 12, "epsilon": 1e-12}
GPT2 = {"layers": 2, "width": 16, "heads": 2, "vocabulary": 40, "positions": 12, "epsilon": 1e-5}


def draw_hugging_face(kind: str, model: Mapping[str, Any], seed: int = 0) -> torch.nn.Module:
    """Draw a BertModel or GPT2Model with all tensors random, so that none can be mistaken for another."""
    import transformers

    if kind == "bert":
        config = transformers.BertConfig(
            num_hidden_layers=model["layers"], hidden_size=model["width"], num_attention_heads=model["heads"],
            intermediate_size=model["hidden"], vocab_size=model["vocabulary"],
            max_position_embeddings=model["positions"], layer_norm_eps=model["epsilon"],
        )  # fmt: skip
        module = transformers.BertModel(config, add_pooling_layer=False)
    else:
        config = transformers.GPT2Config(
            n_layer=model["layers"], n_embd=model["width"], n_head=model["heads"], vocab_size=model["vocabulary"],
            n_positions=model["positions"], layer_norm_epsilon=model["epsilon"],
        )  # fmt: skip
        module = transformers.GPT2Model(config)
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        centre = 1.0 if name.endswith("weight") and parameter.ndim == 1 else 0.0
        parameter.data = centre + scale * torch.randn(parameter.shape, generator=rng)
    return module.eval().requires_grad_(False)
