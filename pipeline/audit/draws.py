"""Seeds and draws: which images each seed drew, from the definition of the generator, without the library that drew.

    generator    Mersenne Twister, seeded with the low 32 of 56 bits of SHA-256 of repr((seed, "draw", task))
    draw         the first k of a shuffle of the pool: position i is swapped with i + random % (n - i)

`pipeline.models.sampling` takes both from PyTorch; here they are written out, for NumPy's generator.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.audit.finding import Finding, Tally
from pipeline.audit.repository import Repository, integers

WORDS, FACTOR, MASK = 624, 1812433253, 0xFFFFFFFF


def shuffled(pool: int, seed: int, task: str) -> np.ndarray:
    """All indices [pool] of a task's images, in the order in which `seed` draws them."""
    digest = hashlib.sha256(repr((seed, "draw", task)).encode()).digest()
    order = [*range(pool)]
    for place, value in enumerate(_random(int.from_bytes(digest[:7], "big"), max(pool - 1, 0)).tolist()):
        other = place + value % (pool - place)
        order[place], order[other] = order[other], order[place]
    return np.array(order)


def _random(seed: int, count: int) -> np.ndarray:
    """The first `count` words of the Mersenne Twister MT19937 of a 32-bit seed."""
    key = [seed & MASK]
    for index in range(1, WORDS):
        key.append((FACTOR * (key[-1] ^ (key[-1] >> 30)) + index) & MASK)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": np.array(key, np.uint32), "pos": WORDS}}
    return twister.random_raw(count)


def check(repository: Repository, suite: str) -> list[Finding]:
    """Seeds and images of the scores; draws of every artefact at hand."""
    return [_seeds(repository, suite), _draws(repository, suite)]


def _seeds(repository: Repository, suite: str) -> Finding:
    """Every scored method ran with the seeds, and saw the images, that params.yaml gives it."""
    tally = Tally(f"{suite}: seeds", "methods scored with the seeds and images of params.yaml")
    scores, params = integers(repository, suite), repository.yaml("params.yaml")
    if scores is None:
        tally.absent.append(f"scores of {suite}")
        return tally.finding()
    for method, rows in scores.groupby("method", sort=False):
        seeds, most = claimed(str(method), params)
        found, used = sorted({*rows.seed}), int(rows.samples.max())
        tally.expect(found == seeds, f"{method}: scored with seeds {_named(found)}, params.yaml has {_named(seeds)}")
        fits = used == 0 if most == 0 else 0 < used <= most
        tally.expect(fits, f"{method}: used {used} images per task, params.yaml allows {most}")
    return tally.finding()


def claimed(method: str, params: Mapping[str, Any]) -> tuple[list[int], int]:
    """(seeds ascending, -1 without randomness; most images per task) of a scored method."""
    methods, seeds = params["methods"], sorted(params["seeds"])
    own = sorted(params.get("merge", {}).get(method, {}).get("seeds", [-1]))
    if method in methods["merge"]:
        return own, 0
    if method.endswith("-rescaled"):
        before, samples = claimed(method.removesuffix("-rescaled"), params)
        return (seeds if before == [-1] else before), max(samples, params["rescale"]["samples"])
    if method.startswith("surgery-"):
        before, _ = claimed(method.removeprefix("surgery-"), params)
        return (seeds if before == [-1] else before), params["samples_per_task"]
    return seeds, params["samples_per_task"]


def _named(seeds: list[int]) -> str:
    return ", ".join("none" if seed == -1 else str(seed) for seed in seeds)


def _draws(repository: Repository, suite: str) -> Finding:
    tally = Tally(f"{suite}: draws", "draws of images follow from seed, task and pool")
    split = repository.yaml("params.yaml")["calibration_split"]
    scores = integers(repository, suite)
    found = [*_artefacts(repository, suite)]
    if not found:
        tally.absent.append("merge artefacts")
    pools: dict[str, np.ndarray | None] = {}
    orders: dict[tuple[int, str], np.ndarray] = {}
    for folder, about, drawn in found:
        for task, indices in drawn.items():
            if task not in pools:
                pools[task] = repository.array(f"data/suites/{suite}/labels/{split}/{task}.npy")
            if pools[task] is None:
                tally.absent.append(f"labels of {task} (the size of its pool)")
                continue
            for seed, own in zip(about["seeds"], indices, strict=True):
                if (seed, task) not in orders:
                    orders[seed, task] = shuffled(len(pools[task]), seed, task)
                same = np.array_equal(own, orders[seed, task][: len(own)])
                tally.expect(same, f"{folder}: seed {seed} did not draw these images of {task}")
            used = about["samples"][task]
            tally.expect(
                used == indices.shape[1], f"{folder}: {task} has {indices.shape[1]} images drawn, {used} stated"
            )
        if scores is not None and folder.startswith("data/merges/"):
            rows = scores[scores.method == folder.rpartition("/")[2]]
            stated = dict(zip(rows.task, rows.samples, strict=True))
            tally.expect(stated in ({}, about["samples"]), f"{folder}: scores state other numbers of images")
            seeds = [seed for seed in about["seeds"] if not stated or seed not in {*rows.seed}]
            tally.expect(not stated or not seeds, f"{folder}: seeds {_named(seeds)} were drawn and are not scored")
    return tally.finding()


def _artefacts(repository: Repository, suite: str) -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    """(folder, merge.json, draws) of everything that drew images."""
    for root in ("merges", "studies"):
        for path in repository.names(f"data/{root}/{suite}", "/draws.safetensors"):
            folder = path.rpartition("/")[0]
            about = repository.json(f"{folder}/merge.json")
            if about is not None:
                yield folder, about, repository.tensors(path)
