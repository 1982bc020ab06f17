"""The study of conventions: every merge under all four, and the view of made-up scores."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pipeline import methods
from pipeline.merges import storage
from pipeline.methods import esm, iso_c, opcm
from pipeline.models.suite import SuiteFolder
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.conventions import view
from pipeline.runtime import store
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.runtime.stage import Job
from pipeline.steps import evaluate
from pipeline.steps import merge as merge_step
from pipeline.steps.calibrate import Setting
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies._trials import score_trial
from pipeline.studies.conventions import COLUMNS, Params, format_conventions, list_conventions, score_conventions
from pipeline.toolbox.conventions import Conventions
from stages.studies import conventions as stage
from tests.support import toy

pytestmark = pytest.mark.usefixtures("one_process")

CONVENTIONS = ("split/average", "split/decompose", "fused/average", "fused/decompose")
UNUSED = Schedule(lr=1.0, steps=1, batch_size=1)
TASKS, EXAMPLES = ("a", "b"), (64, 50)
SEEDS: Mapping[str, tuple[int | None, ...]] = {"iso_c": (None,), "tsv_m": (None,), "opcm": (0, 1, 2, 3), "esm": (0, 1)}
DEFAULTS = {"iso_c": "split/average", "tsv_m": "split/average", "opcm": "split/average", "esm": "fused/average"}
SHARES = {
    "iso_c": (0.80, 0.81, 0.50, 0.50),
    "tsv_m": (0.70, 0.70, 0.70, 0.70),
    "opcm": (0.60, 0.60, 0.60, 0.61),
    "esm": (0.60, 0.75, 0.58, 0.60),
}
"""Share of right examples under each convention."""


@pytest.fixture
def setting(pristine_suite: Path, tmp_path: Path) -> Setting:
    """ESM on the tiny suite."""
    for task in toy.TASKS:
        store.write_array(
            tmp_path / f"teachers/{task}.npy", compute_teacher_logits(pristine_suite, task, "train").numpy()
        )
    return Setting(pristine_suite, tmp_path / "teachers", "esm", esm.Params(samples=4), UNUSED, "train", "float32")


def score_methods(setting: Setting, folder: Path, *names: str) -> pd.DataFrame:
    """Score these methods, the random ones with two seeds."""
    free = {"iso_c": iso_c.Params(scale=1.1), "opcm": opcm.Params(seeds=[3, 5])}
    rows = score_conventions(free, setting, Params(methods=[*names]), 6, [1, 2], "test", Resumable(folder / "cells"))
    return pd.DataFrame(rows, columns=COLUMNS)


def test_every_method_runs_under_every_convention_with_its_seeds(setting: Setting, tmp_path: Path):
    rows = score_methods(setting, tmp_path, "iso_c", "opcm", "esm")
    runs = rows[["setting", "method", "seed"]].drop_duplicates()
    expected = [(name, None, "iso_c") for name in CONVENTIONS]
    expected += [(name, seed, method) for method, seeds in (("opcm", (3, 5)), ("esm", (1, 2))) for name in CONVENTIONS
                 for seed in seeds]  # fmt: skip
    observed = [(row.setting, None if np.isnan(row.seed) else int(row.seed), row.method) for row in runs.itertuples()]
    assert observed == expected
    assert {*rows[rows.default == 1].groupby("method").setting.unique().map(tuple).items()} == {
        ("iso_c", ("split/average",)), ("opcm", ("split/average",)), ("esm", ("fused/average",))
    }  # fmt: skip
    assert (rows[rows.method == "esm"].k == 6).all()
    assert (rows[rows.method == "esm"].samples == 4).all()
    assert not rows[rows.method != "esm"].k.any()


def test_a_merge_equals_that_of_its_stage_with_the_same_parameters(setting: Setting, tmp_path: Path):
    rows = score_methods(setting, tmp_path, "iso_c", "opcm", "esm")
    suite = SuiteFolder(setting.suite)
    for params in list_conventions(opcm.Params(seeds=[3, 5])):
        storage.save(
            merge_step.merge_data_free(opcm, suite.vectors(), params, suite.suite.task_names),
            tmp_path / format_conventions(params),
        )
        answers = evaluate.predict_seeds(setting.suite, tmp_path / format_conventions(params), "test", "x")
        part = rows[(rows.method == "opcm") & (rows.setting == format_conventions(params))]
        for index, seed in enumerate((3, 5)):
            counts = part[part.seed == seed].set_index("task")[["correct", "total"]]
            assert {task: (*row,) for task, row in counts.iterrows()} == answers.counts(index)
    for params in list_conventions(esm.Params(samples=4)):
        same = Setting(setting.suite, setting.teachers, "esm", params, UNUSED, "train", "float32")
        part = rows[(rows.method == "esm") & (rows.setting == format_conventions(params)) & (rows.seed == 2)]
        expected = score_trial(same, 6, 2, "test")
        assert {row.task: [row.samples, row.correct, row.total, row.right] for row in part.itertuples()} == expected


def test_a_smaller_grid_has_the_same_rows(setting: Setting, tmp_path: Path):
    whole, part = (score_methods(setting, tmp_path, *names) for names in (("iso_c", "opcm", "esm"), ("opcm", "iso_c")))
    assert [*dict.fromkeys(part.method)] == ["opcm", "iso_c"]
    pd.testing.assert_frame_equal(
        part[part.method == "iso_c"].reset_index(drop=True),
        whole[whole.method == "iso_c"].reset_index(drop=True),
        check_dtype=False,
    )


def test_the_stage_writes_the_rows_of_its_grid(setting: Setting, tmp_path: Path):
    params = {key: methods.load(key.partition(".")[2]).Params() for key in stage.FREE}
    params |= {"calibrate.esm": setting.params, "schedule.{suite}": UNUSED, "calibration_split": "train"}
    params |= {"precision": "float32", "study.conventions": Params(methods=["tsv_m", "esm"])}
    params |= {"samples_per_task": 6, "seeds": [1], "evaluation_split": "test"}
    output = tmp_path / "conventions"
    stage.run(Job({}, params, (setting.suite, setting.teachers), (output,), Resumable(tmp_path / "cells")))
    rows = pd.read_csv(output / "rows.csv")
    assert tuple(rows) == COLUMNS
    assert len(rows) == 2 * 4 * len(toy.TASKS)


def test_the_grid_allows_exactly_the_methods_with_conventions():
    possible = get_args(get_args(Params.model_fields["methods"].annotation)[0])
    assert {*possible} == {name for name in methods.names() if issubclass(methods.load(name).Params, Conventions)}
    assert [key.partition(".")[2] for key in (*stage.FREE, "calibrate.esm")] == [*possible]
    for wrong in (["ties", "esm"], ["esm"]):
        with pytest.raises(ValidationError):
            Params(methods=wrong)


def made_up() -> pd.DataFrame:
    """Scores in which Iso-C loses its lead over TSV-M where q, k and v are fused."""
    rng, rows = np.random.default_rng(5), []
    difficulty = {task: rng.random(size) for task, size in zip(TASKS, EXAMPLES, strict=True)}
    for method, seeds in SEEDS.items():
        for convention, share in zip(CONVENTIONS, SHARES[method], strict=True):
            for seed in seeds:
                for task, levels in difficulty.items():
                    right = levels + (0 if seed is None else 0.1 * rng.normal(size=levels.size)) < share
                    bits = np.packbits(right).tobytes().hex()
                    counts = (int(right.sum()), len(right), bits, int(convention == DEFAULTS[method]))
                    rows.append((convention, 0, "s", method, task, seed, 0, *counts))
    return pd.DataFrame(rows, columns=COLUMNS)


def context() -> Context:
    titles = {name: methods.load(name).TITLE for name in methods.names()}
    return Context("s", TASKS, titles, 40.0, 90.0, dict.fromkeys(TASKS, 90.0), "train", "test", {}, 6.5, 1)


def test_the_view_recovers_the_planted_changes():
    rows = made_up()
    study_view = view(rows, context())
    sentences = study_view.sentences
    averages = rows.assign(accuracy=100 * rows.correct / rows.total).groupby(["method", "setting"]).accuracy.mean()
    change = averages["iso_c", "fused/average"] - averages["iso_c", "split/average"]
    assert f"; fused/average: {change:+.2f} points [" in sentences[0]
    assert sentences[0].startswith(
        f"Iso-C has {averages['iso_c', 'split/average']:.1f} % with its default split/average;"
    )
    assert sentences[0].endswith("which excludes zero (n = 114 test examples).")
    assert "default fused/average" in sentences[3]
    assert sentences[3].endswith("(n = 2 seeds, 114 test examples).")
    assert "against it, split/decompose: +0.00 points [+0.00, +0.00], which includes zero" in sentences[1]
    assert "Iso-C rank 1 in 2 and rank 4 in 2" in sentences[5]
    pair = next(text for text in sentences if text.startswith("Iso-C minus TSV-M"))
    assert re.search(
        r": \+\S+ \[\+.*\] with split/decompose and -\S+ \[-.*-.*\] with fused/decompose; the change", pair
    )
    assert "OPCM 4, ESM 2" in sentences[-1]
    pairs = study_view.tables["pairs"].rows.set_index("Pair")
    assert pairs.loc["Iso-C minus TSV-M", "Order"] == "changes"
    assert pairs.loc["TSV-M minus OPCM", "Order"] == "stays"
    ranks = study_view.tables["ranks"].rows.set_index("Method")
    assert ranks.loc["Iso-C"].tolist() == [1, 1, 4, 4]


def test_tied_methods_share_the_better_rank():
    rows = made_up()
    twin = rows[rows.method == "tsv_m"].assign(method="wudi")
    ranks = view(pd.concat([rows, twin]), context()).tables["ranks"].rows.set_index("Method")
    assert ranks.loc["TSV-M"].tolist() == ranks.loc["WUDI-Merging"].tolist()


def test_the_view_names_no_pair_if_no_order_changes():
    rows = made_up()
    steady = rows[rows.method.isin(("tsv_m", "opcm"))]
    sentences = view(steady, context()).sentences
    assert "0 of 1 pairs of methods change order" in " ".join(sentences)
    assert not any(text.startswith("TSV-M minus OPCM") for text in sentences)


def test_the_figure_has_a_line_per_method_and_reproducible_bytes():
    figures = [view(made_up(), context()).figures["conventions"].figure for _ in range(2)]
    left, _ = figures[0].axes
    assert len(left.lines) == len(SEEDS)
    assert left.lines[1].get_xydata()[:, 1] == pytest.approx([left.lines[1].get_xydata()[0, 1]] * 4)
    assert render_figure(figures[0], "svg", "x", 100) == render_figure(figures[1], "svg", "x", 100)
