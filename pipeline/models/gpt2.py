"""GPT-2 (Radford et al., 2019) as an encoder of texts.

    h <- h + out_proj(causal attention(q, k, v of ln_1(h)))
    h <- h + c_proj(gelu(c_fc(ln_2(h))))

Features are the norm of a text's last token. As padding is on the right, no token attends to padding.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu

from pipeline.models.encoder import (
    Hidden,
    Multiply,
    Shapes,
    Transformer,
    attend,
    block_name,
    block_shapes,
    norm,
    require_text_model,
)
from pipeline.models.examples import find_text_fault
from pipeline.models.weights import PARTS


class Gpt2(Transformer):
    """A GPT-2 without its head; `model` is {"architecture": "gpt2", ...} with the settings that `check` names."""

    kind = "texts"
    unit = False
    kept = 17

    @staticmethod
    def check(model: Mapping[str, Any]) -> None:
        """Check the settings."""
        require_text_model(model, ("layers", "width", "heads", "vocabulary", "positions"))

    def __init__(self, model: Mapping[str, Any]) -> None:
        """Read the architecture of a `model` that has passed `check`."""
        self.depth, self.width, self.features = model["layers"], model["width"], model["width"]
        self.activate: Callable[[Tensor], Tensor] = partial(gelu, approximate="tanh")
        self._heads, self._epsilon = model["heads"], model["epsilon"]
        self._vocabulary, self._positions = model["vocabulary"], model["positions"]

    def shapes(self) -> Shapes:
        """Return the shapes of the embeddings, of the blocks and of the last norm."""
        return {
            "word_embedding": (self._vocabulary, self.width),
            "positional_embedding": (self._positions, self.width),
            **block_shapes(self.depth, self.width, 4 * self.width),
            "ln_post.weight": (self.width,),
            "ln_post.bias": (self.width,),
        }

    def count_tokens(self, examples: np.ndarray | Tensor) -> int:
        """Return the length of the texts."""
        return examples.shape[1]

    def find_fault(self, examples: np.ndarray) -> str | None:
        """Return what is wrong with texts, or None."""
        return find_text_fault(examples, self._vocabulary, self._positions)

    def embed(self, weights: Mapping[str, Tensor], examples: Tensor) -> Hidden:
        """Return the sum of the two embeddings."""
        words = embedding(examples.clamp(min=0), weights["word_embedding"])
        return Hidden(words + weights["positional_embedding"][: examples.shape[1]], examples >= 0)

    def block_by(self, weights: Mapping[str, Tensor], index: int, hidden: Hidden, multiply: Multiply) -> Hidden:
        """Attention to earlier tokens, and MLP, each on the norm of what it is added to."""
        stem, tokens = block_name(index), hidden.tokens
        entering = norm(weights, f"{stem}ln_1", tokens, self._epsilon)
        context = attend([multiply(f"{stem}attn.{part}", entering) for part in PARTS], self._heads, causal=True)
        between = tokens + multiply(f"{stem}attn.out_proj", context)
        inner = self.activate(multiply(f"{stem}mlp.c_fc", norm(weights, f"{stem}ln_2", between, self._epsilon)))
        return Hidden(between + multiply(f"{stem}mlp.c_proj", inner), hidden.valid)

    def pool(self, weights: Mapping[str, Tensor], hidden: Hidden) -> Tensor:
        """Return the norm of the last token that is no padding."""
        last = hidden.mask().sum(1) - 1
        tokens = hidden.tokens[torch.arange(len(last), device=last.device), last]
        return norm(weights, "ln_post", tokens, self._epsilon)
