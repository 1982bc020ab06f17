"""Training of the weights of an embedded suite of language models: a small GPT-2 of characters, an expert per domain.

1. The base learns to predict the next token of general text, with a share of every domain among it.
2. An expert per domain is fine-tuned from the base: blocks and last norm, with the embeddings frozen.

The loss is over all positions of a sequence. The head is the word embedding, the same for all. Weights are rounded to
float16 after each training; the rounded values are the weights of the suite, and experts start from the rounded base.
The weights are committed to git, as the slightest difference of rounding changes the course of a training.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, gelu, layer_norm, linear, scaled_dot_product_attention
from tqdm import tqdm

from pipeline.embedded.training import Diverged, Weights, draws

HEAD_WIDTH = 32
EPSILON = 1e-5
DECAY = 0.1
"""Weight decay of the base's matrices."""
PERIOD = 200
"""The longest wave of the initial positions, in multiples of 2 pi tokens."""
WARM = 0.05
"""Share of the steps in which the learning rate rises, before it falls along a cosine."""


class Recipe(BaseModel):
    """Sizes and hyperparameters of an embedded suite of language models, `recipe.<suite>` in params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    seed: int = Field(ge=0)
    length: int = Field(ge=2)
    """Tokens of a context."""
    train_texts: int = Field(ge=1)
    validation_texts: int = Field(ge=1)
    test_texts: int = Field(ge=1)
    general_texts: int = Field(ge=1)
    """Held-out sequences of general text."""
    width: int = Field(ge=32, multiple_of=HEAD_WIDTH)
    layers: int = Field(ge=1)
    share: float = Field(ge=0, le=1)
    """Of all domains together in the base's training; the rest is general text."""
    pretrain_steps: int = Field(ge=1)
    pretrain_batch: int = Field(ge=1)
    pretrain_lr: float = Field(gt=0)
    expert_steps: int = Field(ge=1)
    expert_batch: int = Field(ge=1)
    expert_lr: float = Field(gt=0)

    def sizes(self) -> dict[str, int]:
        """{split: contexts per task}."""
        return {"train": self.train_texts, "validation": self.validation_texts, "test": self.test_texts}


def config(recipe: Recipe, vocabulary: int) -> dict[str, Any]:
    """Return the settings of the model, as `pipeline.models.gpt2` takes them."""
    return {
        "architecture": "gpt2",
        "layers": recipe.layers,
        "width": recipe.width,
        "heads": recipe.width // HEAD_WIDTH,
        "vocabulary": vocabulary,
        "positions": recipe.length,
        "epsilon": EPSILON,
    }


def train(
    general: np.ndarray, domains: Mapping[str, np.ndarray], vocabulary: int, recipe: Recipe
) -> dict[str, Weights]:
    """Train base and experts: {"base": tensors, "experts/<domain>": the tensors that are not frozen}.

    general, domains: token ids [N], each the training text of the base or of a domain as one sequence. Tensors are
    float16. Training uses one thread, so that the bytes depend only on the processor and the versions of the packages.
    Raises Diverged.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        base = _pretrained(general, domains, vocabulary, recipe)
        trained = {"base": base}
        for domain in tqdm(domains, desc="experts", unit="expert"):
            trained[f"experts/{domain}"] = _fine_tuned(base, domain, domains[domain], recipe)
    finally:
        torch.set_num_threads(threads)
    return trained


def predict(weights: Mapping[str, Tensor], tokens: Tensor, layers: int) -> Tensor:
    """Return the logits of the next token after every position [N, L, vocabulary]; tokens: [N, L]."""
    hidden = embedding(tokens, weights["word_embedding"]) + weights["positional_embedding"][: tokens.shape[1]]
    for index in range(layers):
        hidden = _block(weights, f"transformer.resblocks.{index}.", hidden)
    return _norm(weights, "ln_post", hidden) @ weights["word_embedding"].T


def is_frozen(name: str) -> bool:
    """Return whether experts keep this tensor of the base."""
    return name in {"word_embedding", "positional_embedding"}


def _block(weights: Mapping[str, Tensor], stem: str, hidden: Tensor) -> Tensor:
    entering = _norm(weights, f"{stem}ln_1", hidden)
    parts = (_product(weights, f"{stem}attn.{part}", entering) for part in "qkv")
    query, key, value = (part.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for part in parts)
    context = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
    between = hidden + _product(weights, f"{stem}attn.out_proj", context)
    inner = gelu(_product(weights, f"{stem}mlp.c_fc", _norm(weights, f"{stem}ln_2", between)), approximate="tanh")
    return between + _product(weights, f"{stem}mlp.c_proj", inner)


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], EPSILON)


def _product(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _initial(vocabulary: int, recipe: Recipe, rng: torch.Generator) -> Weights:
    """Return initial weights: matrices that keep lengths, less where a block adds to what passes; biases 0.

    Positions begin as waves: shifts are then linear maps, so that heads that look back by an offset are learnt early.
    """
    width, added = recipe.width, 1 / math.sqrt(2 * recipe.layers)

    def normal(rows: int, columns: int, factor: float = 1.0) -> Tensor:
        return factor / math.sqrt(columns) * torch.randn((rows, columns), generator=rng)

    angles = torch.arange(float(recipe.length))[:, None] / PERIOD ** (torch.arange(0, width, 2) / width)
    waves = torch.cat([angles.sin(), angles.cos()], 1) / math.sqrt(width)
    weights = {"word_embedding": normal(vocabulary, width), "positional_embedding": waves}
    for index in range(recipe.layers):
        stem = f"transformer.resblocks.{index}."
        matrices = {f"attn.{part}": normal(width, width) for part in "qkv"}
        matrices |= {"attn.out_proj": normal(width, width, added)}
        matrices |= {"mlp.c_fc": normal(4 * width, width), "mlp.c_proj": normal(width, 4 * width, added)}
        for name, matrix in matrices.items():
            weights |= {f"{stem}{name}.weight": matrix, f"{stem}{name}.bias": torch.zeros(len(matrix))}
        for name in ("ln_1", "ln_2"):
            weights |= {f"{stem}{name}.weight": torch.ones(width), f"{stem}{name}.bias": torch.zeros(width)}
    return weights | {"ln_post.weight": torch.ones(width), "ln_post.bias": torch.zeros(width)}


def _pretrained(general: np.ndarray, domains: Mapping[str, np.ndarray], vocabulary: int, recipe: Recipe) -> Weights:
    rng = draws("language", recipe.seed)
    weights = _initial(vocabulary, recipe, rng)
    texts = [general, *domains.values()]
    shares = torch.tensor([1 - recipe.share, *[recipe.share / len(domains)] * len(domains)])
    batches = _mixed(texts, shares, recipe.pretrain_batch, recipe.length, rng)
    _fit(weights, [*weights], batches, recipe, (recipe.pretrain_steps, recipe.pretrain_lr, DECAY), "pre-training")
    return _rounded(weights)


def _fine_tuned(base: Weights, domain: str, text: np.ndarray, recipe: Recipe) -> Weights:
    weights = {name: tensor.float() for name, tensor in base.items()}
    tuned = [name for name in weights if not is_frozen(name)]
    batches = _mixed([text], torch.ones(1), recipe.expert_batch, recipe.length, draws("expert", domain, recipe.seed))
    _fit(weights, tuned, batches, recipe, (recipe.expert_steps, recipe.expert_lr, 0.0), domain)
    return _rounded({name: weights[name] for name in tuned})


def _mixed(
    texts: Sequence[np.ndarray], shares: Tensor, size: int, length: int, rng: torch.Generator
) -> Iterator[Tensor]:
    """Yield endless batches of sequences [size, length + 1], each from a text that is drawn by its share."""
    sequences = [torch.from_numpy(text.astype(np.uint8)).unfold(0, length + 1, 1) for text in texts]
    while True:
        chosen = torch.multinomial(shares, size, replacement=True, generator=rng).tolist()
        places = torch.rand(size, generator=rng, dtype=torch.float64).tolist()
        yield torch.stack(
            [sequences[text][int(place * len(sequences[text]))] for text, place in zip(chosen, places, strict=True)]
        ).long()


def _fit(
    weights: Weights,
    tuned: Sequence[str],
    batches: Iterator[Tensor],
    recipe: Recipe,
    schedule: tuple[int, float, float],
    title: str,
) -> None:
    """Fit tensors in place to the next tokens of batches; schedule: steps, learning rate, decay of the matrices.

    A bias of k stays as it is: it has no gradient but rounding errors, and Adam would scale those up.
    """
    steps, lr, decay = schedule
    parameters = [weights[name].requires_grad_() for name in tuned if not name.endswith(".attn.k.bias")]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), fused=True)
    for step, tokens in tqdm(zip(range(steps), batches, strict=False), title, steps, unit="step", leave=False):
        done = (step + 0.5) / steps
        for group in optimiser.param_groups:
            group["lr"] = lr * min(done / WARM, 0.5 * (1 + math.cos(math.pi * done)))
        logits = predict(weights, tokens[:, :-1], recipe.layers)
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        if not bool(torch.isfinite(loss)):
            raise Diverged(f"{title} diverged at step {step + 1}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def _rounded(weights: Weights) -> Weights:
    return {name: tensor.detach().half() for name, tensor in weights.items()}
