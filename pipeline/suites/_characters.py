"""Texts as characters: what a model of characters reads, and the splits of a domain as contexts.

The alphabet is printable ASCII and the newline, which ends every text. Letters with accents lose them, typographic
punctuation becomes plain, everything else is dropped. The texts of a split, one after the other, are one sequence of
token ids; its contexts are the sequence's pieces of length + 1 tokens, the last of which is the label.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.models.suite import SPLITS
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.sampling import generator

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ALPHABET = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1)))
"""The characters in the order of their token ids."""
PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
SHARES = {"test": 0.2, "validation": 0.1}
"""Of the groups of a domain's texts; what is left is the training split."""


@dataclass(frozen=True)
class Texts:
    """Texts of a domain, and their groups: the texts of a group are never in two splits."""

    texts: Sequence[str]
    groups: Sequence[str]


def fold_text(text: str) -> str:
    """Return the text in the alphabet, on one line: runs of white space become a space; what is dropped leaves none."""
    plain = unicodedata.normalize("NFKD", text.translate(PLAIN)) if not text.isascii() else text
    return re.sub(r"[^ -~]", "", re.sub(r"\s+", " ", plain)).strip()


def encode_text(text: str) -> np.ndarray:
    """Return the token ids of a text in the alphabet, uint8 [characters]."""
    codes = np.frombuffer(text.encode("ascii"), np.uint8)
    return np.where(codes == ord("\n"), 0, codes - ord(" ") + 1).astype(np.uint8)


def decode_ids(ids: np.ndarray) -> str:
    """Return the text of token ids."""
    return "".join(ALPHABET[index] for index in ids)


def build_tokenizer() -> "Tokenizer":
    """Return a tokeniser of single characters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({character: index for index, character in enumerate(ALPHABET)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def split_texts(pool: Texts, seed: int, domain: str, test: Texts | None = None) -> dict[str, list[str]]:
    """Return the texts of every split in random order, folded; no text is twice in them.

    test: the texts of the test split, where a corpus has one; they are then left out of `pool`.
    """
    splits: dict[str, list[str]] = {}
    taken: set[str] = set()
    if test is not None:
        splits["test"] = _distinct([test.texts[index] for index in _shuffled(test.groups, seed, domain, "test")], taken)
    order = _shuffled(pool.groups, seed, domain, "pool")
    groups = [*dict.fromkeys(pool.groups[index] for index in order)]
    sizes = {split: round(share * len(groups)) for split, share in SHARES.items() if split not in splits}
    start = 0
    for split, size in {**sizes, "train": len(groups) - sum(sizes.values())}.items():
        chosen = {*groups[start : start + size]}
        splits[split] = _distinct([pool.texts[index] for index in order if pool.groups[index] in chosen], taken)
        start += size
    return {split: splits[split] for split in SPLITS}


def join_texts(texts: Sequence[str]) -> np.ndarray:
    """Return texts as one sequence of token ids, uint8 [N]; a newline ends each."""
    return encode_text("".join(f"{text}\n" for text in texts))


def draw_contexts(sequence: np.ndarray, count: int, length: int, seed: int, title: str) -> np.ndarray:
    """Draw pieces of a sequence that do not overlap, int32 [count, length + 1].

    The sequence is cut into parts half as long again as a piece; a piece starts anywhere in its part, so that lines of
    equal lengths are met at every place. Raises BenchmarkError, whose message starts with `title`, if there are too
    few.
    """
    piece = length + 1
    part = piece + piece // 2
    available = len(sequence) // part
    if available < count:
        raise BenchmarkError(f"{title}: {available} contexts of {length} tokens, {count} are asked for; lower that")
    rng = np.random.default_rng(generator(seed, "contexts", title).initial_seed())
    starts = part * rng.permutation(available)[:count] + rng.integers(part - piece + 1, size=count)
    return sequence[starts[:, None] + np.arange(piece)].astype(np.int32)


def _distinct(texts: Sequence[str], taken: set[str]) -> list[str]:
    """Return texts folded, without empty ones and without those in `taken`; add them to it."""
    kept = [text for text in dict.fromkeys(map(fold_text, texts)) if text and text not in taken]
    taken.update(kept)
    return kept


def _shuffled(groups: Sequence[str], seed: int, *key: object) -> list[int]:
    """Return the places of all texts in random order, those of a group one after the other."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    places = np.random.default_rng(generator(seed, "texts", *key).initial_seed()).permutation(len(members))
    ordered = [*members.values()]
    return [index for place in places for index in ordered[place]]
