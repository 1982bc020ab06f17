"""Replicates: what is trained again and what is shared, intervals in closed form, and what is said of orders."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pipeline import methods
from pipeline.embedded import training
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.replicates import list_pairs, view
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.runtime.stage import Job
from pipeline.statistics import bootstrap, contrasts
from pipeline.statistics.bootstrap import StatisticsError, variance_components
from pipeline.statistics.contrasts import contrast_replicates, resample_replicates
from pipeline.steps.calibrate import Setting
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies import replicates as study
from pipeline.studies._trials import score_trial
from pipeline.studies.replicates import (
    COLUMNS,
    Params,
    SameTraining,
    assemble_replicate,
    read_weights,
    train_replicates,
    write_weights,
)
from pipeline.suites import clip, mini
from stages.studies import replicates as stage

RECIPE = mini.Recipe(
    seed=0, train_images=24, validation_images=16, test_images=16, width=32, layers=1, caption_noise=0.5,
    pretrain_steps=2, pretrain_batch=8, pretrain_lr=0.002, expert_steps=2, expert_batch=4, expert_lr=0.001,
)  # fmt: skip
DEFINITION = mini.Definition(tasks=["signs", "greek"])
SCHEDULE = Schedule(lr=0.01, steps=2, batch_size=2)
TASKS, SIZES, SEEDS = ("a", "b"), (80, 64), (0, 1)
FIXED = {"zeroshot": 0.4, "individual": 0.95, "tsv_m": 0.7}
LEARNED = {"adamerging": 0.75, "distillation": 0.85, "samerging": 0.85}


@pytest.fixture(autouse=True)
def alone(one_process: None) -> None:
    """Milliseconds of work need no pool of processes."""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an embedded suite of two tasks, `suite`, and its experts' logits, `teachers`."""
    folder = tmp_path_factory.mktemp("embedded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        mini.train(DEFINITION, RECIPE, folder / "checkpoints")
        mini.prepare("two", DEFINITION, RECIPE, folder / "checkpoints", folder / "suite")
    for task in DEFINITION.tasks:
        store.write_array(
            folder / "teachers" / f"{task}.npy", compute_teacher_logits(folder / "suite", task, "train").numpy()
        )
    return folder


def job(embedded: Path, folder: Path, seeds: list[int], **changed: object) -> Job:
    """The stage's job, with everything small."""
    values = {key: methods.load(key.partition(".")[2]).Params() for key in (*stage.FREE, *stage.BASELINES)}
    values |= samerging.Params().model_dump()
    values |= {"schedule.{suite}": SCHEDULE, "calibration_split": "train", "precision": "float32", "seeds": [0, 1]}
    values |= {"samples_per_task": 6, "evaluation_split": "test", "recipe.{suite}": RECIPE}
    values |= {"study.replicates": Params(seeds=seeds), **changed}
    output = folder / "scratch" / "replicates.csv"
    output.parent.mkdir(parents=True)
    return Job({}, values, (embedded / "suite", embedded / "teachers"), (output,), Resumable(folder / "cells"))


def test_a_training_with_the_suites_own_seed_is_the_suite(embedded: Path, tmp_path: Path):
    write_weights(tmp_path / "kept.safetensors", study.train(embedded / "suite", RECIPE, RECIPE.seed))
    assemble_replicate(embedded / "suite", RECIPE, read_weights(tmp_path / "kept.safetensors"), tmp_path / "again")
    files = [path.relative_to(embedded / "suite") for path in (embedded / "suite").rglob("*.*")]
    assert len(files) > 2 * 3 * 2
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (embedded / "suite" / file).read_bytes(), file


def test_replicates_share_images_and_no_weight(embedded: Path, tmp_path: Path):
    given = (embedded / "suite", embedded / "teachers", RECIPE, Params(seeds=[1, 2]), "train")
    written = train_replicates(*given, tmp_path, Resumable(tmp_path / "cells"))
    assert [*written] == [0, 1, 2]
    assert written[0] == given[:2]
    suites = [SuiteFolder(folder) for folder, _ in written.values()]
    for task in DEFINITION.tasks:
        assert all((suite.images("test", task) == suites[0].images("test", task)).all() for suite in suites)
        weights = [next(iter(suite.expert(task).values())).numpy().tobytes() for suite in suites]
        assert len({*weights}) == len(suites)
        for folder, logits in written.values():
            assert (
                store.read_array(logits / f"{task}.npy") == compute_teacher_logits(folder, task, "train").numpy()
            ).all()


def test_the_stage_scores_every_method_on_every_replicate(embedded: Path, tmp_path: Path):
    work = job(embedded, tmp_path, [1, 2])
    stage.run(work)
    frame = pd.read_csv(work.outputs[0], dtype={"right": "str"})
    assert tuple(frame) == COLUMNS
    free, learned = ([key.partition(".")[2] for key in keys] for keys in (stage.FREE, stage.BASELINES))
    assert [*dict.fromkeys(frame.method)] == [*free, *learned, "samerging"]
    assert len(frame) == 3 * len(DEFINITION.tasks) * (len(free) + 2 * (len(learned) + 1))
    assert not frame.duplicated(["replicate", "method", "task", "seed"]).any()
    committed = frame[(frame.replicate == 0) & (frame.method == "distillation") & (frame.seed == 1)].set_index("task")
    params = work.params["calibrate.distillation"]
    setting = Setting(*work.inputs, "distillation", params, SCHEDULE, "train", "float32")
    expected = score_trial(setting, 6, 1, "test")
    assert committed[["samples", "correct", "total", "right"]].T.to_dict("list") == expected
    assert view(frame, context(tuple(DEFINITION.tasks))).tables["methods"].rows.shape[0] == len(free) + len(learned) + 1


def test_a_study_that_was_killed_trains_only_what_is_missing(embedded: Path, tmp_path: Path, monkeypatch):
    trained, train = [], training.train

    def counted(tasks, drawn, recipe, seed):
        trained.append(seed)
        if trained.count(seed) == 1 and seed == 2:
            raise KeyboardInterrupt
        return train(tasks, drawn, recipe, seed)

    monkeypatch.setattr(training, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        stage.run(job(embedded, tmp_path / "first", [1, 2]))
    (tmp_path / "first" / "cells").rename(tmp_path / "cells")
    resumed = job(embedded, tmp_path / "second", [1, 2])
    (tmp_path / "cells").rename(tmp_path / "second" / "cells")
    stage.run(resumed)
    assert trained == [1, 2, 2]


def test_a_suite_of_public_experts_has_a_header_and_one_sentence(embedded: Path, tmp_path: Path):
    work = job(embedded, tmp_path, [1], **{"recipe.{suite}": clip.Recipe(seed=0, pool=16)})
    stage.run(work)
    assert work.outputs[0].read_text() == f"{','.join(COLUMNS)}\n"
    shown = view(pd.read_csv(work.outputs[0]), context())
    assert len(shown.sentences) == 1
    assert "public checkpoints" in shown.sentences[0]
    assert (shown.figures, shown.tables) == ({}, {})


@pytest.mark.parametrize("seeds", [[1, 1], [3, 1]])
def test_two_replicates_of_one_training_are_refused(embedded: Path, tmp_path: Path, seeds: list[int]):
    recipe = RECIPE.model_copy(update={"seed": 3})
    with pytest.raises(SameTraining, match="expected seeds that differ"):
        train_replicates(
            embedded / "suite", embedded, recipe, Params(seeds=seeds), "train", tmp_path, Resumable(tmp_path / "cells")
        )


@pytest.mark.parametrize("seeds", [[], [0], [-1]])
def test_the_suite_itself_is_no_further_training(seeds: list[int]):
    with pytest.raises(ValidationError):
        Params(seeds=seeds)


def test_a_training_that_diverges_is_named(embedded: Path, monkeypatch: pytest.MonkeyPatch):
    def diverge(*_: object) -> None:
        raise training.Diverged("pre-training diverged at step 2")

    monkeypatch.setattr(training, "train", diverge)
    with pytest.raises(BenchmarkError, match="training seed 7: pre-training diverged at step 2"):
        study.train(embedded / "suite", RECIPE, 7)


def made_up(trainings: int = 5, spread: float = 0.0, **changed: float) -> pd.DataFrame:
    """Scores in which the replicates move all methods together, by normal numbers of deviation `spread`.

    Images differ in difficulty, so that all methods err on the same ones; `changed`: shares of right answers.
    """
    rng = np.random.default_rng(5)
    hard = {task: rng.permutation(np.arange(size)) / size for task, size in zip(TASKS, SIZES, strict=True)}
    moved, rows = spread * rng.normal(size=trainings), []
    for replicate in range(trainings):
        for method, share in (FIXED | LEARNED | changed).items():
            for seed in SEEDS if method in LEARNED else (None,):
                for task in TASKS:
                    right = hard[task] < share + moved[replicate] + 0.02 * (seed or 0)
                    bits = np.packbits(right).tobytes().hex()
                    rows.append((replicate, "s", method, task, seed, 6, int(right.sum()), len(right), bits))
    return pd.DataFrame(rows, columns=COLUMNS)


def context(tasks: tuple[str, ...] = TASKS) -> Context:
    """The suite of `made_up`, as the report would show it."""
    titles = {name: methods.load(name).TITLE for name in methods.names()}
    return Context("s", tasks, titles, 40.0, 95.0, dict.fromkeys(tasks, 95.0), "train", "test", {}, 6.5, 1)


def test_equal_methods_differ_by_nothing():
    compared = contrast_replicates(resample_replicates(made_up(spread=0.05), TASKS), "samerging", "distillation")
    for part in (compared.committed, compared.these, compared.like):
        assert (part.mean, part.low, part.high) == (0, 0, 0)
    assert compared.each == (0,) * 5
    assert not compared.holds


def test_without_spread_over_replicates_they_add_no_width():
    drawn = resample_replicates(made_up(), TASKS)
    for pair in (("samerging", "tsv_m"), ("adamerging", "individual")):
        compared = contrast_replicates(drawn, *pair)
        assert compared.these.mean == pytest.approx(compared.committed.mean)
        widths = [part.high - part.low for part in (compared.these, compared.committed)]
        assert widths[0] == pytest.approx(widths[1], rel=0.08)
        assert compared.each == pytest.approx((compared.these.mean,) * 5)
        assert compared.same == 5
    assert contrast_replicates(drawn, "samerging", "tsv_m").holds


def test_one_replicate_is_drawn_as_if_there_were_none():
    rows = made_up()
    learned = rows[(rows.replicate == 0) & rows.method.isin(("samerging", "distillation"))]
    expected = contrasts.contrast_settings(
        contrasts.resample_settings(learned, ("method",), TASKS), [("samerging",)], [("distillation",)]
    )
    compared = contrast_replicates(resample_replicates(rows, TASKS), "samerging", "distillation")
    assert (compared.committed, compared.images) == (expected.these, sum(SIZES))


def test_replicates_alone_widen_the_interval_as_a_mean_of_that_many():
    """Every image of a replicate gains alike: all chance is that of the replicates."""
    gains = np.array([0, 0, 1, 1, 1, 1, 1, 1], bool)
    right = np.repeat(gains[:, None], 30, axis=1)
    rights = {"new": dict.fromkeys(TASKS, right), "old": dict.fromkeys(TASKS, np.zeros_like(right))}
    drawn = bootstrap.resample_accuracies(rights, dict.fromkeys(rights, (None,)), 4000, len(gains))
    compared = bootstrap.compare_methods(drawn, "new", "old")
    # A draw's mean is Binomial(8, 3/4) / 8, whose quantiles are 3 / 8 and 8 / 8.
    for part in (compared.average, compared.like):
        assert (part.value, part.low, part.high) == (6 / 8, 3 / 8, 1)


def test_methods_are_paired_by_replicate_and_seed():
    """Equal effects of replicates and seeds cancel in every draw."""
    shares = np.linspace(0.2, 0.9, 6)
    right = np.arange(40) < 40 * shares[:, None]
    rights = {"one": dict.fromkeys(TASKS, right), "two": dict.fromkeys(TASKS, right[:, ::-1])}
    drawn = bootstrap.resample_accuracies(rights, dict.fromkeys(rights, (0, 1)), 500, 3)
    assert (drawn.tasks["one"].mean((1, 2)) == drawn.tasks["two"].mean((1, 2))).all()
    assert drawn.tasks["one"].mean((1, 2)).std() > 0.05


def test_an_order_that_depends_on_the_training_does_not_hold():
    rows = made_up(adamerging=0.75, tsv_m=0.7)
    assert contrast_replicates(resample_replicates(rows, TASKS), "adamerging", "tsv_m").holds
    swapped = rows.replicate.isin((3, 4)) & rows.method.isin(("adamerging", "tsv_m"))
    low, high = (rows[~swapped & (rows.method == name) & (rows.replicate == 0)] for name in ("tsv_m", "adamerging"))
    for replicate in (3, 4):
        for task in TASKS:
            for part, name in ((low, "adamerging"), (high, "tsv_m")):
                place = (rows.replicate == replicate) & (rows.method == name) & (rows.task == task)
                source = part[part.task == task].iloc[0]
                rows.loc[place, ["correct", "right"]] = [source.correct, source.right]
    compared = contrast_replicates(resample_replicates(rows, TASKS), "adamerging", "tsv_m")
    assert compared.same == 3
    assert not compared.holds


@pytest.mark.parametrize("column", ["replicate", "seed"])
def test_methods_that_miss_a_run_are_refused(column: str):
    rows = made_up()
    missing = (rows.method == "samerging") & (rows[column] == 1) & (rows.replicate == 1)
    with pytest.raises(StatisticsError, match="samerging, a, replicate 1: seeds"):
        resample_replicates(rows[~missing], TASKS)


def test_variance_components_are_recovered():
    rng, size, seeds = np.random.default_rng(0), 4000, 3
    replicate, noise = rng.normal(0, 2, (size, 1)), rng.normal(0, 1, (size, seeds))
    parts = variance_components(replicate + noise + np.array([0.0, 0.5, 1.0]))
    assert parts.replicates == pytest.approx(np.sqrt(4 + 1 / 3), rel=0.03)
    assert parts.seeds == pytest.approx(np.sqrt(1 + 0.25), rel=0.03)
    assert parts.share == pytest.approx(4 / (4 + 1.25), rel=0.03)


def test_variance_components_by_hand():
    parts = variance_components(np.array([[1.0, 3.0], [5.0, 7.0]]))  # no interaction
    assert (parts.replicates, parts.seeds) == pytest.approx((np.sqrt(8), np.sqrt(2)))
    assert parts.share == pytest.approx(8 / 10)
    assert variance_components(np.array([[1.0, 3.0], [3.0, 1.0]])).share == 0
    lone = variance_components(np.array([[1.0], [2.0]]))
    assert lone.replicates == pytest.approx(np.sqrt(0.5))
    assert np.isnan([lone.seeds, lone.share]).all()
    assert np.isnan(variance_components(np.full((3, 2), 70.1)).share)


def test_samerging_meets_its_rivals_and_neighbours_meet_once():
    ranked = ["distillation", "samerging", "adamerging", "regmean", "tsv_m"]
    assert list_pairs(ranked) == [
        *(("samerging", name) for name in ("distillation", "adamerging", "tsv_m")),
        ("adamerging", "regmean"),
        ("regmean", "tsv_m"),
    ]


def test_the_view_tells_facts_about_methods_from_facts_about_experts():
    said = view(made_up(spread=0.03), context()).sentences
    assert said[0].startswith("Facts about the methods are 3 of 4 orders")
    assert "SAMerging minus AdaMerging +9.84 points" in said[0]
    assert ", 5 of 5" in said[0]
    assert "(n = 5 replicates and 2 seeds of the calibrated methods, 144 test images)" in said[0]
    assert said[1].startswith("Facts about these experts at most are 1 of 4 orders")
    assert "SAMerging minus Distillation +0.00 points [+0.00, +0.00], 5 of 5" in said[1]
    assert "With 5 replicates they are rough" in said[-1]


def test_the_view_sets_the_spread_over_replicates_against_that_over_seeds():
    rows = made_up(spread=0.03)
    shown = view(rows, context())
    averages = rows.assign(accuracy=100 * rows.correct / rows.total).groupby(["method", "replicate", "seed"])
    table = averages.accuracy.mean()["samerging"].unstack()
    over, within = table.mean(axis=1).std(), np.sqrt(table.var(axis=1).mean())
    assert f"SAMerging {over:.2f} against {within:.2f} (" in shown.sentences[2]
    row = shown.tables["methods"].rows.set_index("Method").loc["SAMerging"]
    assert row["SD over replicates"] == f"{over:.2f}"
    assert row["Lowest"] == f"{table.mean(axis=1).min():.1f}"
    assert row["Committed"] == f"{table.loc[0].mean():.1f}"
    assert shown.tables["methods"].rows.set_index("Method").loc["TSV-M", "SD over seeds"] == "–"


def test_the_figure_has_a_dot_per_replicate_and_the_same_bytes_again():
    drawn = view(made_up(spread=0.03), context()).figures["replicates"]
    figure, caption = drawn.figure, drawn.caption
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()][-1] == "TSV-M"
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in dots) == 5 * len(axes.get_yticks())
    assert "a dot per replicate" in caption
    again = view(made_up(spread=0.03), context()).figures["replicates"].figure
    assert render_figure(figure, "svg", "x", 100) == render_figure(again, "svg", "x", 100)
