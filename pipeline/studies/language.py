"""Language: what merging does to a language model as a generator, on held-out texts of every domain.

Nothing is merged or calibrated here. A text has L + 1 tokens: a test context with its label, or general text. Of every
text, with every model,

    nats        mean over its L predicted tokens of the negative log-likelihood
    agreement   share of them whose most likely token is that of the domain's expert; on general text, of the base
    exact       whether greedy decoding answers as the text goes on: of a generated domain the answer of the last whole
                line and its end, of other text the next `characters` tokens; empty if the text has no whole line
    repeated    whether greedy decoding of `completion` tokens, from the tokens before them, repeats itself
    original    whether the text's own last `completion` tokens do

Tokens repeat themselves if the last NGRAM of them occurred at least REPEATS times before. The experts have a model per
task: on general text their numbers are means over the experts. A suite that is none of language models has no rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.merges import storage
from pipeline.models.encoder import Hidden, Transformer
from pipeline.models.examples import pad_texts
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import Weights, to_device
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters
from pipeline.statistics.sampling import sample_indices

GENERAL = "general"
"""Where a domain is named: the general text."""
ANSWERS = {"arithmetic": "=", "dates": " is "}
"""{generated domain: what stands before a line's answer}."""
LINE_END = "\n"
NGRAM, REPEATS = 4, 2
MEASURES = ("nats", "agreement", "exact", "repeated", "original")
COLUMNS = ("domain", "method", "seed", "text", *MEASURES)
BATCH = 128
"""Texts per forward pass."""


class Params(Parameters):
    """The texts and their completions."""

    texts: int = Field(ge=1)
    """Per domain; a domain with fewer is scored whole."""
    completion: int = Field(ge=NGRAM)
    """Tokens that are decoded to see whether they repeat."""
    characters: int = Field(ge=1)
    """Tokens of other than generated text that an exact answer has."""
    seed: int = Field(ge=0)
    """Of the draw of texts."""


class Model(NamedTuple):
    """A language model: an encoder, its weights, and the head [vocabulary, D]."""

    encoder: Transformer
    weights: Weights
    head: Tensor


class Span(NamedTuple):
    """An answer in a text: where it starts and where it ends."""

    start: int
    end: int


def score_language(
    folder: Path, artefacts: Sequence[Path], split: str, params: Params, work: Resumable
) -> list[tuple[object, ...]]:
    """Return the rows of every merge, seed, domain and text, with the columns COLUMNS; none without general text.

    artefacts: folders of merges, each named after its method. Raises BenchmarkError if texts are too short.
    """
    suite = SuiteFolder(folder)
    if (general := suite.general()) is None:
        return []
    if (longest := max(params.completion, params.characters)) >= general.shape[1]:
        raise BenchmarkError(
            f"study language: completions of {longest} tokens, but texts have {general.shape[1]}, and one at least has "
            "to stand before; lower study.language in params.yaml"
        )
    runs = [(path, index) for path in artefacts for index in range(len(storage.load(path)[0]["seeds"]))]
    rows = work.run(score_run, [(folder, *run, split, params) for run in runs], "language")
    order = {domain: place for place, domain in enumerate((*suite.suite.task_names, GENERAL))}
    return sorted((tuple(row) for part in rows for row in part), key=lambda row: order[str(row[0])])


def score_run(folder: Path, artefact: Path, index: int, split: str, params: Params) -> list[list[object]]:
    """Return the rows of the `index`-th seed of a merge."""
    suite, target = SuiteFolder(folder), device()
    texts = {domain: sample_texts(suite, split, domain, params) for domain in (*suite.suite.task_names, GENERAL)}
    places = {domain: _places(suite, domain, rows, params) for domain, rows in texts.items()}
    heads, base = suite.heads(), dict(suite.base())

    def load(weights: Mapping[str, Tensor], task: str) -> Model:
        return Model(suite.suite.encoder(), to_device(weights, target), heads[task].to(target))

    def measure(model: Model, domain: str) -> np.ndarray:
        expert = base if domain == GENERAL else {**base, **suite.expert(domain)}
        reference = load(expert, suite.suite.task_names[0] if domain == GENERAL else domain)
        return measure_texts(model, reference, texts[domain], places[domain], params.completion)

    measured: dict[str, list[np.ndarray]] = {domain: [] for domain in texts}
    for served in storage.load_models(suite, artefact, index):
        for domain in served.tasks:
            measured[domain].append(measure(load(served.weights, domain), domain))
        measured[GENERAL].append(measure(load(served.weights, served.tasks[0]), GENERAL))
    seed = storage.load(artefact)[0]["seeds"][index]
    return [
        [domain, artefact.name, seed, place, *map(_rounded, numbers)]
        for domain, parts in measured.items()
        for place, numbers in enumerate(np.mean(parts, axis=0).tolist())
    ]


def sample_texts(suite: SuiteFolder, split: str, domain: str, params: Params) -> np.ndarray:
    """Draw texts of a domain, int32 [n, L + 1]: contexts of a split with their labels, or general text."""
    if domain == GENERAL:
        pool = suite.general()
        assert pool is not None
    else:
        pool = np.column_stack([suite.examples(split, domain), suite.labels(split, domain)]).astype(np.int32)
    return np.array(pool[sample_indices(len(pool), params.texts, params.seed, domain).numpy()])


def measure_texts(
    model: Model, reference: Model, texts: np.ndarray, places: Sequence[Span | None], completion: int
) -> np.ndarray:
    """Return MEASURES of a model on texts [n, L + 1]: [n, 5], NaN for `exact` of a text without an answer."""
    losses, tokens = predict_tokens(model, texts)
    agreement = (tokens == predict_tokens(reference, texts)[1]).mean(1)
    start = texts.shape[1] - completion
    exact = np.full(len(texts), np.nan)
    asked = [(row, place) for row, place in enumerate(places) if place]
    for steps in sorted({place.end - place.start for _, place in asked}):  # answers of one length end within the text
        group = [(row, place) for row, place in asked if place.end - place.start == steps]
        answers = complete(model, [texts[row, : place.start] for row, place in group], steps)
        for (row, place), answer in zip(group, answers, strict=True):
            exact[row] = np.array_equal(answer, texts[row, place.start : place.end])
    repeated, original = (
        [repeats(row) for row in rows] for rows in (complete(model, [*texts[:, :start]], completion), texts[:, start:])
    )
    return np.column_stack([losses.mean(1), agreement, exact, repeated, original])


@torch.inference_mode()
def predict_tokens(model: Model, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the negative log-likelihood of every token but the first, and the most likely token there, [n, L]."""
    losses, tokens = [], []
    for start in range(0, len(texts), BATCH):
        ids = torch.from_numpy(texts[start : start + BATCH]).long().to(model.head.device)
        hidden = model.encoder.transform(model.weights, ids[:, :-1])
        alone = Hidden(hidden.tokens.flatten(0, 1)[:, None])  # every token as the last one of a text
        logits = model.encoder.finish(model.weights, alone) @ model.head.T
        losses.append(cross_entropy(logits, ids[:, 1:].flatten(), reduction="none").unflatten(0, (len(ids), -1)))
        tokens.append(logits.argmax(1).unflatten(0, (len(ids), -1)))
    return torch.cat(losses).double().cpu().numpy(), torch.cat(tokens).cpu().numpy()


@torch.inference_mode()
def complete(model: Model, prompts: Sequence[np.ndarray], steps: int) -> np.ndarray:
    """Return the `steps` tokens by which greedy decoding goes on from each prompt, int64 [n, steps]."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = (
        torch.from_numpy(pad_texts([prompt.tolist() for prompt in prompts], int(lengths.max()) + steps))
        .long()
        .to(model.head.device)
    )
    rows = torch.arange(len(ids))
    for step in range(steps):
        last = int(lengths.max()) + step
        parts = [(model.encoder(model.weights, part) @ model.head.T).argmax(1) for part in ids[:, :last].split(BATCH)]
        ids[rows, lengths + step] = torch.cat(parts)
    return torch.stack([ids[rows, lengths + step] for step in range(steps)], 1).cpu().numpy()


def repeats(tokens: np.ndarray) -> bool:
    """Return whether the last NGRAM of the tokens occurred at least REPEATS times before."""
    runs = np.lib.stride_tricks.sliding_window_view(tokens, NGRAM)
    return int((runs[:-1] == runs[-1]).all(1).sum()) >= REPEATS


def find_answer(text: str, mark: str) -> Span | None:
    """Return the answer of the last whole line of a text, with the line's end; None if no line is whole.

    A line is whole if it stands between two ends of lines. Its answer follows the first `mark` in it.
    """
    end = text.rfind(LINE_END)
    begin = text.rfind(LINE_END, 0, max(end, 0)) + 1
    mark_place = text.find(mark, begin, end)
    return Span(mark_place + len(mark), end + 1) if begin > 0 and mark_place >= 0 else None


def _places(suite: SuiteFolder, domain: str, texts: np.ndarray, params: Params) -> list[Span | None]:
    """Return the answer in every text of a domain."""
    if domain not in ANSWERS:
        return [Span(texts.shape[1] - params.characters, texts.shape[1])] * len(texts)
    vocabulary = {task.name: task.classes for task in suite.suite.tasks}[domain]
    return [find_answer("".join(vocabulary[token] for token in text), ANSWERS[domain]) for text in texts]


def _rounded(number: float) -> float | None:
    """Return a number with four significant digits, None for NaN."""
    return None if np.isnan(number) else float(f"{number:.4g}")
