"""What methods know of an encoder: a transformer as pure functions of its weights, whole or block by block.

The three encoders, `vit`, `bert` and `gpt2`, share the names of a block's tensors:

    transformer.resblocks.<i>.  ln_1  attn.q  attn.k  attn.v  attn.out_proj  ln_2  mlp.c_fc  mlp.c_proj  .{weight,bias}

They are written out on the tensors of a suite, because some methods need the input of every matrix, or put something
else in the place of a matrix. Tests hold them to the forward passes of open_clip and transformers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, normalize, scaled_dot_product_attention

from pipeline.models.weights import PARTS, Weights

Kind = Literal["images", "texts"]
Multiply = Callable[[str, Tensor], Tensor]
Shapes = dict[str, tuple[int, ...]]
MOST_LAYERS = 1000


@dataclass(frozen=True)
class Hidden:
    """What passes from block to block: the tokens of some examples, and which of them are padding."""

    tokens: Tensor
    """[N, L, width]"""
    valid: Tensor | None = None
    """bool [N, L], False for padding; None if there is none."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, examples: Tensor | slice) -> "Hidden":
        return Hidden(self.tokens[examples], None if self.valid is None else self.valid[examples])

    def split(self, size: int) -> list["Hidden"]:
        """Split into parts of `size` examples; the last has what is left."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def mask(self) -> Tensor:
        """Return `valid`, True for all tokens where there is no padding."""
        return self.tokens.new_ones(self.tokens.shape[:2], dtype=torch.bool) if self.valid is None else self.valid

    def rows(self, values: Tensor) -> Tensor:
        """Select those of `values` [N, L, n], one for each token, that are no padding: [rows, n]."""
        return values.flatten(0, 1) if self.valid is None else values[self.valid]

    def count(self) -> int:
        """Count the tokens that are no padding."""
        return self.tokens.shape[0] * self.tokens.shape[1] if self.valid is None else int(self.valid.sum())


def join_hidden(parts: Sequence[Hidden]) -> Hidden:
    """Join hidden states of the same number of tokens, example after example."""
    masks = [part.valid for part in parts if part.valid is not None]
    return Hidden(torch.cat([part.tokens for part in parts]), torch.cat(masks) if masks else None)


class Transformer(ABC):
    """The encoder of a suite, as functions of its weights.

    In all methods `weights` are the encoder's tensors with q, k and v apart, frozen ones included; `examples` are on
    the same device, images uint8 [N, H, W, 3] or texts int32 [N, L] (`pipeline.models.examples`). A missing tensor is a
    KeyError.
    """

    kind: ClassVar[Kind]
    """What it encodes."""
    depth: int
    """Number of transformer blocks."""
    width: int
    """Length of a token between blocks."""
    features: int
    """D, the length of features."""
    kept: float
    """Floats that a block keeps for the backward pass, for every element of a token."""
    unit: ClassVar[bool] = True
    """Whether features have length one."""
    activate: Callable[[Tensor], Tensor]
    """The activation between the two matrices of every block's MLP."""

    @staticmethod
    @abstractmethod
    def check(model: Mapping[str, Any]) -> None:
        """Raise ValueError unless `model`, that of a suite, has the settings of this encoder."""

    def __call__(self, weights: Mapping[str, Tensor], examples: Tensor) -> Tensor:
        """Return features [N, D]: `embed`, every block in order, `finish`."""
        return self.finish(weights, self.transform(weights, examples))

    def transform(self, weights: Mapping[str, Tensor], examples: Tensor) -> Hidden:
        """Return what leaves the last block."""
        hidden = self.embed(weights, examples)
        for index in range(self.depth):
            hidden = self.block(weights, index, hidden)
        return hidden

    @abstractmethod
    def embed(self, weights: Mapping[str, Tensor], examples: Tensor) -> Hidden:
        """Return what enters the first block."""

    @abstractmethod
    def block_by(self, weights: Mapping[str, Tensor], index: int, hidden: Hidden, multiply: Multiply) -> Hidden:
        """Return what `block` does, with `multiply(name, x)` for every W x + b; `name` is W's without ".weight"."""

    @abstractmethod
    def pool(self, weights: Mapping[str, Tensor], hidden: Hidden) -> Tensor:
        """Return features [N, D] of any length from what leaves the last block."""

    def scale(self, features: Tensor) -> Tensor:
        """Return the features [N, D] that heads expect: of unit length if `unit` says so."""
        return normalize(features, dim=-1) if self.unit else features

    def finish(self, weights: Mapping[str, Tensor], hidden: Hidden) -> Tensor:
        """Return the features [N, D] from what leaves the last block: `scale` of `pool`."""
        return self.scale(self.pool(weights, hidden))

    @abstractmethod
    def shapes(self) -> Shapes:
        """Return {name: shape} of all tensors, in the model's order."""

    @abstractmethod
    def count_tokens(self, examples: np.ndarray | Tensor) -> int:
        """Return the number of tokens L of each of these examples, padding included."""

    @abstractmethod
    def find_fault(self, examples: np.ndarray) -> str | None:
        """Return what is wrong with the examples of a split, for a message, or None."""

    def block(self, weights: Mapping[str, Tensor], index: int, hidden: Hidden) -> Hidden:
        """Return what leaves a block; of `weights`, only the block's own are read."""
        return self.block_by(weights, index, hidden, lambda name, x: product(weights, name, x))

    def inputs(self, weights: Mapping[str, Tensor], index: int, hidden: Hidden) -> Weights:
        """Return the input of each matrix of a block, for all tokens but padding: {name of the matrix: [rows, in]}.

        q, k and v share a tensor.
        """
        entering: Weights = {}

        def multiply(name: str, x: Tensor) -> Tensor:
            entering[f"{name}.weight"] = x
            return product(weights, name, x)

        self.block_by(weights, index, hidden, multiply)
        distinct = {id(x): x for x in entering.values()}
        rows = {key: hidden.rows(x) for key, x in distinct.items()}
        return {name: rows[id(x)] for name, x in entering.items()}


def block_name(index: int) -> str:
    """Return the prefix of the names of a transformer block's tensors."""
    return f"transformer.resblocks.{index}."


def block_shapes(depth: int, width: int, inner: int) -> Shapes:
    """Return {name: shape} of the tensors of all blocks, whose MLPs have `inner` units, in the model's order."""
    vector, square = (width,), (width, width)
    block = {"ln_1.weight": vector, "ln_1.bias": vector}
    block |= {f"attn.{part}.weight": square for part in PARTS} | {f"attn.{part}.bias": vector for part in PARTS}
    block |= {"attn.out_proj.weight": square, "attn.out_proj.bias": vector, "ln_2.weight": vector, "ln_2.bias": vector}
    block |= {"mlp.c_fc.weight": (inner, width), "mlp.c_fc.bias": (inner,)}
    block |= {"mlp.c_proj.weight": (width, inner), "mlp.c_proj.bias": vector}
    return {f"{block_name(index)}{name}": shape for index in range(depth) for name, shape in block.items()}


def product(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Return W x + b of the matrix of this name."""
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def norm(weights: Mapping[str, Tensor], name: str, x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Return the layer norm of this name of x."""
    weight = weights[f"{name}.weight"]
    return layer_norm(x, weight.shape, weight, weights[f"{name}.bias"], epsilon)


def attend(parts: Sequence[Tensor], heads: int, valid: Tensor | None = None, causal: bool = False) -> Tensor:
    """Return what each token attends to [N, L, width], from q, k and v of that shape.

    valid: bool [N, L], the tokens that may be attended to; causal: no token attends to a later one.
    """
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    mask = None if valid is None else valid[:, None, None]
    return scaled_dot_product_attention(query, key, value, mask, is_causal=causal).transpose(1, 2).flatten(2)


def require_sizes(settings: Mapping[str, Any], keys: Sequence[str], title: str = "") -> None:
    """Raise ValueError, whose message starts with `title`, unless these settings are positive whole numbers."""
    for key in keys:
        value = settings.get(key)
        if type(value) is not int or value < 1:
            raise ValueError(f"{title}{key} is {value!r}, expected a positive whole number")
        if key == "layers" and value > MOST_LAYERS:
            raise ValueError(f"{title}layers is {value}, expected at most {MOST_LAYERS}")


def require_text_model(model: Mapping[str, Any], sizes: Sequence[str]) -> None:
    """Raise ValueError unless `model` has these sizes, heads that divide the width, an epsilon and nothing else."""
    require_sizes(model, sizes)
    if model["width"] % model["heads"]:
        raise ValueError(f"width {model['width']} is no multiple of heads {model['heads']}")
    if type(epsilon := model.get("epsilon")) is not float or not 0 < epsilon < 1:
        raise ValueError(f"epsilon is {epsilon!r}, expected a number between 0 and 1")
    if unknown := sorted(model.keys() - {"architecture", "epsilon", *sizes}):
        raise ValueError(f"{', '.join(unknown)} not supported; expected {', '.join(sizes)} and epsilon only")
