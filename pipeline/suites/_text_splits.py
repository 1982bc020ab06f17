"""Token ids of texts, and splits that share no text: no duplicate, no near duplicate, no group."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.models.examples import PADDING, pad_texts
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.sampling import generator
from pipeline.suites._corpora import Document
from pipeline.suites._text_tables import TextTask

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PLACED = ("test", "validation", "train")
"""The order in which splits are filled: a text that resembles one of another split stays out of the later one."""
RUN = 24
"""Texts that share so many tokens in a row are near duplicates: a quoted message, an article that was sent again."""
MOST = 8
"""Texts of a group at most, so that a split has many groups."""


@dataclass(frozen=True)
class Split:
    """Token ids int32 [N, L], padded on the right with PADDING, labels int64 [N], and clusters, texts of one group."""

    ids: np.ndarray
    labels: np.ndarray
    clusters: np.ndarray
    """int64 [N, 2], as `pipeline.models.suite` describes them."""


@dataclass(frozen=True)
class Pool:
    """The texts of one file of a corpus: token ids int32 [N, L], its labels, its groups, counts of removed texts."""

    ids: np.ndarray
    labels: Sequence[str]
    groups: Sequence[str]
    removed: Mapping[str, int]


def tokenize(tokenizer: "Tokenizer", texts: Sequence[str], length: int) -> np.ndarray:
    """Return ids int32 [N, length], padded with PADDING; texts are cut so that the special tokens stay.

    A text without tokens of its own has a row of PADDING alone.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    encodings = tokenizer.encode_batch(list(texts))
    return pad_texts([[] if all(text.special_tokens_mask) else text.ids for text in encodings], length)


def read_pool(documents: Sequence[Document], tokenizer: "Tokenizer", length: int) -> Pool:
    """Return the documents without those that have no tokens and those that look the same to the model.

    Of texts with the same ids the first stays; none does if their labels differ.
    """
    ids = tokenize(tokenizer, [document.text for document in documents], length)
    places: dict[bytes, list[int]] = {}
    for index in np.flatnonzero(ids[:, 0] != PADDING).tolist():
        places.setdefault(ids[index].tobytes(), []).append(index)
    kept = [same[0] for same in places.values() if len({documents[index].label for index in same}) == 1]
    filled = sum(map(len, places.values()))
    removed = {"empty": len(documents) - filled, "duplicate": filled - len(kept)}
    chosen = [documents[index] for index in kept]
    return Pool(ids[kept], [text.label for text in chosen], [text.group for text in chosen], removed)


def check_labels(task: str, entry: TextTask, member: str, documents: Sequence[Document]) -> None:
    """Check that a file of a corpus has exactly the labels of the task's classes; raises BenchmarkError."""
    known, labels = entry.labels, {document.label for document in documents}
    if unknown := sorted(labels - known.keys()):
        raise BenchmarkError(f"{task}: {member} has the label {unknown[0]!r}, which no class has; add it to the task")
    if empty := [label for label in known if label not in labels]:
        raise BenchmarkError(f"{task}: {member} has no text labelled {empty[0]!r}; remove it from the task's classes")


def draw_splits(
    tasks: Mapping[str, TextTask], pools: Mapping[str, Pool], sizes: Mapping[str, int], seed: int
) -> tuple[dict[str, dict[str, Split]], dict[str, dict[str, int]]]:
    """Draw the splits of the tasks of one corpus, disjoint across tasks as well.

    pools: {split: pool}, the same object for splits that come from one file. Returns {task: {split: Split}} and {task:
    {split: texts left out as near duplicates}}. Raises BenchmarkError if a pool has too few texts.
    """
    taken: set[object] = set()
    splits: dict[str, dict[str, Split]] = {task: {} for task in tasks}
    near: dict[str, dict[str, int]] = {task: {} for task in tasks}
    streams = {id(pool): _shuffled(pool, seed, *tasks) for pool in pools.values()}
    for split in PLACED:
        pool = pools[split]
        for task, entry in tasks.items():
            chosen, near[task][split] = _take(streams[id(pool)], pool, sizes[split], taken)
            if len(chosen) < sizes[split]:
                raise BenchmarkError(
                    f"{task}: only {len(chosen)} texts are left for its {split} split, {sizes[split]} are asked for; "
                    f"lower {split}_texts of the recipe"
                )
            classes = entry.labels
            labels = np.array([classes[pool.labels[index]] for index in chosen], np.int64)
            numbers = np.unique([pool.groups[index] or f"text {index}" for index in chosen], return_inverse=True)[1]
            clusters = np.stack([np.zeros(len(chosen), np.int64), numbers], 1)
            splits[task][split] = Split(pool.ids[chosen], labels, clusters)
    return splits, near


def _take(stream: Iterator[int], pool: Pool, size: int, taken: set[object]) -> tuple[list[int], int]:
    """Take `size` texts that share nothing with `taken`, then add to that; return them and how many were left out."""
    chosen: list[int] = []
    marks: set[object] = set()
    near = 0
    while len(chosen) < size and (index := next(stream, None)) is not None:
        if taken.isdisjoint(mine := _marks(pool.ids[index], pool.groups[index])):
            chosen.append(index)
            marks |= mine
        else:
            near += 1
    taken |= marks
    return chosen, near


def _shuffled(pool: Pool, seed: int, *key: object) -> Iterator[int]:
    """Yield the texts in random order, those of a group one after the other, MOST of them at most."""
    groups: dict[object, list[int]] = {}
    for index, group in enumerate(pool.groups):
        groups.setdefault(group or index, []).append(index)
    members = [*groups.values()]
    for place in torch.randperm(len(members), generator=generator(seed, "texts", *key)).tolist():
        yield from members[place][:MOST]


def _marks(ids: np.ndarray, group: str) -> set[object]:
    """Return what a text must not share with one of another split: its tokens, any RUN of them, its group."""
    tokens = ids[ids != PADDING]
    runs = [tokens[start : start + RUN].tobytes() for start in range(max(1, len(tokens) - RUN + 1))]
    return {*runs, *([group] if group else [])}
