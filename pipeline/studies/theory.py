"""Theory: measurable surrogates of what bounds the risk of a merge, beside the risk itself.

Five questions, on validation examples unless a table says otherwise:

    chain           is the risk bounded by the divergence from the experts, how loosely, and does it rank merges?
    bounds          is a PAC-Bayes bound over the coefficients alone of use?
    expansions      is the merged model in the linear regime of theta_0?
    slopes          how large is the gradient at a solution?
    transfer        how much worse are experts on other tasks, and does this predict the loss of simple merges?

`pipeline.studies._theory` defines the first, third and fourth. The bound's loss is the total variation distance to the
experts' predictions, which needs no labels. Its prior over the coefficients [T, G] is N(prior, s^2) in every entry, its
posterior N(lambda, s^2) with the coefficients lambda that were calibrated on the same k examples per task:
KL = |lambda - prior|^2 / (2 s^2). The examples come from a split on which no expert was trained, or the loss would
depend on them. `pipeline.statistics.pac_bayes` turns the rows into bounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline import methods
from pipeline.calibration.objectives import distillation
from pipeline.diagnostics import Settings
from pipeline.diagnostics.behaviour import measure_transfer
from pipeline.diagnostics.prediction import CORRELATION_COLUMNS, correlate_measures
from pipeline.diagnostics.subsets import draw_task_subsets, merge_subset
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.models.examples import cut_padding, encode
from pipeline.models.task_vectors import merge
from pipeline.models.weights import Encoder, Weights, has_gradient, to_device
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.statistics.sampling import generator, sample_indices
from pipeline.steps.calibrate import Setting, calibrate, draw_indices, require_memory
from pipeline.steps.merge import merge_data_free
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies._theory import Forward, expand_logits, measure_chain, measure_slope, total_variation

HELD_OUT = "validation"
UNSEEN = "test"
"""Where the examples of the bounds come from: no expert was trained on it, and nothing else here is measured on it."""
BOUNDED = ("task_arithmetic", "distillation", "samerging")
"""Methods whose coefficients are the mean of a posterior."""
POOLS = ("drawn", "whole", "held")
"""Where the loss of a posterior is measured: the k examples per task, all of their split, the validation split."""

CHAIN = ("method", "seed", "task", "risk", "reference", "tv", "root", "kl", "entropy", "correct", "total")
BOUNDS = ("method", "k", "scale", "task", "samples", "draws", "distance", *POOLS, "prior")
"""`distance`: |lambda - prior|^2; `prior`: loss at the centre of the prior, on the whole split."""
EXPANSIONS = ("method", "seed", "share", "task", "residual", "change")
SLOPES = ("method", "seed", "task", "loss", "slope")
TRANSFER = ("expert", "task", "accuracy")
Positive = Annotated[float, Field(gt=0)]
Rows = Sequence[tuple[object, ...]]


class Params(Parameters):
    """What is measured, and on how many examples."""

    seed: int = Field(ge=0)
    """Of calibrations and of every draw."""
    images: int = Field(ge=1)
    """Validation examples per task of expansions and slopes."""
    shares: Annotated[list[Positive], Field(min_length=1), DISTINCT]
    """Shares of the merged delta at which the logits are expanded."""
    samples: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), DISTINCT]
    """Unlabelled examples per task of the bounds; a task with fewer uses all it has."""
    prior: float = Field(ge=-2, le=2)
    """Every coefficient at the centre of the prior; chosen before any example was seen."""
    scales: Annotated[list[Positive], Field(min_length=1), DISTINCT]
    """Standard deviations s of prior and posterior; the best bound is chosen, and pays for the choice."""
    draws: int = Field(ge=1)
    """Drawn coefficients per posterior, each merged and run on `batch` examples per task."""
    batch: int = Field(ge=1)
    transfer_images: int = Field(ge=1)
    """Validation examples per task of the experts on each other's tasks and of merged subsets."""
    subsets: int = Field(ge=0)
    """Random subsets of the tasks whose simple merges are scored."""


def measure_theory(
    settings: Mapping[str, Setting], teachers: Path, temperature: float, samples: int, params: Params, work: Resumable
) -> dict[str, tuple[tuple[str, ...], Rows]]:
    """Return {name of the table: (its columns, its rows)}.

    settings: {method: how it merges}, calibrated on `samples` examples per task; teachers: the experts' logits on
    UNSEEN, whose examples the bounds are calibrated on.
    """
    most = max(samples, *params.samples)
    memory = max(require_memory(setting, most) for setting in settings.values())
    pieces = [(setting, samples, temperature, params) for setting in settings.values()]
    merges = dict(zip(settings, work.run(measure_merge, pieces, "theory: merges", memory), strict=True))
    bounded = {name: replace(settings[name], teachers=teachers, split=UNSEEN) for name in BOUNDED}
    grid = [(name, k) for name in BOUNDED for k in params.samples]
    pieces = [(bounded[name], k, params) for name, k in grid]
    risks = work.run(sample_risks, pieces, "theory: bounds", memory)
    suite = next(iter(settings.values())).suite
    transfer, correlations = _compare_experts(suite, settings["task_arithmetic"], params, work)
    seeds = {name: "" if _is_data_free(name) else params.seed for name in settings}
    tables: dict[str, tuple[tuple[str, ...], Rows]] = {
        table: (columns, [(name, seeds[name], *row) for name, parts in merges.items() for row in parts[table]])
        for table, columns in (("chain", CHAIN), ("expansions", EXPANSIONS), ("slopes", SLOPES))
    }
    return tables | {
        "bounds": (BOUNDS, [(*case, *row) for case, rows in zip(grid, risks, strict=True) for row in rows]),
        "transfer": (TRANSFER, transfer),
        "correlations": (CORRELATION_COLUMNS, correlations),
    }


def _is_data_free(method: str) -> bool:
    return hasattr(methods.load(method), "merge")


def _solve(setting: Setting, samples: int, seed: int) -> Solution:
    if not _is_data_free(setting.method):
        return calibrate(setting, samples, seed)
    suite = setting.folder()
    merged = merge_data_free(methods.load(setting.method), suite.vectors(), setting.params, suite.suite.task_names)
    return merged.solutions[0]


def measure_merge(setting: Setting, samples: int, temperature: float, params: Params) -> dict[str, list[list[object]]]:
    """Merge once; return the rows of `chain`, `expansions` and `slopes`, without the method and its seed."""
    suite, target = setting.folder(), device()
    encoder, base, heads = suite.suite.encoder(), to_device(suite.base(), target), suite.heads()
    (served,) = storage.serve(suite, _solve(setting, samples, params.seed))
    weights = to_device(served.weights, target)
    learned = [name for name in suite.suite.groups if has_gradient(name)]
    delta = {name: weights[name] - base[name] for name in suite.suite.groups}
    rows: dict[str, list[list[object]]] = {"chain": [], "expansions": [], "slopes": []}
    for task in suite.suite.task_names:
        head, examples = heads[task].to(target), suite.examples(HELD_OUT, task)
        teacher = compute_teacher_logits(suite.folder, task, HELD_OUT).to(target)
        labels = torch.from_numpy(np.array(suite.labels(HELD_OUT, task))).to(target)
        logits = encode(encoder, weights, examples, target) @ head.T
        correct = int((logits.argmax(1) == labels).sum())
        terms = measure_chain(logits, teacher, labels)
        rows["chain"].append([task, *map(_text, terms.values()), correct, len(labels)])
        few = sample_indices(len(labels), params.images, params.seed, task)
        forward = _forward(encoder, torch.from_numpy(examples[few.numpy()]).to(target), head)
        for share, *norms in expand_logits(forward, base, delta, params.shares):
            rows["expansions"].append([share, task, *map(_text, norms)])
        slope = measure_slope(forward, distillation(temperature), teacher[few.to(target)].clone(), weights, learned)
        rows["slopes"].append([task, *map(_text, slope)])
    return rows


def _forward(encoder: Encoder, examples: Tensor, head: Tensor) -> Forward:
    return lambda weights: encoder(weights, cut_padding(examples)) @ head.T


def sample_risks(setting: Setting, samples: int, params: Params) -> list[list[object]]:
    """Calibrate once; return the rows of `bounds`, without method and k, from drawn coefficients at every scale."""
    suite, target = setting.folder(), device()
    tasks, encoder, base = suite.suite.task_names, suite.suite.encoder(), to_device(suite.base(), target)
    learned = [name for name in suite.suite.groups if has_gradient(name)]
    stacked = suite.vectors()
    vectors = {name: stacked[name].to(target) for name in learned}
    columns = torch.tensor([has_gradient(name) for name in suite.suite.groups])
    solution = cast(Tensor, _solve(setting, samples, params.seed).coefficients)[:, columns]
    centre = solution.to(target, torch.float32)
    heads = [suite.heads()[task].to(target) for task in tasks]
    logits = {
        setting.split: [torch.from_numpy(store.read_array(setting.teachers / f"{task}.npy").copy()) for task in tasks],
        HELD_OUT: [compute_teacher_logits(suite.folder, task, HELD_OUT).cpu() for task in tasks],
    }
    examples = {split: [suite.examples(split, task) for task in tasks] for split in logits}
    drawn, every = draw_indices(suite, setting.split, samples, params.seed), torch.arange
    indices = {
        "drawn": (setting.split, [drawn[task] for task in tasks]),
        "whole": (setting.split, [every(len(pool)) for pool in examples[setting.split]]),
        "held": (HELD_OUT, [every(len(pool)) for pool in examples[HELD_OUT]]),
    }

    def losses(weights: Weights, picked: Sequence[tuple[str, int, Tensor]]) -> list[float]:
        """Return the mean distance from the expert on the examples of every (split, task, indices)."""
        parts = [examples[split][task][chosen.numpy()] for split, task, chosen in picked]
        features = encode(encoder, weights, np.concatenate(parts), target).split([len(part) for part in parts])
        return [
            float(total_variation(part @ heads[task].T, logits[split][task][chosen].to(target)).mean())
            for part, (split, task, chosen) in zip(features, picked, strict=True)
        ]

    split, whole = indices["whole"]
    start = torch.full_like(centre, params.prior)
    at_prior = losses(merge(base, vectors, start), [(split, task, pool) for task, pool in enumerate(whole)])
    distance, rows = float((solution.double() - params.prior).square().sum()), []
    for scale in params.scales:
        rng, total = generator(params.seed, "posterior", scale), np.zeros(len(POOLS) * len(tasks))
        for _ in range(params.draws):
            noise = torch.randn(centre.shape, generator=rng).to(target)
            picked = [
                (split, task, pool[torch.randint(len(pool), (params.batch,), generator=rng)])
                for split, pools in indices.values()
                for task, pool in enumerate(pools)
            ]
            total += losses(merge(base, vectors, centre + scale * noise), picked)
        means = (total / params.draws).reshape(len(POOLS), -1)
        for place, task in enumerate(tasks):
            known = [scale, task, len(drawn[task]), params.draws, _text(distance)]
            rows.append([*known, *map(_text, means[:, place]), _text(at_prior[place])])
    return rows


def _compare_experts(suite: Path, simple: Setting, params: Params, work: Resumable) -> tuple[Rows, Rows]:
    """Return the rows of `transfer`, and the correlations of heterogeneity with what simple merges of subsets lose."""
    tasks, images = simple.folder().suite.task_names, params.transfer_images
    pieces = [(suite, expert, images, params.seed) for expert in tasks]
    accuracies = np.array(work.run(measure_transfer, pieces, "theory: experts"))  # [expert, task], in per cent
    rows = [(expert, task, _text(accuracies[j, t])) for j, expert in enumerate(tasks) for t, task in enumerate(tasks)]
    subsets = draw_task_subsets(len(tasks), params.subsets, generator(params.seed, "theory", "subsets"))
    if not subsets:
        return rows, []
    scored = work.run(score_simple_merges, [(suite, subset, simple, params) for subset in subsets], "theory: subsets")
    experts = accuracies.diagonal()
    blocks = [accuracies[np.ix_(subset, subset)] for subset in subsets]
    heterogeneity = np.array([(block.diagonal() - block).mean() for block in blocks])
    lost = {
        method: np.array(
            [(experts[[*subset]] - scores[method]).mean() for subset, scores in zip(subsets, scored, strict=True)]
        )
        for method in scored[0]
    }
    sizes = [len(subset) for subset in subsets]
    correlations = correlate_measures("subsets", {"heterogeneity": heterogeneity}, lost, sizes, subsets, params.seed)
    return rows, [(*row[:4], *map(_text, row[4:])) for row in correlations]


def score_simple_merges(suite: Path, subset: Sequence[int], simple: Setting, params: Params) -> dict[str, list[float]]:
    """Return {method: accuracy in per cent on each task of the subset} of the merges that the diagnosis predicts."""
    scale = simple.params.model_dump()["scale"]
    few = Settings(samples=1, images=params.transfer_images, scale=scale, seed=params.seed)  # M-Loss is not used
    return merge_subset(suite, tuple(subset), HELD_OUT, few).accuracies


def _text(value: float) -> str:
    """Return six significant digits, nothing if undefined."""
    return f"{value:.6g}" if np.isfinite(value) else ""
