"""Replicates: train base and experts again with other seeds, and run the headline methods on every training.

Calibration seeds show how much a number varies on these experts. Training the same experts again moves it too. The
images are those of the suite, so that differences are paired by test image; calibration draws the same images with the
same seeds in every replicate. Replicate 0 is the suite as it is; the others are numbered by their training seeds.

A piece of work is a whole training, in one thread. Only embedded suites train; public checkpoints were trained once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline import methods
from pipeline.embedded import training
from pipeline.merges import storage
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import Weights
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Form, Resumable
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.steps.calibrate import Setting, require_memory
from pipeline.steps.evaluate import open_split, predict_classes
from pipeline.steps.merge import merge_data_free
from pipeline.studies._teachers import write_teachers
from pipeline.studies._trials import MARK_COLUMNS, mark_answers, score_trial
from pipeline.suites import mini

COLUMNS = ("replicate", *MARK_COLUMNS)


class Params(Parameters):
    """The trainings."""

    seeds: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), DISTINCT]
    """Seeds of the further trainings: of initial weights, captions and batches."""


class SameTraining(BenchmarkError):
    """Two replicates would be the same training."""


def write_weights(path: Path, trained: Mapping[str, Weights]) -> None:
    """Write the weights that `training.train` returns into one file."""
    named = {f"{file}/{name}": tensor for file, tensors in trained.items() for name, tensor in tensors.items()}
    store.write_tensors(path, named)


def read_weights(path: Path) -> dict[str, Weights]:
    """Read the weights that `write_weights` wrote."""
    trained: dict[str, Weights] = {}
    for key, tensor in store.TensorFile(path).items():
        file, _, name = key.rpartition("/")
        trained.setdefault(file, {})[name] = tensor
    return trained


WEIGHTS = Form(".safetensors", write_weights, read_weights)


def train(suite: Path, recipe: mini.Recipe, seed: int) -> dict[str, Weights]:
    """Train base, heads and experts on the training images of a suite."""
    folder = SuiteFolder(suite)
    tasks = folder.suite.task_names
    data = {task: (np.array(folder.examples("train", task)), np.array(folder.labels("train", task))) for task in tasks}
    try:
        return training.train(tasks, data, recipe, seed)
    except training.Diverged as error:
        raise BenchmarkError(f"training seed {seed}: {error}; choose another in study.replicates.seeds") from error


def assemble_replicate(suite: Path, recipe: mini.Recipe, trained: Mapping[str, Weights], folder: Path) -> None:
    """Write a suite with these weights; its images, labels and clusters are links to those of `suite`."""
    original = SuiteFolder(suite).suite
    folder.mkdir(parents=True)
    for name in ("images", "labels", *(["clusters"] if (suite / "clusters").exists() else [])):
        (folder / name).symlink_to((suite / name).resolve(), target_is_directory=True)
    mini.assemble_suite(original.name, original.task_names, recipe, trained, folder)


def train_replicates(
    suite: Path, teachers: Path, recipe: Parameters, params: Params, split: str, scratch: Path, work: Resumable
) -> dict[int, tuple[Path, Path]]:
    """Train the replicates; return {replicate: (its suite, its teacher logits on `split`)}.

    `teachers`: the teacher logits of replicate 0; the suites and logits of the others are written into `scratch`. No
    replicates if the suite's family does not train. Raises SameTraining if two seeds are equal.
    """
    if not isinstance(recipe, mini.Recipe):
        return {}
    seeds = [recipe.seed, *params.seeds]
    if len({*seeds}) < len(seeds):
        raise SameTraining(
            f"study.replicates.seeds = {params.seeds}: expected seeds that differ from each other and from the suite's "
            f"own, {recipe.seed}, or two replicates are one training"
        )
    trained = work.run(train, [(suite, recipe, seed) for seed in params.seeds], "trainings", form=WEIGHTS)
    replicates = {0: (suite, teachers)}
    for seed, weights in zip(params.seeds, trained, strict=True):
        folder = scratch / f"replicate-{seed}"
        assemble_replicate(suite, recipe, weights, folder)
        replicates[seed] = (folder, write_teachers(folder, split, scratch / f"teachers-{seed}", work))
    return replicates


def score_data_free(folder: Path, method: str, params: Parameters, split: str) -> dict[str, list]:
    """Merge without data and randomness; return {task: [images used (0), correct, total, right]} on a split."""
    suite = SuiteFolder(folder)
    merged = merge_data_free(methods.load(method), suite.vectors(), params, suite.suite.task_names)
    marks = mark_answers(predict_classes(storage.serve(suite, merged.solutions[0]), open_split(suite, split), method))
    return {task: [0, *marks[task]] for task in suite.suite.task_names}


def score_replicates(
    replicates: Mapping[int, tuple[Path, Path]],
    data_free: Mapping[str, Parameters],
    settings: Sequence[Setting],
    samples: int,
    seeds: Sequence[int],
    split: str,
    work: Resumable,
) -> list[tuple]:
    """Return the rows of all methods on all replicates, with the columns COLUMNS.

    `replicates`: as `train_replicates` returns them; `data_free`: {name: parameters}, merged once each; `settings`: of
    the calibrated methods, calibrated with every seed.
    """
    merged = [(replicate, folder, method) for replicate, (folder, _) in replicates.items() for method in data_free]
    calibrated = [
        (replicate, replace(setting, suite=folder, teachers=logits), seed)
        for replicate, (folder, logits) in replicates.items()
        for setting in settings
        for seed in seeds
    ]
    memory = max((require_memory(setting, samples) for _, setting, _ in calibrated), default=0)
    marks = work.run(
        score_data_free, [(folder, method, data_free[method], split) for _, folder, method in merged], "merges"
    )
    pieces = [(setting, samples, seed, split) for _, setting, seed in calibrated]
    marks += work.run(score_trial, pieces, "calibrations", memory)
    runs = [(replicate, folder, method, None) for replicate, folder, method in merged]
    runs += [(replicate, setting.suite, setting.method, seed) for replicate, setting, seed in calibrated]
    suites = {folder: SuiteFolder(folder).suite for folder, _ in replicates.values()}
    return [
        (replicate, suites[folder].name, method, task, seed, *counts[task])
        for (replicate, folder, method, seed), counts in zip(runs, marks, strict=True)
        for task in suites[folder].task_names
    ]
