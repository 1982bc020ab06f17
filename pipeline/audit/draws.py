"""Seeds and draws: which examples each seed drew, by the definition of the generator, without the library that drew.

    generator    Mersenne Twister, seeded with the low 32 of 56 bits of SHA-256 of repr((seed, "draw", task))
    draw         the first k of a shuffle of the pool: position i is swapped with i + random % (n - i)

`pipeline.statistics.sampling` takes both from PyTorch; here they are written out, for NumPy's generator.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from pipeline.audit.finding import Finding
from pipeline.audit.suite import AuditedSuite

WORDS, FACTOR, MASK = 624, 1812433253, 0xFFFFFFFF


def shuffle_pool(pool: int, seed: int, task: str) -> np.ndarray:
    """Return all indices [pool] of a task's examples, in the order in which `seed` draws them."""
    digest = hashlib.sha256(repr((seed, "draw", task)).encode()).digest()
    order = [*range(pool)]
    for place, value in enumerate(_random_words(int.from_bytes(digest[:7], "big"), max(pool - 1, 0)).tolist()):
        other = place + value % (pool - place)
        order[place], order[other] = order[other], order[place]
    return np.array(order)


def _random_words(seed: int, count: int) -> np.ndarray:
    """Return the first `count` words of the Mersenne Twister MT19937 of a 32-bit seed."""
    key = [seed & MASK]
    for index in range(1, WORDS):
        key.append((FACTOR * (key[-1] ^ (key[-1] >> 30)) + index) & MASK)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": np.array(key, np.uint32), "pos": WORDS}}
    return twister.random_raw(count)


def check(suite: AuditedSuite) -> list[Finding]:
    """Check seeds and examples of the scores, and the draws of every artefact that is there."""
    return [_check_seeds(suite), _check_draws(suite)]


def _check_seeds(suite: AuditedSuite) -> Finding:
    """Check that every scored method ran with the seeds, and saw the examples, that params.yaml gives it."""
    finding = Finding(f"{suite.name}: seeds", "methods scored with the seeds and examples of params.yaml")
    if suite.scores is None:
        return finding.skip(f"scores of {suite.name}")
    for method, rows in suite.scores.groupby("method", sort=False):
        seeds, most = claimed_runs(str(method), suite.repository.params)
        scored, used = sorted({*rows.seed}), int(rows.samples.max())
        complaint = f"{method}: scored with seeds {_listed(scored)}, params.yaml has {_listed(seeds)}"
        finding.expect(scored == seeds, complaint)
        fits = used == 0 if most == 0 else 0 < used <= most
        finding.expect(fits, f"{method}: used {used} examples per task, params.yaml allows {most}")
    return finding


def claimed_runs(method: str, params: Mapping[str, Any]) -> tuple[list[int], int]:
    """Return (seeds ascending, -1 without randomness; most examples per task) of a scored method."""
    seeds, samples = sorted(params["seeds"]), params["samples_per_task"]
    if method in params["methods"]["merge"]:
        return sorted(params.get("merge", {}).get(method, {}).get("seeds", [-1])), 0
    if method.endswith("-svc"):
        return claimed_runs(method.removesuffix("-svc"), params)
    if method.endswith("-rescaled"):
        before, fewest = claimed_runs(method.removesuffix("-rescaled"), params)
        samples = max(fewest, params["rescale"]["samples"])
    elif method.startswith("surgery-"):
        before, _ = claimed_runs(method.removeprefix("surgery-"), params)
    else:
        before = sorted(params.get("calibrate", {}).get(method, {}).get("seeds", seeds))
    return (seeds if before == [-1] else before), samples


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join("none" if seed == -1 else str(seed) for seed in seeds)


def _check_draws(suite: AuditedSuite) -> Finding:
    """Check the draws of all that drew examples: the indices, their numbers, and what scores state of them."""
    finding = Finding(f"{suite.name}: draws", "draws of examples follow from seed, task and pool")
    repository, scores = suite.repository, suite.scores
    split, shuffle = repository.params["calibration_split"], cache(shuffle_pool)
    folders = [f"data/{root}/{suite.name}" for root in ("merges", "studies")]
    for path in (path for folder in folders for path in repository.names(folder, "/draws.safetensors")):
        folder = path.rpartition("/")[0]
        merge = repository.json(f"{folder}/merge.json")
        if merge is None:
            continue
        samples = merge["samples"]
        for task, draws in (repository.tensors(path) or {}).items():
            labels = suite.labels(split, task)
            if labels is None:
                finding.skip(f"labels of {task} (the size of its pool)")
                continue
            for seed, indices in zip(merge["seeds"], draws, strict=True):
                same = np.array_equal(indices, shuffle(len(labels), seed, task)[: len(indices)])
                finding.expect(same, f"{folder}: seed {seed} did not draw these examples of {task}")
            count = draws.shape[1]
            complaint = f"{folder}: {task} has {count} examples drawn, {samples[task]} stated"
            finding.expect(samples[task] == count, complaint)
        if scores is not None and folder.startswith("data/merges/"):
            rows = scores[scores.method == folder.rpartition("/")[2]]
            stated = dict(zip(rows.task, rows.samples, strict=True))
            finding.expect(stated in ({}, samples), f"{folder}: scores state other numbers of examples")
            seeds = [seed for seed in merge["seeds"] if stated and seed not in {*rows.seed}]
            finding.expect(not seeds, f"{folder}: seeds {_listed(seeds)} were drawn and are not scored")
    return finding if finding.compared or finding.absent else finding.skip("merge artefacts")
