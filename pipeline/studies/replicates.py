"""Replicates: train base and experts again with other seeds, and run the headline methods on every training.

Seeds of calibration tell how far a number moves on these experts. Another training of the same experts moves it too.
The images are those of the suite, so that differences are paired by test image; calibration draws the same images with
the same seeds in every replicate. Replicate 0 is the suite as it is, the others are numbered by their training seeds.

A cell is a whole training, in one thread. Only embedded suites train; public checkpoints were trained once.
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
from pipeline.runtime.schema import Parameters
from pipeline.steps.calibrate import Setting, need
from pipeline.steps.evaluate import on, replies
from pipeline.studies import _trials
from pipeline.studies._teachers import teachers
from pipeline.suites import mini

COLUMNS = ("replicate", *_trials.MARKED)


class Params(Parameters):
    """Which trainings."""

    seeds: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    """Of the further trainings: initial weights, captions and batches."""


class SameTraining(BenchmarkError):
    """Two replicates would be one."""


def write_weights(path: Path, trained: Mapping[str, Weights]) -> None:
    """Keep what `training.train` returns in one file."""
    named = {f"{file}/{name}": tensor for file, tensors in trained.items() for name, tensor in tensors.items()}
    store.write_tensors(path, named)


def read_weights(path: Path) -> dict[str, Weights]:
    """What `write_weights` wrote."""
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
    drawn = {task: (np.array(folder.images("train", task)), np.array(folder.labels("train", task))) for task in tasks}
    try:
        return training.train(tasks, drawn, recipe, seed)
    except training.Diverged as error:
        raise BenchmarkError(f"training seed {seed}: {error}; choose another in study.replicates.seeds") from error


def assemble(suite: Path, recipe: mini.Recipe, trained: Mapping[str, Weights], folder: Path) -> None:
    """Write a suite of these weights; its images and labels are links to those of `suite`."""
    about = SuiteFolder(suite).suite
    folder.mkdir(parents=True)
    for name in ("images", "labels"):
        (folder / name).symlink_to((suite / name).resolve(), target_is_directory=True)
    mini.assemble(about.name, mini.Definition(tasks=[*about.task_names]), recipe, trained, folder)


def replicates(
    suite: Path, taught: Path, recipe: Parameters, params: Params, split: str, scratch: Path, work: Resumable
) -> dict[int, tuple[Path, Path]]:
    """{replicate: (its suite, its experts' logits on `split`)}; none if the suite's family does not train.

    taught: the logits of replicate 0; the others' suites and logits are written into `scratch`.
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
    written = {0: (suite, taught)}
    for seed, weights in zip(params.seeds, trained, strict=True):
        folder = scratch / f"replicate-{seed}"
        assemble(suite, recipe, weights, folder)
        written[seed] = (folder, teachers(folder, split, scratch / f"teachers-{seed}", work))
    return written


def data_free(folder: Path, method: str, params: Parameters, split: str) -> dict[str, list]:
    """{task: [images used, correct, total, right]} of a merge without data and without randomness."""
    suite = SuiteFolder(folder)
    merged = storage.data_free(methods.load(method), suite.vectors(), params, suite.suite.task_names)
    marks = _trials.marks(replies(storage.serve(suite, merged.solutions[0]), on(suite, split), method))
    return {task: [0, *marks[task]] for task in suite.suite.task_names}


def measure(
    written: Mapping[int, tuple[Path, Path]],
    free: Mapping[str, Parameters],
    settings: Sequence[Setting],
    samples: int,
    seeds: Sequence[int],
    split: str,
    work: Resumable,
) -> list[tuple]:
    """Rows, see COLUMNS, of what `replicates` wrote: data-free methods {name: parameters}, settings with all seeds."""
    merged = [(replicate, folder, method) for replicate, (folder, _) in written.items() for method in free]
    calibrated = [
        (replicate, replace(setting, suite=folder, teachers=logits), seed)
        for replicate, (folder, logits) in written.items()
        for setting in settings
        for seed in seeds
    ]
    most = max((need(setting, samples) for _, setting, _ in calibrated), default=0)
    marks = work.run(data_free, [(folder, method, free[method], split) for _, folder, method in merged], "merges")
    pieces = [(setting, samples, seed, split) for _, setting, seed in calibrated]
    marks += work.run(_trials.score, pieces, "calibrations", most)
    named = [(replicate, folder, method, None) for replicate, folder, method in merged]
    named += [(replicate, setting.suite, setting.method, seed) for replicate, setting, seed in calibrated]
    about = {folder: SuiteFolder(folder).suite for folder, _ in written.values()}
    return [
        (replicate, about[folder].name, method, task, seed, *by_task[task])
        for (replicate, folder, method, seed), by_task in zip(named, marks, strict=True)
        for task in about[folder].task_names
    ]
