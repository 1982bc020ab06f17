"""Examples, what an encoder takes, and their features. Images are uint8 [N, H, W, 3]; texts are token ids int32 [N, L].

A text is padded on the right with PADDING, never inside, and has at least one token: masks and lengths follow from ids.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.models.weights import Encoder

Examples = TypeVar("Examples", np.ndarray, Tensor)
PADDING = -1
BATCH = 256
"""Examples per forward pass."""


def pad_texts(texts: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Return token ids as texts int32 [N, length]; a text has at most `length` of them."""
    padded = np.full((len(texts), length), PADDING, np.int32)
    for row, ids in zip(padded, texts, strict=True):
        row[: len(ids)] = ids
    return padded


def cut_padding(examples: Examples) -> Examples:
    """Cut texts after the longest of them, which changes no feature; images are returned as they are."""
    if examples.ndim != 2:
        return examples
    return examples[:, : int((examples >= 0).sum(1).max())]


def encode(encoder: Encoder, weights: Mapping[str, Tensor], examples: np.ndarray, target: torch.device) -> Tensor:
    """Return the features [N, D] of the examples of a split, or of some of them; computed and kept on `target`.

    They are computed batch by batch and without gradients.
    """
    with torch.inference_mode():
        parts = [
            encoder(weights, torch.from_numpy(np.array(cut_padding(examples[start : start + BATCH]))).to(target))
            for start in range(0, len(examples), BATCH)
        ]
    return torch.cat(parts)


def find_image_fault(images: np.ndarray, side: int) -> str | None:
    """Return what is wrong with the images of a split, or None; an encoder takes images of one height and width."""
    if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
        return f"{images.dtype} {list(images.shape)}, expected uint8 [N, {side}, {side}, 3], the size of the encoder"
    return None


def find_text_fault(texts: np.ndarray, vocabulary: int, positions: int) -> str | None:
    """Return what is wrong with the texts of a split, or None; an encoder has a vocabulary and as many positions."""
    if texts.dtype != np.int32 or texts.ndim != 2:
        return f"{texts.dtype} {list(texts.shape)}, expected int32 [N, L]"
    if not 0 < texts.shape[1] <= positions:
        return f"texts of {texts.shape[1]} tokens, expected 1 to {positions}, the positions of the encoder"
    if texts.size and not (texts.min() >= PADDING and texts.max() < vocabulary):
        return f"token ids from {texts.min()} to {texts.max()}, expected {PADDING} (padding) to {vocabulary - 1}"
    valid = texts >= 0
    if not valid[:, 0].all():
        return f"text {int(valid[:, 0].argmin())} is empty, expected at least one token"
    inside = (valid[:, 1:] > valid[:, :-1]).any(1)
    if inside.any():
        return f"text {int(inside.argmax())} has tokens after padding ({PADDING}), expected padding on the right only"
    return None
