"""The theory study: terms against other code, expansions of known functions, exact losses, and the view of its rows."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from torch import Tensor

from pipeline import methods
from pipeline.calibration.objectives import distillation
from pipeline.diagnostics.prediction import CORRELATION_COLUMNS
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.theory import TERMS, compute_bounds, compute_chain, compute_heterogeneity, view
from pipeline.runtime import store
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.runtime.stage import Job
from pipeline.statistics.pac_bayes import bound_risk
from pipeline.studies import theory
from pipeline.studies._theory import expand_logits, measure_chain, measure_slope, total_variation
from stages.studies import theory as stage
from tests.support import toy

METHODS = ("average", "task_arithmetic", "ties", "tsv_m", "adamerging", "distillation", "samerging")
FREE = METHODS[:4]
PARAMS = theory.Params(
    seed=0, images=4, shares=[0.1, 1.0], samples=[1, 9], prior=0.3, scales=[1e-9, 0.2], draws=3, batch=2,
    transfer_images=5, subsets=3,
)  # fmt: skip


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a merge and of an expert, [50, 4], and labels."""
    rng = torch.Generator().manual_seed(0)
    merged, teacher = torch.randn(2, 50, 4, generator=rng, dtype=torch.float64) * 3
    return merged, teacher, torch.randint(4, (50,), generator=rng)


def test_the_terms_of_the_chain_are_those_of_scipy_and_ordered(logits: tuple[Tensor, Tensor, Tensor]):
    merged, teacher, labels = logits
    terms = measure_chain(*logits)
    q, p = (scipy.special.softmax(values.numpy(), axis=1) for values in (merged, teacher))
    divergences = scipy.special.rel_entr(p, q).sum(1)
    rows = np.arange(50)
    assert terms == pytest.approx(
        {
            "risk": np.mean(1 - q[rows, labels]),
            "reference": np.mean(1 - p[rows, labels]),
            "tv": np.abs(p - q).sum(1).mean() / 2,
            "root": np.sqrt(divergences / 2).mean(),
            "kl": divergences.mean(),
            "entropy": scipy.stats.entropy(q, axis=1).mean(),
        }
    )
    assert terms["risk"] - terms["reference"] <= terms["tv"] <= terms["root"] <= (terms["kl"] / 2) ** 0.5


def test_a_merge_that_is_the_expert_is_at_no_distance(logits: tuple[Tensor, Tensor, Tensor]):
    merged, _, labels = logits
    terms = measure_chain(merged, merged, labels)
    assert (terms["tv"], terms["root"], terms["kl"]) == (0, 0, 0)
    assert terms["risk"] == terms["reference"]


def quadratic(weights: Mapping[str, Tensor]) -> Tensor:
    """Logits that are quadratic in `a`, linear in `b`."""
    return weights["a"] ** 2 + weights["b"]


def test_an_expansion_misses_the_terms_of_second_order():
    base = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 4.0]])}
    delta = {"a": torch.tensor([[2.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]])}
    rows = expand_logits(quadratic, base, delta, (0.5, 2.0))
    expected = [[s, 4 * s**2, float(np.hypot(4 * s + 4 * s**2, s))] for s in (0.5, 2.0)]
    assert rows == [pytest.approx(row) for row in expected]
    assert expand_logits(quadratic, base, {"b": delta["b"]}, (0.5,))[0][1:] == pytest.approx([0, 0.5])


def test_an_encoders_expansion_is_of_first_order(pristine_suite: Path):
    suite = SuiteFolder(pristine_suite)
    base = {name: tensor.double() for name, tensor in suite.base().items()}
    delta = {name: tensor.double() - base[name] for name, tensor in suite.expert("cats").items()}
    examples, encoder = torch.from_numpy(np.array(suite.examples("test", "cats"))), suite.suite.encoder()
    near, far = expand_logits(lambda weights: encoder(weights, examples), base, delta, (1e-4, 1e-2))
    assert near[1] / near[2] == pytest.approx(far[1] / far[2] / 100, rel=0.2)


def test_the_slope_is_that_of_a_finite_difference(logits: tuple[Tensor, Tensor, Tensor]):
    merged, teacher, _ = logits
    weights = {"a": merged.clone(), "b": torch.zeros(1, 4, dtype=torch.float64)}
    objective = distillation(2.0)
    loss, norm = measure_slope(quadratic, objective, teacher, weights, ["b"])
    steps = 1e-6 * torch.eye(4, dtype=torch.float64)
    slopes = [(objective(quadratic({**weights, "b": step[None]}), teacher) - loss) / 1e-6 for step in steps]
    assert norm == pytest.approx(sum(float(slope) ** 2 for slope in slopes), rel=1e-4)
    assert loss == pytest.approx(float(objective(quadratic(weights), teacher)))


@pytest.fixture(scope="module")
def job(pristine_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Run the stage."""
    folder = tmp_path_factory.mktemp("theory")
    for task in SuiteFolder(pristine_suite).suite.tasks:
        values = np.random.default_rng(len(task.classes)).normal(size=(12, len(task.classes))).astype(np.float32)
        store.write_array(folder / "teachers" / f"{task.name}.npy", values)
    params = {key: methods.load(key.partition(".")[2]).Params() for key in (*stage.FREE, *stage.BASELINES)}
    params |= samerging.Params().model_dump()
    params |= {"schedule.{suite}": Schedule(lr=0.01, steps=2, batch_size=2), "calibration_split": "train"}
    params |= {"precision": "float32", "samples_per_task": 6, "study.theory": PARAMS}
    inputs = (pristine_suite, folder / "teachers")
    theory_job = Job({}, params, inputs, (folder / "out" / "theory",), Resumable(folder / "cells"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        patch.chdir(toy.ROOT)
        stage.run(theory_job)
    return theory_job


@pytest.fixture
def tables(job: Job) -> dict[str, pd.DataFrame]:
    """Tables that the stage wrote."""
    return {path.stem: pd.read_csv(path, keep_default_na=False) for path in job.outputs[0].glob("*.csv")}


def task_logits(suite: SuiteFolder, scale: float, split: str, task: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of task arithmetic and of the expert on a split, and labels."""
    coefficients = torch.full((3, len(suite.suite.groups)), scale, dtype=torch.float64)
    (served,) = storage.serve(suite, Solution(coefficients))
    examples = torch.from_numpy(np.array(suite.examples(split, task)))
    head, expert = suite.heads()[task], {**suite.base(), **suite.expert(task)}
    models = (served.encoder(weights, examples) @ head.T for weights in (served.weights, expert))
    return *models, torch.from_numpy(np.array(suite.labels(split, task)))


def test_the_chain_of_a_merge_is_that_of_its_logits(tables: Mapping[str, pd.DataFrame], pristine_suite: Path):
    suite, chain = SuiteFolder(pristine_suite), tables["chain"].set_index(["method", "task"])
    assert tuple(tables["chain"]) == theory.CHAIN
    assert [*dict.fromkeys(tables["chain"].method)] == [*METHODS]
    assert tables["chain"].groupby("method").seed.first()[[*FREE]].tolist() == [""] * 4
    for task in suite.suite.task_names:
        merged, teacher, labels = task_logits(suite, 1 / 3, "validation", task)
        row = chain.loc[("average", task)]
        terms = measure_chain(merged, teacher, labels)
        assert row[[*terms]].astype(float).to_dict() == pytest.approx(terms, rel=1e-4)
        assert row.correct == int((merged.argmax(1) == labels).sum())


def test_bounds_measure_the_posterior(tables: Mapping[str, pd.DataFrame], pristine_suite: Path):
    """With hardly any noise the drawn loss of one example is its own; the prior's centre is task arithmetic."""
    bounds = tables["bounds"].set_index(["method", "k", "scale", "task"])
    assert not bounds.index.duplicated().any()
    assert len(bounds) == 3 * 2 * 2 * 3
    suite = SuiteFolder(pristine_suite)
    for task in suite.suite.task_names:
        row = bounds.loc[("task_arithmetic", 1, 1e-9, task)]
        merged, teacher, _ = task_logits(suite, 0.3, "test", task)
        distances = total_variation(merged, teacher)
        assert np.abs(distances.numpy() - row.drawn).min() < 1e-6
        assert row.prior == pytest.approx(float(distances.mean()), rel=1e-4)
        assert distances.min() - 1e-6 <= row.whole <= distances.max() + 1e-6
    assert (bounds.loc["task_arithmetic"].distance == 0).all()
    assert (bounds.loc["samerging"].distance > 0).all()
    assert (bounds.xs(9, level="k").samples == 7).all(), "a task with fewer examples uses all it has"


def test_the_spread_of_the_coefficients_matters(tables: Mapping[str, pd.DataFrame]):
    sums = tables["bounds"].groupby(["method", "scale"])[["drawn", "whole", "held"]].sum()
    assert (sums.xs(0.2, level="scale") != sums.xs(1e-9, level="scale")).all(axis=None)


def test_experts_are_compared_on_all_tasks_and_subsets(tables: Mapping[str, pd.DataFrame]):
    assert len(tables["transfer"]) == 9
    correlations = tables["correlations"]
    assert tuple(correlations) == CORRELATION_COLUMNS
    assert correlations.n.tolist() == [3, 3]
    assert [*correlations.method] == ["average", "task_arithmetic"]


@pytest.mark.usefixtures("one_process")
def test_without_subsets_nothing_is_correlated(pristine_suite: Path, job: Job, tmp_path: Path):
    simple = theory.Setting(
        pristine_suite, job.inputs[1], "task_arithmetic", methods.load("task_arithmetic").Params(),
        Schedule(lr=0.01, steps=2, batch_size=2), "train", "float32",
    )  # fmt: skip
    few = PARAMS.model_copy(update={"subsets": 0})
    transfer, correlations = theory._compare_experts(pristine_suite, simple, few, Resumable(tmp_path))
    assert (len(transfer), len(correlations)) == (9, 0)


@pytest.mark.usefixtures("one_process", "at_root")
def test_a_second_run_writes_the_same_bytes_from_stored_pieces(job: Job):
    times = {path: path.stat().st_mtime_ns for path in job.work.folder.iterdir()}
    written = {path: path.read_bytes() for path in job.outputs[0].iterdir()}
    for path in written:
        path.unlink()
    stage.run(job)
    assert {path: path.stat().st_mtime_ns for path in job.work.folder.iterdir()} == times
    assert {path: path.read_bytes() for path in job.outputs[0].iterdir()} == written


def made_up(tasks: tuple[str, ...] = ("a", "b", "c", "d")) -> dict[str, pd.DataFrame]:
    """Rows of all tables as the report reads them: errors rise with the divergence and fall with the entropy."""
    rng, chain, expansions, slopes, bounds = np.random.default_rng(0), [], [], [], []
    for place, method in enumerate(METHODS):
        seed = "" if method in FREE else 0
        for task in tasks:
            tv = 0.1 + 0.05 * place + 0.02 * rng.random()
            kl = 3 * tv**2
            root = (tv + np.sqrt(kl / 2)) / 2
            chain.append((method, seed, task, 0.1 + 0.6 * tv, 0.1, tv, root, kl, 1 - 0.1 * place, 90 - 5 * place, 100))
            expansions += [(method, seed, share, task, share**2 * rng.random(), 2 * share) for share in (0.1, 1.0, 1.5)]
            slopes.append((method, seed, task, rng.random(), 1 + rng.random()))
    for place, method in enumerate(theory.BOUNDED):
        for k in (16, 1600):
            for scale in (0.1, 0.4):
                for task in tasks:
                    losses = 0.3 + 0.02 * rng.random(3) - 0.1 * place
                    bounds.append((method, k, scale, task, min(k, 1000), 500, 7.5 * place, *losses, 0.36))
    transfer = [
        (expert, task, 90.0 if expert == task else 40 + 20 * rng.random()) for expert in tasks for task in tasks
    ]
    correlations = [
        ("subsets", "heterogeneity", name, 60, 0.25, 0.0, 0.5, low, high)
        for name, low, high in (("average", -0.1, 0.6), ("task_arithmetic", "", ""))
    ]
    return {
        name: pd.DataFrame(rows, columns=columns)
        for name, columns, rows in (
            ("chain", theory.CHAIN, chain),
            ("bounds", theory.BOUNDS, bounds),
            ("expansions", theory.EXPANSIONS, expansions),
            ("slopes", theory.SLOPES, slopes),
            ("transfer", theory.TRANSFER, transfer),
            ("correlations", CORRELATION_COLUMNS, correlations),
        )
    }


def context(tasks: tuple[str, ...] = ("a", "b", "c", "d")) -> Context:
    titles = {name: name.upper() for name in METHODS}
    params = {"study.theory": PARAMS.model_dump()}
    return Context("s", tasks, titles, 40.0, 90.0, {}, "train", "test", params, 6.5, 1)


def test_the_view_states_chain_ranks_and_bounds():
    rows = made_up()
    chain, bounds = compute_chain(rows["chain"]), compute_bounds(rows["bounds"])
    study_view = view(rows, context())
    text = "\n".join(study_view.sentences)
    risk, bound = (chain[chain.method == "average"][name].mean() for name in ("difference", "bound"))
    assert f"AVERAGE {risk:+.3f} [" in text
    assert f"at most {bound:.3f} ({bound / risk:.1f} times)" in text
    assert "holds in 28 of 28 cases" in text
    assert "the KL divergence from the experts +1.00 [+1.00, +1.00], the entropy of the predictions -1.00 " in text
    assert "+2.00 [+2.00, +2.00], which excludes zero (n = 4 tasks)" in text
    case = bounds[(bounds.method == "samerging") & (bounds.k == 1600)].iloc[0]
    assert f"k = 1,600: {case.expected:.3f} (measured {case.whole:.3f} on the whole test split" in text
    assert "TASK_ARITHMETIC, PAC-Bayes bound" in text
    assert "Rank correlation of the heterogeneity of 60 subsets" in text
    assert "average +0.25 [-0.10, +0.60], task arithmetic +0.25." in text
    assert "Theorem" not in text


def test_the_best_scale_is_chosen_and_paid_for():
    rows = made_up()["bounds"]
    case = compute_bounds(rows).set_index(["method", "k"]).loc[("distillation", 16)]
    expected = []
    for scale in (0.1, 0.4):
        part = rows[(rows.method == "distillation") & (rows.k == 16) & (rows.scale == scale)]
        expected.append(bound_risk(part.drawn.mean(), 500, 7.5 / (2 * scale**2), 64, 2).expected)
    assert case.expected == pytest.approx(min(expected))
    assert case.scale == 0.4


def test_bounds_weigh_tasks_by_their_examples():
    rows = made_up(("a", "b"))["bounds"]
    rows = rows[(rows.method == "distillation") & (rows.k == 16) & (rows.scale == 0.4)].assign(
        samples=[30, 10], drawn=[0.1, 0.5]
    )
    case = compute_bounds(rows).iloc[0]
    assert (case.n, case.drawn) == (40, pytest.approx(0.2))


def test_a_merge_no_worse_than_its_experts_has_no_ratio():
    rows = made_up()
    rows["chain"].loc[rows["chain"].method == "ties", "risk"] = 0.05
    study_view = view(rows, context())
    table = study_view.tables["chain"].rows.set_index("Method")
    assert (table.loc["TIES", "Times"], table.loc["TIES", "Risk"]) == ("", "-0.050")
    assert render_figure(study_view.figures["theory"].figure, "svg", "x", 100)


def test_the_split_of_calibration_is_named_where_it_is_measured():
    captions = {
        split: view(made_up(), replace(context(), calibration_split=split)).tables["chain"].caption
        for split in ("train", "validation")
    }
    assert {split: "SPLIT OF CALIBRATION" in text for split, text in captions.items()} == {
        "train": False, "validation": True,
    }  # fmt: skip


def test_both_references_of_heterogeneity_have_the_same_mean():
    table = compute_heterogeneity(
        made_up()["transfer"].assign(accuracy=lambda rows: rows.accuracy + (rows.task == "a"))
    )
    assert table.loc["task"].mean() == pytest.approx(table.loc["expert"].mean())
    assert table.loc["task"].tolist() != pytest.approx(table.loc["expert"].tolist())


def test_ranks_need_different_errors():
    rows = made_up()
    rows["chain"]["correct"] = 50
    assert any("undefined: errors are equal" in sentence for sentence in view(rows, context()).sentences)


def test_the_report_of_the_stage_has_every_table(tables: Mapping[str, pd.DataFrame], pristine_suite: Path):
    named = context(SuiteFolder(pristine_suite).suite.task_names)
    study_view = view(tables, named)
    assert [*study_view.tables] == ["chain", "bounds", "linear"]
    assert [frame.rows.shape for frame in study_view.tables.values()] == [(7, 9), (6, 11), (7, 3)]
    assert render_figure(study_view.figures["theory"].figure, "svg", "x", 100).startswith(b"<?xml")
    assert len(TERMS) == 4
