"""From files to calibrations: the images a method gets, their record, and errors before any work."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from pipeline import methods
from pipeline.calibration import memory
from pipeline.calibration.problem import Problem
from pipeline.methods.distillation import Params as Distillation
from pipeline.methods.prodistill import Params as ProDistill
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.runtime.store import StoreError
from pipeline.steps import calibrate as module
from pipeline.steps.calibrate import Setting, calibrate_seeds, draw_indices
from tests.support import toy

pytestmark = pytest.mark.usefixtures("one_process")
SCHEDULE = Schedule(lr=0.01, steps=2, batch_size=2)
SEEDS = [0, 5]
SAMPLING = [name for name in methods.names() if "samples" in methods.load(name).Params.model_fields]
"""Methods with a number of images of their own."""


@pytest.fixture
def setting(pristine_suite: Path, tmp_path: Path) -> Callable[..., Setting]:
    """A function that builds the setting of a method on the tiny suite."""
    suite = SuiteFolder(pristine_suite)
    for task in suite.suite.task_names:
        images = torch.from_numpy(np.array(suite.examples("train", task)))
        logits = suite.suite.encoder()({**suite.base(), **suite.expert(task)}, images) @ suite.heads()[task].T
        store.write_array(tmp_path / f"{task}.npy", logits.numpy())

    def build(method: str, params: Parameters, split: str = "train") -> Setting:
        return Setting(pristine_suite, tmp_path, method, params, SCHEDULE, split, "float32")

    return build


@pytest.fixture
def kept(tmp_path: Path) -> Resumable:
    """Storage of finished calibrations."""
    return Resumable(tmp_path / "cells", ())


def short_params(method: str, samples: int) -> Parameters:
    """Return the method's defaults with this number of images; ProDistill with two epochs."""
    more = {"epochs": 2} if method == "prodistill" else {}
    return methods.load(method).Params(samples=samples, **more)


def test_a_smaller_draw_is_the_beginning_of_a_larger_one(pristine_suite: Path):
    suite = SuiteFolder(pristine_suite)
    few, many, whole = (draw_indices(suite, "train", count, 5) for count in (3, 7, 100))
    for task in suite.suite.task_names:
        assert few[task].tolist() == many[task].tolist()[:3] == whole[task].tolist()[:3]
        assert sorted(whole[task].tolist()) == list(range(12))


@pytest.mark.parametrize("method", SAMPLING)
def test_images_that_a_method_does_not_use_are_neither_counted_nor_needed(setting, kept: Resumable, method: str):
    """Its result has the same bits whether or not it is given more."""
    configured = setting(method, short_params(method, 5))
    merges = calibrate_seeds(configured, 11, SEEDS, kept)
    suite = SuiteFolder(configured.suite)
    assert merges.samples == dict.fromkeys(suite.suite.task_names, 5)
    assert merges.seeds == tuple(getattr(configured.params, "seeds", SEEDS))
    for task, indices in merges.draws.items():
        draws = [draw_indices(suite, "train", 11, seed)[task][:5] for seed in merges.seeds]
        assert torch.equal(indices, torch.stack(draws))
    for seed, solution in zip(merges.seeds, merges.solutions, strict=True):
        more = module.load_problem(configured, draw_indices(suite, "train", 11, seed))
        expected = methods.load(method).calibrate(more, SCHEDULE, seed, configured.params)
        first, second = (answer.delta or {"coefficients": answer.coefficients} for answer in (solution, expected))
        assert toy.same(dict(sorted(first.items())), dict(sorted(second.items())))
        assert len(more.examples[0]) == 11


def test_these_methods_have_samples_of_their_own():
    variants = ["m_ties", "m_ties_keep_20", "m_ties_random"]
    assert ["esm", "fisher", "lot", *variants, "pm_merge", "prodistill", "regmean", "regmean_pp"] == SAMPLING


def test_seeds_of_a_method_take_the_place_of_the_seeds_of_all(setting, kept: Resumable):
    random = methods.load("m_ties_random")
    assert random.Params().seeds == [0, 1, 2, 3, 4]
    merges = calibrate_seeds(setting("m_ties_random", random.Params(seeds=[3, 1, 8])), 5, SEEDS, kept)
    assert merges.seeds == (3, 1, 8)
    assert len(merges.solutions) == 3
    assert not toy.same(merges.solutions[0].delta, merges.solutions[1].delta)


def test_every_number_of_images_is_recorded_with_its_draw(setting, kept: Resumable):
    configured = setting("prodistill", ProDistill(samples=4, epochs=1))
    tasks = SuiteFolder(configured.suite).suite.task_names
    runs = [calibrate_seeds(configured, count, SEEDS, kept) for count in (2, 4, 11)]
    assert [run.samples for run in runs] == [dict.fromkeys(tasks, count) for count in (2, 4, 4)]
    assert [run.draws[tasks[0]].shape for run in runs] == [(2, 2), (2, 4), (2, 4)]
    assert [toy.same(run.solutions[0].delta, runs[2].solutions[0].delta) for run in runs] == [False, True, True]


def test_a_method_without_samples_gets_the_requested_number_or_the_whole_pool(setting, kept: Resumable):
    configured = setting("distillation", Distillation())
    runs = [calibrate_seeds(configured, count, [0], kept) for count in (11, 100)]
    assert [{*run.samples.values()} for run in runs] == [{11}, {12}]


def test_a_problem_that_does_not_fit_is_refused_before_any_calibration(
    setting, kept: Resumable, monkeypatch: pytest.MonkeyPatch
):
    def started(problem: Problem, *_: object) -> None:
        raise AssertionError("a calibration has started")

    monkeypatch.setattr(methods.load("distillation"), "calibrate", started)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    with pytest.raises(memory.NotEnoughMemory, match="calibrating tiny takes about"):
        calibrate_seeds(setting("distillation", Distillation()), 4, SEEDS, kept)


def test_a_split_that_the_suite_does_not_have_is_named(setting, kept: Resumable):
    with pytest.raises(StoreError, match=r"images/holdout/cats\.npy: cannot be read"):
        calibrate_seeds(setting("distillation", Distillation(), "holdout"), 4, SEEDS, kept)
