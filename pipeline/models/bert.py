"""BERT (Devlin et al., arXiv 1810.04805) as a sentence encoder (Reimers and Gurevych, arXiv 1908.10084).

    h <- ln_1(h + out_proj(attention(q, k, v of h)))
    h <- ln_2(h + c_proj(gelu(c_fc(h))))

Features are the mean of a text's tokens, of unit length. `type_embedding` is the one row of the token types that is
used.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
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


class Bert(Transformer):
    """A BERT without its pooler; `model` is {"architecture": "bert", ...} with the settings that `check` names."""

    kind = "texts"

    @staticmethod
    def check(model: Mapping[str, Any]) -> None:
        """Check the settings."""
        require_text_model(model, ("layers", "width", "heads", "hidden", "vocabulary", "positions"))

    def __init__(self, model: Mapping[str, Any]) -> None:
        """Read the architecture of a `model` that has passed `check`."""
        self.depth, self.width, self.activate = model["layers"], model["width"], gelu
        self.features = self.width
        self._heads, self._inner, self._epsilon = model["heads"], model["hidden"], model["epsilon"]
        self.kept = 9 + 2 * self._inner / self.width
        self._vocabulary, self._positions = model["vocabulary"], model["positions"]

    def shapes(self) -> Shapes:
        """Return the shapes of the embeddings and of the blocks."""
        vector = (self.width,)
        return {
            "word_embedding": (self._vocabulary, self.width),
            "positional_embedding": (self._positions, self.width),
            "type_embedding": vector,
            "ln_pre.weight": vector,
            "ln_pre.bias": vector,
            **block_shapes(self.depth, self.width, self._inner),
        }

    def count_tokens(self, examples: np.ndarray | Tensor) -> int:
        """Return the length of the texts."""
        return examples.shape[1]

    def find_fault(self, examples: np.ndarray) -> str | None:
        """Return what is wrong with texts, or None."""
        return find_text_fault(examples, self._vocabulary, self._positions)

    def embed(self, weights: Mapping[str, Tensor], examples: Tensor) -> Hidden:
        """Return the norm of the sum of the three embeddings."""
        words = embedding(examples.clamp(min=0), weights["word_embedding"]) + weights["type_embedding"]
        tokens = words + weights["positional_embedding"][: examples.shape[1]]
        return Hidden(norm(weights, "ln_pre", tokens, self._epsilon), examples >= 0)

    def block_by(self, weights: Mapping[str, Tensor], index: int, hidden: Hidden, multiply: Multiply) -> Hidden:
        """Attention among the tokens that are no padding, and MLP, each followed by a norm."""
        stem, tokens = block_name(index), hidden.tokens
        context = attend([multiply(f"{stem}attn.{part}", tokens) for part in PARTS], self._heads, hidden.valid)
        between = norm(weights, f"{stem}ln_1", tokens + multiply(f"{stem}attn.out_proj", context), self._epsilon)
        inner = self.activate(multiply(f"{stem}mlp.c_fc", between))
        leaving = norm(weights, f"{stem}ln_2", between + multiply(f"{stem}mlp.c_proj", inner), self._epsilon)
        return Hidden(leaving, hidden.valid)

    def pool(self, weights: Mapping[str, Tensor], hidden: Hidden) -> Tensor:
        """Return the sum of the tokens that are no padding: their mean, up to its length."""
        del weights
        return (hidden.tokens * hidden.mask()[..., None]).sum(1)
