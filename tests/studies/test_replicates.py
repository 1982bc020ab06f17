"""Replicates: what is retrained and what is shared, intervals in closed form, and the view of made-up scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import stats

from pipeline import methods
from pipeline.embedded import training
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.replicates import list_pairs, list_shown, view
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.runtime.stage import Job
from pipeline.statistics.contrasts import (
    ReplicatedContrast,
    contrast_replicates,
    contrast_settings,
    mark_replicates,
    mark_settings,
)
from pipeline.statistics.intervals import Marks, StatisticsError, compare_methods, mark_methods, variance_components
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
from pipeline.suites import clip
from stages.studies import replicates as stage
from tests.support.embedded import RECIPE, train_suite

pytestmark = pytest.mark.usefixtures("one_process")

TRAINED = ["signs", "greek"]
SCHEDULE = Schedule(lr=0.01, steps=2, batch_size=2)
TASKS, SIZES, SEEDS = ("a", "b"), (80, 64), (0, 1)
FIXED = {"zeroshot": 0.4, "individual": 0.95, "tsv_m": 0.7}
LEARNED = {"adamerging": 0.75, "distillation": 0.85, "samerging": 0.85}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an embedded suite of two tasks, `suite`, and its experts' logits, `teachers`, to a folder."""
    folder = tmp_path_factory.mktemp("embedded")
    train_suite(folder, TRAINED)
    for task in TRAINED:
        store.write_array(
            folder / "teachers" / f"{task}.npy", compute_teacher_logits(folder / "suite", task, "train").numpy()
        )
    return folder


def make_job(embedded: Path, folder: Path, seeds: list[int], **changes: object) -> Job:
    """Make a small job of the stage."""
    values = {key: methods.load(key.partition(".")[2]).Params() for key in (*stage.FREE, *stage.BASELINES)}
    values |= samerging.Params().model_dump()
    values |= {"schedule.{suite}": SCHEDULE, "calibration_split": "train", "precision": "float32", "seeds": [0, 1]}
    values |= {"samples_per_task": 6, "evaluation_split": "test", "recipe.{suite}": RECIPE}
    values |= {"study.replicates": Params(seeds=seeds), **changes}
    output = folder / "scratch" / "replicates"
    output.parent.mkdir(parents=True)
    return Job({}, values, (embedded / "suite", embedded / "teachers"), (output,), Resumable(folder / "cells"))


def test_training_with_the_seed_of_the_suite_gives_the_suite(embedded: Path, tmp_path: Path):
    write_weights(tmp_path / "kept.safetensors", study.train(embedded / "suite", RECIPE, RECIPE.seed))
    assemble_replicate(embedded / "suite", RECIPE, read_weights(tmp_path / "kept.safetensors"), tmp_path / "again")
    files = [path.relative_to(embedded / "suite") for path in (embedded / "suite").rglob("*.*")]
    assert len(files) > 2 * 3 * 2
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (embedded / "suite" / file).read_bytes(), file


def test_replicates_share_examples_but_no_weights(embedded: Path, tmp_path: Path):
    arguments = (embedded / "suite", embedded / "teachers", RECIPE, Params(seeds=[1, 2]), "train")
    replicates = train_replicates(*arguments, tmp_path, Resumable(tmp_path / "cells"))
    assert [*replicates] == [0, 1, 2]
    assert replicates[0] == arguments[:2]
    suites = [SuiteFolder(folder) for folder, _ in replicates.values()]
    for task in TRAINED:
        assert all((suite.examples("test", task) == suites[0].examples("test", task)).all() for suite in suites)
        weights = [next(iter(suite.expert(task).values())).numpy().tobytes() for suite in suites]
        assert len({*weights}) == len(suites)
        for folder, logits in replicates.values():
            assert (
                store.read_array(logits / f"{task}.npy") == compute_teacher_logits(folder, task, "train").numpy()
            ).all()


def test_the_stage_scores_every_method_on_every_replicate(embedded: Path, tmp_path: Path):
    work = make_job(embedded, tmp_path, [1, 2])
    stage.run(work)
    frame = pd.read_csv(work.outputs[0] / "rows.csv", dtype={"right": "str"})
    assert tuple(frame) == COLUMNS
    free, learned = ([key.partition(".")[2] for key in keys] for keys in (stage.FREE, stage.BASELINES))
    assert [*dict.fromkeys(frame.method)] == [*free, *learned, "samerging"]
    assert len(frame) == 3 * len(TRAINED) * (len(free) + 2 * (len(learned) + 1))
    assert not frame.duplicated(["replicate", "method", "task", "seed"]).any()
    committed = frame[(frame.replicate == 0) & (frame.method == "distillation") & (frame.seed == 1)].set_index("task")
    params = work.params["calibrate.distillation"]
    setting = Setting(*work.inputs, "distillation", params, SCHEDULE, "train", "float32")
    expected = score_trial(setting, 6, 1, "test")
    assert committed[["samples", "correct", "total", "right"]].T.to_dict("list") == expected
    assert view(frame, context(tuple(TRAINED))).tables["methods"].rows.shape[0] == len(free) + len(learned) + 1


def test_an_interrupted_study_trains_only_the_missing_replicates(embedded: Path, tmp_path: Path, monkeypatch):
    seeds, train = [], training.train

    def train_or_interrupt(tasks, drawn, recipe, seed):
        seeds.append(seed)
        if seeds.count(seed) == 1 and seed == 2:
            raise KeyboardInterrupt
        return train(tasks, drawn, recipe, seed)

    monkeypatch.setattr(training, "train", train_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        stage.run(make_job(embedded, tmp_path / "first", [1, 2]))
    (tmp_path / "first" / "cells").rename(tmp_path / "cells")
    resumed = make_job(embedded, tmp_path / "second", [1, 2])
    (tmp_path / "cells").rename(tmp_path / "second" / "cells")
    stage.run(resumed)
    assert seeds == [1, 2, 2]


def test_a_suite_of_public_experts_has_a_header_alone(embedded: Path, tmp_path: Path):
    work = make_job(embedded, tmp_path, [1], **{"recipe.{suite}": clip.Recipe(seed=0, pool=16)})
    stage.run(work)
    assert (work.outputs[0] / "rows.csv").read_text() == f"{','.join(COLUMNS)}\n"


def test_the_seed_of_the_committed_training_is_refused(embedded: Path, tmp_path: Path):
    recipe = RECIPE.model_copy(update={"seed": 3})
    with pytest.raises(SameTraining, match="expected seeds that differ"):
        train_replicates(
            embedded / "suite", embedded, recipe, Params(seeds=[3, 1]), "train", tmp_path, Resumable(tmp_path / "cells")
        )


@pytest.mark.parametrize("seeds", [[], [0], [-1], [1, 1]])
def test_training_seeds_must_be_positive_and_differ(seeds: list[int]):
    with pytest.raises(ValidationError):
        Params(seeds=seeds)


def test_a_diverging_training_is_refused_with_its_seed(embedded: Path, monkeypatch: pytest.MonkeyPatch):
    def diverge(*_: object) -> None:
        raise training.Diverged("pre-training diverged at step 2")

    monkeypatch.setattr(training, "train", diverge)
    with pytest.raises(BenchmarkError, match="training seed 7: pre-training diverged at step 2"):
        study.train(embedded / "suite", RECIPE, 7)


def made_up(trainings: int = 5, spread: float = 0.0, **changed_shares: float) -> pd.DataFrame:
    """Scores in which replicates shift all methods equally, by normal numbers of deviation `spread`.

    All methods find the same examples hard. changed_shares: {method: share of right answers}.
    """
    rng = np.random.default_rng(5)
    difficulty = {task: rng.permutation(np.arange(size)) / size for task, size in zip(TASKS, SIZES, strict=True)}
    shifts, rows = spread * rng.normal(size=trainings), []
    for replicate in range(trainings):
        for method, share in (FIXED | LEARNED | changed_shares).items():
            for seed in SEEDS if method in LEARNED else (None,):
                for task in TASKS:
                    right = difficulty[task] < share + shifts[replicate] + 0.02 * (seed or 0)
                    bits = np.packbits(right).tobytes().hex()
                    rows.append((replicate, "s", method, task, seed, 6, int(right.sum()), len(right), bits))
    return pd.DataFrame(rows, columns=COLUMNS)


def context(tasks: tuple[str, ...] = TASKS) -> Context:
    """Context of the report on the suite of `made_up`."""
    titles = {name: methods.load(name).TITLE for name in methods.names()}
    return Context("s", tasks, titles, 40.0, 95.0, dict.fromkeys(tasks, 95.0), "train", "test", {}, 6.5, 1)


def test_equal_methods_have_a_difference_of_zero():
    contrast = contrast_replicates(mark_replicates(made_up(spread=0.05), TASKS, {}), "samerging", "distillation")
    for difference in (contrast.committed, contrast.these, contrast.like):
        assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert contrast.each == (0,) * 5
    assert not contrast.holds


def test_replicates_without_spread_add_no_width():
    marks = mark_replicates(made_up(), TASKS, {})
    for pair in (("samerging", "tsv_m"), ("adamerging", "individual")):
        contrast = contrast_replicates(marks, *pair)
        assert contrast.these.mean == pytest.approx(contrast.committed.mean)
        widths = [difference.high - difference.low for difference in (contrast.these, contrast.committed)]
        assert widths[0] == pytest.approx(widths[1], rel=0.08)
        assert contrast.each == pytest.approx((contrast.these.mean,) * 5)
        assert contrast.same == 5
    assert contrast_replicates(marks, "samerging", "tsv_m").holds


def test_the_committed_interval_is_that_of_a_study_without_replicates():
    rows = made_up()
    committed = rows[(rows.replicate == 0) & rows.method.isin(("samerging", "distillation"))]
    marks = mark_settings(committed, ("method",), TASKS, {})
    expected = contrast_settings(marks, [("samerging",)], [("distillation",)])
    contrast = contrast_replicates(mark_replicates(rows, TASKS, {}), "samerging", "distillation")
    assert (contrast.committed, contrast.examples) == (expected.these, sum(SIZES))


def test_replicates_widen_the_interval_as_a_mean_of_their_number():
    """Every example of a replicate gains alike: all chance is that of the replicates."""
    gains = np.array([0, 0, 1, 1, 1, 1, 1, 1], bool)
    right = np.repeat(gains[:, None], 30, axis=1)
    rights = {"new": dict.fromkeys(TASKS, right), "old": dict.fromkeys(TASKS, np.zeros_like(right))}
    marks = mark_methods(rights, dict.fromkeys(rights, (None,)), len(gains))
    comparison = compare_methods(marks, {"new": 1, "old": -1})
    expected = stats.ttest_1samp(gains.astype(float), 0).confidence_interval(0.95)
    for interval in (comparison.average, comparison.like):
        assert (interval.value, interval.low, interval.high) == pytest.approx((6 / 8, *expected))


def test_methods_are_paired_by_replicate_and_seed():
    """Equal effects of replicates and seeds cancel."""
    shares = np.linspace(0.2, 0.9, 6)
    right = np.arange(40) < 40 * shares[:, None]
    rights = {"one": dict.fromkeys(TASKS, right), "two": dict.fromkeys(TASKS, right[:, ::-1])}
    marks = mark_methods(rights, dict.fromkeys(rights, (0, 1)), 3)
    like, alone = (compare_methods(marks, weights).like for weights in ({"one": 1, "two": -1}, {"one": 1}))
    assert (like.value, like.low, like.high) == (0, 0, 0)
    assert alone.high - alone.low > 0.2


def test_clusters_of_examples_are_those_of_every_replicate():
    rows = made_up(adamerging=0.75, tsv_m=0.7)
    halves = {task: np.stack([np.zeros(n, int), np.arange(n) % 2], 1) for task, n in zip(TASKS, SIZES, strict=True)}
    marks = mark_replicates(rows, TASKS, halves)
    alone, halved = contrast_pair(mark_replicates(rows, TASKS, {})), contrast_pair(marks)
    assert [*map(np.ndarray.tolist, marks.clusters)] == [halves[task].tolist() for task in TASKS]
    assert halved.each == alone.each
    assert halved.committed != alone.committed
    assert halved.like == alone.like, "that interval is over tasks"


def contrast_pair(marks: Marks[str]) -> ReplicatedContrast:
    return contrast_replicates(marks, "adamerging", "tsv_m")


def test_an_order_that_depends_on_the_training_does_not_hold():
    rows = made_up(adamerging=0.75, tsv_m=0.7)
    assert contrast_replicates(mark_replicates(rows, TASKS, {}), "adamerging", "tsv_m").holds
    swapped = rows.replicate.isin((3, 4)) & rows.method.isin(("adamerging", "tsv_m"))
    low, high = (rows[~swapped & (rows.method == name) & (rows.replicate == 0)] for name in ("tsv_m", "adamerging"))
    for replicate in (3, 4):
        for task in TASKS:
            for part, name in ((low, "adamerging"), (high, "tsv_m")):
                place = (rows.replicate == replicate) & (rows.method == name) & (rows.task == task)
                source = part[part.task == task].iloc[0]
                rows.loc[place, ["correct", "right"]] = [source.correct, source.right]
    contrast = contrast_replicates(mark_replicates(rows, TASKS, {}), "adamerging", "tsv_m")
    assert contrast.same == 3
    assert not contrast.holds


@pytest.mark.parametrize("column", ["replicate", "seed"])
def test_methods_with_a_missing_run_are_refused(column: str):
    rows = made_up()
    missing = (rows.method == "samerging") & (rows[column] == 1) & (rows.replicate == 1)
    with pytest.raises(StatisticsError, match="samerging, a, replicate 1: seeds"):
        mark_replicates(rows[~missing], TASKS, {})


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
    single = variance_components(np.array([[1.0], [2.0]]))
    assert single.replicates == pytest.approx(np.sqrt(0.5))
    assert np.isnan([single.seeds, single.share]).all()
    assert np.isnan(variance_components(np.full((3, 2), 70.1)).share)


def test_every_pair_is_compared_once_those_of_samerging_and_neighbours_first():
    ranked = ["distillation", "samerging", "adamerging", "regmean", "tsv_m"]
    shown = [
        *(("samerging", name) for name in ("distillation", "adamerging", "tsv_m")),
        ("adamerging", "regmean"),
        ("regmean", "tsv_m"),
    ]
    assert list_shown(ranked) == shown
    pairs = list_pairs(ranked)
    assert pairs[: len(shown)] == shown
    assert len({frozenset(pair) for pair in pairs}) == len(pairs) == 10
    assert all(ranked.index(better) < ranked.index(worse) for better, worse in pairs[len(shown) :])


def test_the_view_separates_facts_about_methods_from_facts_about_experts():
    _, methods, experts, *_, last = view(made_up(spread=0.03), context()).sentences
    assert methods.startswith("Facts about the methods are 5 of 6 orders")
    assert "SAMerging minus AdaMerging +9.84 points" in methods
    assert ", 5 of 5" in methods
    assert "(n = 5 replicates and 2 seeds of the calibrated methods, 144 test examples)" in methods
    assert experts.startswith("Facts about these experts at most are 1 of 6 orders")
    assert "SAMerging minus Distillation +0.00 points [+0.00, +0.00], 5 of 5" in experts
    assert "over 2 tasks, 2 seeds and 5 replicates" in last


def test_the_view_says_how_much_of_the_gap_closes_on_every_training():
    rows = made_up(spread=0.03)
    averages = rows.assign(accuracy=100 * rows.correct / rows.total).groupby(["method", "replicate"]).accuracy.mean()
    floor, ceiling, main = (averages[name].to_numpy() for name in ("zeroshot", "individual", "samerging"))
    closed = 100 * (main - floor) / (ceiling - floor)
    (sentence,) = (text for text in view(rows, context()).sentences if "of the gap" in text)
    assert f"closes {closed[0]:.1f} % of the gap" in sentence
    assert f"{closed.min():.1f} to {closed.max():.1f} %, {closed.mean():.1f} % on average" in sentence


def test_a_training_without_a_gap_has_no_share_of_it():
    rows = made_up(spread=0.03)
    flat = rows.copy()
    flat.loc[rows.method == "individual", ["correct", "right"]] = rows.loc[
        rows.method == "zeroshot", ["correct", "right"]
    ].to_numpy()
    assert not [text for text in view(flat, context()).sentences if "of the gap" in text]


def test_the_view_compares_the_spread_over_replicates_with_that_over_seeds():
    rows = made_up(spread=0.03)
    study_view = view(rows, context())
    averages = rows.assign(accuracy=100 * rows.correct / rows.total).groupby(["method", "replicate", "seed"])
    table = averages.accuracy.mean()["samerging"].unstack()
    replicate_spread, seed_spread = table.mean(axis=1).std(), np.sqrt(table.var(axis=1).mean())
    assert f"SAMerging {replicate_spread:.2f} against {seed_spread:.2f} (" in study_view.sentences[3]
    row = study_view.tables["methods"].rows.set_index("Method").loc["SAMerging"]
    assert row["SD over replicates"] == f"{replicate_spread:.2f}"
    assert row["Lowest"] == f"{table.mean(axis=1).min():.1f}"
    assert row["Committed"] == f"{table.loc[0].mean():.1f}"
    assert study_view.tables["methods"].rows.set_index("Method").loc["TSV-M", "SD over seeds"] == "–"


def test_the_figure_has_a_dot_per_replicate_and_reproducible_bytes():
    drawn = view(made_up(spread=0.03), context()).figures["replicates"]
    figure, caption = drawn.figure, drawn.caption
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()][-1] == "TSV-M"
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in dots) == 5 * len(axes.get_yticks())
    assert "a dot per replicate" in caption
    redrawn = view(made_up(spread=0.03), context()).figures["replicates"].figure
    assert render_figure(figure, "svg", "x", 100) == render_figure(redrawn, "svg", "x", 100)
